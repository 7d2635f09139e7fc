"""Adaptive classification: use the smallest prefix whose confidence passes its threshold.

`learn_thresholds` (the paper's) and `optimize_thresholds` (the best accuracy at a number of dims)
take logits of held-out examples as arrays and give a `CascadePolicy`. `cascade_curve` averages over
random splits. `AdaptiveClassifier` is the cascade as a Keras layer.
"""

from mrl_keras.cascade.adaptive_classifier import AdaptiveClassifier
from mrl_keras.cascade.curve import CurveOptions, CurveRow, cascade_curve
from mrl_keras.cascade.greedy import calibrate_temperatures, learn_thresholds
from mrl_keras.cascade.joint import FrontPoint, optimize_thresholds, threshold_front
from mrl_keras.cascade.logits import flipped_views
from mrl_keras.cascade.policy import CascadeAnswer, CascadePolicy

__all__ = [
    "AdaptiveClassifier",
    "CascadeAnswer",
    "CascadePolicy",
    "CurveOptions",
    "CurveRow",
    "FrontPoint",
    "calibrate_temperatures",
    "cascade_curve",
    "flipped_views",
    "learn_thresholds",
    "optimize_thresholds",
    "threshold_front",
]
