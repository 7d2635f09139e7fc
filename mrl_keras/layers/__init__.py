"""Keras layers over nested prefixes."""

from mrl_keras.layers.gathered_batch import GatheredBatch
from mrl_keras.layers.masked_lm_head import MaskedLMHead
from mrl_keras.layers.matryoshka_dense import MatryoshkaDense
from mrl_keras.layers.matryoshka_pairwise_cosine import MatryoshkaPairwiseCosine
from mrl_keras.layers.matryoshka_similarity import MatryoshkaSimilarity
from mrl_keras.layers.prefix_codebook import PrefixCodebook
from mrl_keras.layers.prefix_normalization import PrefixNormalization, normalize_prefix

__all__ = [
    "GatheredBatch",
    "MaskedLMHead",
    "MatryoshkaDense",
    "MatryoshkaPairwiseCosine",
    "MatryoshkaSimilarity",
    "PrefixCodebook",
    "PrefixNormalization",
    "normalize_prefix",
]
