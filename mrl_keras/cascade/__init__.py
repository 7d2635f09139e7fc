"""Adaptive classification: use the smallest prefix whose confidence passes its threshold.

Thresholds are learned from logits of held-out examples, arrays in and a `CascadePolicy` out:
`learn_thresholds` as in the paper, `optimize_thresholds` for the best accuracy at a number of dims.
`cascade_curve` averages over random splits. `AdaptiveClassifier` is the cascade as a Keras layer.
"""

from mrl_keras.cascade.adaptive_classifier import AdaptiveClassifier
from mrl_keras.cascade.curve import CurveRow, cascade_curve, flipped_views, write_curve
from mrl_keras.cascade.greedy import calibrate_temperatures, learn_thresholds
from mrl_keras.cascade.joint import FrontPoint, best_within, optimize_thresholds, threshold_front
from mrl_keras.cascade.policy import CascadeAnswer, CascadePolicy

__all__ = [
    "AdaptiveClassifier",
    "CascadeAnswer",
    "CascadePolicy",
    "CurveRow",
    "FrontPoint",
    "best_within",
    "calibrate_temperatures",
    "cascade_curve",
    "flipped_views",
    "learn_thresholds",
    "optimize_thresholds",
    "threshold_front",
    "write_curve",
]
