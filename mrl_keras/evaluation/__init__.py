"""Evaluators over arrays of embeddings and logits, at every prefix."""

from mrl_keras.evaluation.accuracy_table import AccuracyTable
from mrl_keras.evaluation.analysis.cosine_spans import CosineSpan, cosine_spans
from mrl_keras.evaluation.analysis.disagreement import (
    class_accuracy,
    class_trends,
    first_correct_dim,
    oracle_accuracy,
    relative_class_accuracy,
)
from mrl_keras.evaluation.analysis.grad_cam import grad_cam, overlay
from mrl_keras.evaluation.cache import ResultCache, content_key
from mrl_keras.evaluation.classification.few_shot import FewShotAccuracy, few_shot_accuracy
from mrl_keras.evaluation.classification.linear import head_accuracy, linear_probe_accuracy
from mrl_keras.evaluation.classification.long_tail import LongTailAccuracy, long_tail_accuracy
from mrl_keras.evaluation.classification.neighbours import among_votes, knn_accuracy, majority_vote
from mrl_keras.evaluation.classification.robustness import (
    RobustnessRow,
    class_mapping,
    mapped_labels,
    robustness_accuracy,
)
from mrl_keras.evaluation.classification.superclass import (
    hypernyms_at,
    read_hierarchy,
    superclass_accuracy,
    superclasses_of,
)
from mrl_keras.evaluation.classification.zero_shot import TEMPLATES, prompts, zero_shot_accuracy
from mrl_keras.evaluation.evaluators import (
    Cascade,
    Disagreement,
    FewShot,
    LinearHead,
    LinearProbe,
    NearestNeighbours,
    Retrieval,
    Superclasses,
)
from mrl_keras.evaluation.line_panels import line_panels
from mrl_keras.evaluation.retrieval.cost import RetrievalCost, retrieval_cost
from mrl_keras.evaluation.retrieval.graded import ndcg, pair_recall
from mrl_keras.evaluation.retrieval.tables import (
    adaptive_grid,
    exact_retrieval_table,
    plan_retrieval_table,
    shortlist_lengths,
)
from mrl_keras.evaluation.run import Outputs, collect, evaluate
from mrl_keras.evaluation.text.similarity import prefix_cosines, rank_correlation, spearman

__all__ = [
    "AccuracyTable",
    "Cascade",
    "CosineSpan",
    "Disagreement",
    "FewShot",
    "FewShotAccuracy",
    "LinearHead",
    "LinearProbe",
    "LongTailAccuracy",
    "NearestNeighbours",
    "Outputs",
    "ResultCache",
    "Retrieval",
    "RetrievalCost",
    "RobustnessRow",
    "Superclasses",
    "TEMPLATES",
    "adaptive_grid",
    "among_votes",
    "class_accuracy",
    "class_mapping",
    "class_trends",
    "collect",
    "content_key",
    "cosine_spans",
    "evaluate",
    "exact_retrieval_table",
    "few_shot_accuracy",
    "first_correct_dim",
    "grad_cam",
    "head_accuracy",
    "hypernyms_at",
    "knn_accuracy",
    "line_panels",
    "linear_probe_accuracy",
    "long_tail_accuracy",
    "majority_vote",
    "mapped_labels",
    "ndcg",
    "oracle_accuracy",
    "overlay",
    "pair_recall",
    "plan_retrieval_table",
    "prefix_cosines",
    "prompts",
    "read_hierarchy",
    "rank_correlation",
    "relative_class_accuracy",
    "retrieval_cost",
    "robustness_accuracy",
    "shortlist_lengths",
    "spearman",
    "superclass_accuracy",
    "superclasses_of",
    "zero_shot_accuracy",
]
