"""Keras metrics for each prefix of a nested output."""

from mrl_keras.metrics.prefix_metric import MeanLoss, PrefixMetric, per_prefix

__all__ = ["MeanLoss", "PrefixMetric", "per_prefix"]
