"""Keras metrics for each prefix of a nested output."""

from mrl_keras.metrics.in_batch_accuracy import InBatchAccuracy
from mrl_keras.metrics.masked_lm_accuracy import MaskedLMAccuracy
from mrl_keras.metrics.prefix_metric import PrefixMetric, per_prefix
from mrl_keras.metrics.prefix_order import PrefixOrder

__all__ = ["InBatchAccuracy", "MaskedLMAccuracy", "PrefixMetric", "PrefixOrder", "per_prefix"]
