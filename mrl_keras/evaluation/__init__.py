"""Evaluators over arrays of embeddings and logits, at every prefix."""

from mrl_keras.evaluation.accuracy_table import AccuracyTable
from mrl_keras.evaluation.linear import head_accuracy, linear_probe_accuracy
from mrl_keras.evaluation.neighbours import knn_accuracy, majority_vote

__all__ = [
    "AccuracyTable",
    "head_accuracy",
    "knn_accuracy",
    "linear_probe_accuracy",
    "majority_vote",
]
