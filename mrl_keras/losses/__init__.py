"""Keras losses over nested prefixes."""

from mrl_keras.losses.matryoshka_loss import MatryoshkaLoss, weighted_prefix_sum
from mrl_keras.losses.smoothed_crossentropy import (
    SmoothedSparseCategoricalCrossentropy,
    smoothed_sparse_crossentropy,
)

__all__ = [
    "MatryoshkaLoss",
    "SmoothedSparseCategoricalCrossentropy",
    "smoothed_sparse_crossentropy",
    "weighted_prefix_sum",
]
