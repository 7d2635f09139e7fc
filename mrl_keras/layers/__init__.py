"""Keras layers over nested prefixes."""

from mrl_keras.layers.masked_lm_head import MaskedLMHead
from mrl_keras.layers.matryoshka_cosine import MatryoshkaCosine
from mrl_keras.layers.matryoshka_dense import MatryoshkaDense
from mrl_keras.layers.matryoshka_similarity import MatryoshkaSimilarity
from mrl_keras.layers.nested_softmax import nested_label_scores
from mrl_keras.layers.prefix_normalization import PrefixNormalization, normalize_prefix

__all__ = [
    "MaskedLMHead",
    "MatryoshkaCosine",
    "MatryoshkaDense",
    "MatryoshkaSimilarity",
    "PrefixNormalization",
    "nested_label_scores",
    "normalize_prefix",
]
