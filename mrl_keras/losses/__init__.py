"""Keras losses: Eq. 1 over nested prefixes, and losses to put inside it."""

from mrl_keras.losses.cosent import CoSENT
from mrl_keras.losses.masked_lm_crossentropy import MaskedLMCrossentropy
from mrl_keras.losses.matryoshka_loss import MatryoshkaLoss
from mrl_keras.losses.smoothed_crossentropy import SmoothedSparseCategoricalCrossentropy
from mrl_keras.losses.symmetric_contrastive import SymmetricContrastive

__all__ = [
    "CoSENT",
    "MaskedLMCrossentropy",
    "MatryoshkaLoss",
    "SmoothedSparseCategoricalCrossentropy",
    "SymmetricContrastive",
]
