"""Nested retrieval over arrays, without models: exact, adaptive and funnel search."""

from mrl_keras.retrieval.bulk.folder import load_bulk_search
from mrl_keras.retrieval.bulk.search import bulk_search
from mrl_keras.retrieval.cost import index_bytes, mflops_per_query
from mrl_keras.retrieval.exact.search import ExactResult, exact_search
from mrl_keras.retrieval.fanout import merge_results, shard_plan
from mrl_keras.retrieval.index.build import IndexOptions
from mrl_keras.retrieval.index.nested_index import NestedIndex
from mrl_keras.retrieval.index.results import CertifiedResult, PrunedResult, SearchResult
from mrl_keras.retrieval.metrics import (
    labels_at,
    mean_average_precision,
    precision_at_k,
    ranking_metrics,
    recall_at_k,
    top_k_accuracy,
)
from mrl_keras.retrieval.partition.parameters import PartitionParameters
from mrl_keras.retrieval.partition.searcher import PartitionSearcher
from mrl_keras.retrieval.plan import SearchPlan
from mrl_keras.retrieval.quantized import QuantizedRows
from mrl_keras.retrieval.scann.parameters import ScannParameters, scann_parameters
from mrl_keras.retrieval.scann.searcher import ScannSearcher
from mrl_keras.retrieval.signs import SignSearcher
from mrl_keras.retrieval.tuning.points import TuningPoint, pareto_front
from mrl_keras.retrieval.tuning.space import TuningSpace
from mrl_keras.retrieval.tuning.tune import (
    TuningOptions,
    TuningResult,
    measure_plans,
    tune,
)

__all__ = [
    "CertifiedResult",
    "ExactResult",
    "IndexOptions",
    "NestedIndex",
    "PartitionParameters",
    "PartitionSearcher",
    "PrunedResult",
    "QuantizedRows",
    "ScannParameters",
    "ScannSearcher",
    "SearchPlan",
    "SearchResult",
    "SignSearcher",
    "TuningOptions",
    "TuningPoint",
    "TuningResult",
    "TuningSpace",
    "bulk_search",
    "exact_search",
    "index_bytes",
    "labels_at",
    "load_bulk_search",
    "mean_average_precision",
    "measure_plans",
    "merge_results",
    "mflops_per_query",
    "pareto_front",
    "precision_at_k",
    "ranking_metrics",
    "recall_at_k",
    "scann_parameters",
    "shard_plan",
    "top_k_accuracy",
    "tune",
]
