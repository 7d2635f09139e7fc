"""Nested retrieval over arrays: exact, adaptive, funnel; it knows no model."""

from mrl_keras.retrieval.exact import ExactResult, exact_search
from mrl_keras.retrieval.nested_index import NestedIndex, SearchResult
from mrl_keras.retrieval.plan import SearchPlan
from mrl_keras.retrieval.scann_index import ScannParameters, ScannShortlist, scann_parameters

__all__ = [
    "ExactResult",
    "NestedIndex",
    "ScannParameters",
    "ScannShortlist",
    "SearchPlan",
    "SearchResult",
    "exact_search",
    "scann_parameters",
]
