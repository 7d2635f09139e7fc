"""Matryoshka Representation Learning for TensorFlow and Keras 3 (arXiv 2205.13147).

Train: `NestingDims` are the prefix sizes; a head (`MatryoshkaDense` for classes,
`MatryoshkaSimilarity` or `MatryoshkaPairwiseCosine` for pairs, `MaskedLMHead` for masked language
models) gives outputs for all prefixes; `MatryoshkaLoss` wraps the loss of one prefix, and
`per_prefix` makes a metric for each.

Use: `normalize_prefix(embeddings, dim)` cuts embeddings to a prefix and normalises it, so that
inner products are cosines.

Imported by name: `mrl_keras.models`, `mrl_keras.data`, `mrl_keras.retrieval`, `mrl_keras.cascade`,
`mrl_keras.baselines`, `mrl_keras.evaluation`, `mrl_keras.distribution`, `mrl_keras.export`.
"""

from mrl_keras.layers import (
    GatheredBatch,
    MaskedLMHead,
    MatryoshkaDense,
    MatryoshkaPairwiseCosine,
    MatryoshkaSimilarity,
    PrefixCodebook,
    PrefixNormalization,
    normalize_prefix,
)
from mrl_keras.losses import (
    FAMO,
    AdaLoss,
    CoSENT,
    KeptSimilarities,
    MaskedLMCrossentropy,
    MatryoshkaLoss,
    PrefixLosses,
    RecallAtK,
    SelfDistillation,
    SmoothedSparseCategoricalCrossentropy,
    SoftOptimalUncertainty,
    SymmetricContrastive,
    stack_targets,
)
from mrl_keras.metrics import (
    InBatchAccuracy,
    MaskedLMAccuracy,
    PrefixMetric,
    PrefixOrder,
    per_prefix,
)
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register_later
from mrl_keras.version import __version__

register_later()

__all__ = [
    "FAMO",
    "AdaLoss",
    "CoSENT",
    "GatheredBatch",
    "InBatchAccuracy",
    "KeptSimilarities",
    "MaskedLMAccuracy",
    "MaskedLMCrossentropy",
    "MaskedLMHead",
    "MatryoshkaDense",
    "MatryoshkaLoss",
    "MatryoshkaPairwiseCosine",
    "MatryoshkaSimilarity",
    "NestingDims",
    "PrefixCodebook",
    "PrefixLosses",
    "PrefixMetric",
    "PrefixNormalization",
    "PrefixOrder",
    "RecallAtK",
    "SelfDistillation",
    "SmoothedSparseCategoricalCrossentropy",
    "SoftOptimalUncertainty",
    "SymmetricContrastive",
    "__version__",
    "normalize_prefix",
    "per_prefix",
    "stack_targets",
]
