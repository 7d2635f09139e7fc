"""Keras metrics for each prefix of a nested output."""

from mrl_keras.metrics.masked_lm_accuracy import MaskedLMAccuracy
from mrl_keras.metrics.prefix_metric import MeanLoss, PrefixMetric, per_prefix

__all__ = ["MaskedLMAccuracy", "MeanLoss", "PrefixMetric", "per_prefix"]
