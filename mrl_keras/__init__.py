"""Matryoshka Representation Learning for TensorFlow and Keras 3 (arXiv 2205.13147).

The layers, losses and metrics are here; `mrl_keras.retrieval`, `mrl_keras.evaluation`,
`mrl_keras.models`, `mrl_keras.data` and `mrl_keras.export` are imported by name.
"""

from mrl_keras.layers import (
    MatryoshkaDense,
    MatryoshkaSimilarity,
    PrefixNormalization,
    normalize_prefix,
)
from mrl_keras.losses import (
    MatryoshkaLoss,
    SmoothedSparseCategoricalCrossentropy,
    SymmetricContrastive,
)
from mrl_keras.metrics import PrefixMetric, per_prefix
from mrl_keras.nesting import NestingDims
from mrl_keras.version import __version__

__all__ = [
    "MatryoshkaDense",
    "MatryoshkaLoss",
    "MatryoshkaSimilarity",
    "NestingDims",
    "PrefixMetric",
    "PrefixNormalization",
    "SmoothedSparseCategoricalCrossentropy",
    "SymmetricContrastive",
    "__version__",
    "normalize_prefix",
    "per_prefix",
]
