"""Keras losses: Eq. 1 over nested prefixes, losses to put inside it, weights that adapt."""

from mrl_keras.losses.cosent import CoSENT
from mrl_keras.losses.kept_similarities import KeptSimilarities
from mrl_keras.losses.masked_lm_crossentropy import MaskedLMCrossentropy
from mrl_keras.losses.matryoshka_loss import MatryoshkaLoss
from mrl_keras.losses.prefix_losses import PrefixLosses
from mrl_keras.losses.prefix_weighting import PrefixWeighting
from mrl_keras.losses.recall_at_k import RecallAtK
from mrl_keras.losses.self_distillation import SelfDistillation
from mrl_keras.losses.smoothed_crossentropy import SmoothedSparseCategoricalCrossentropy
from mrl_keras.losses.symmetric_contrastive import SymmetricContrastive
from mrl_keras.losses.weightings import FAMO, AdaLoss, SoftOptimalUncertainty
from mrl_keras.targets import stack_targets

__all__ = [
    "FAMO",
    "AdaLoss",
    "CoSENT",
    "KeptSimilarities",
    "MaskedLMCrossentropy",
    "MatryoshkaLoss",
    "PrefixLosses",
    "PrefixWeighting",
    "RecallAtK",
    "SelfDistillation",
    "SmoothedSparseCategoricalCrossentropy",
    "SoftOptimalUncertainty",
    "SymmetricContrastive",
    "stack_targets",
]
