"""Keras losses over nested prefixes."""

from mrl_keras.losses.masked_lm_crossentropy import MaskedLMCrossentropy
from mrl_keras.losses.matryoshka_loss import MatryoshkaLoss, weighted_prefix_sum
from mrl_keras.losses.pair_ranking import PairRanking, pair_ranking
from mrl_keras.losses.smoothed_crossentropy import (
    SmoothedSparseCategoricalCrossentropy,
    smoothed_sparse_crossentropy,
)
from mrl_keras.losses.symmetric_contrastive import SymmetricContrastive, symmetric_contrastive

__all__ = [
    "MaskedLMCrossentropy",
    "MatryoshkaLoss",
    "PairRanking",
    "SmoothedSparseCategoricalCrossentropy",
    "SymmetricContrastive",
    "pair_ranking",
    "smoothed_sparse_crossentropy",
    "symmetric_contrastive",
    "weighted_prefix_sum",
]
