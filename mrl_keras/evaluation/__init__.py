"""Evaluators over arrays of embeddings and logits, at every prefix."""

from mrl_keras.evaluation.accuracy_table import AccuracyTable
from mrl_keras.evaluation.cosine_spans import CosineSpan, cosine_spans
from mrl_keras.evaluation.few_shot import FewShotAccuracy, few_shot_accuracy
from mrl_keras.evaluation.linear import head_accuracy, linear_probe_accuracy
from mrl_keras.evaluation.neighbours import knn_accuracy, majority_vote
from mrl_keras.evaluation.retrieval_tables import (
    adaptive_grid,
    exact_retrieval_table,
    plan_retrieval_table,
    shortlist_lengths,
)

__all__ = [
    "AccuracyTable",
    "CosineSpan",
    "FewShotAccuracy",
    "adaptive_grid",
    "cosine_spans",
    "exact_retrieval_table",
    "few_shot_accuracy",
    "head_accuracy",
    "knn_accuracy",
    "linear_probe_accuracy",
    "majority_vote",
    "plan_retrieval_table",
    "shortlist_lengths",
]
