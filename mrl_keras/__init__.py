"""Matryoshka Representation Learning for TensorFlow and Keras 3 (arXiv 2205.13147).

The layers, losses and metrics are here; `mrl_keras.retrieval`, `mrl_keras.evaluation`,
`mrl_keras.models`, `mrl_keras.data` and `mrl_keras.export` are imported by name.
"""

from mrl_keras.layers import (
    MaskedLMHead,
    MatryoshkaCosine,
    MatryoshkaDense,
    MatryoshkaSimilarity,
    PrefixNormalization,
    normalize_prefix,
)
from mrl_keras.losses import (
    MaskedLMCrossentropy,
    MatryoshkaLoss,
    PairRanking,
    SmoothedSparseCategoricalCrossentropy,
    SymmetricContrastive,
)
from mrl_keras.metrics import PrefixMetric, per_prefix
from mrl_keras.metrics.masked_lm_accuracy import MaskedLMAccuracy
from mrl_keras.nesting import NestingDims
from mrl_keras.version import __version__

__all__ = [
    "MaskedLMAccuracy",
    "MaskedLMCrossentropy",
    "MaskedLMHead",
    "MatryoshkaCosine",
    "MatryoshkaDense",
    "MatryoshkaLoss",
    "MatryoshkaSimilarity",
    "NestingDims",
    "PairRanking",
    "PrefixMetric",
    "PrefixNormalization",
    "SmoothedSparseCategoricalCrossentropy",
    "SymmetricContrastive",
    "__version__",
    "normalize_prefix",
    "per_prefix",
]
