"""The relevant rows of each query, and metrics of a ranking by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from mrl_keras.retrieval.arrays import PAD_INDEX
from mrl_keras.retrieval.metrics import average_precision

_METRIC = re.compile(r"(mAP|recall)@([1-9]\d*)")


class RankingMetric:
    """A metric by its name: "mAP@k" or "recall@k".

    Attributes:
        name: str, the name.
        k: int.
        is_recall: bool.
    """

    def __init__(self, name: str):
        match = _METRIC.fullmatch(str(name))
        if match is None:
            raise ValueError(f'`metric` must be "mAP@k" or "recall@k". Received {name!r}.')
        self.name, self.k = match[0], int(match[2])
        self.is_recall = match[1] == "recall"

    def values(self, relevance: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The metric of each query; its mean is the metric.

        Args:
            relevance: bool (queries, k), whether each retrieved row is relevant, best first.
            wanted: int (queries,), how many rows are relevant to each query. Recall leaves out
                queries that want none.

        Returns:
            float64 (counted queries,).
        """
        if not self.is_recall:
            return average_precision(relevance, self.k)
        some = wanted > 0
        return relevance[some].sum(axis=1) / wanted[some]


class Relevance:
    """Relevant (query, row) pairs. Make one with `by_labels` or `by_indices`.

    Attributes:
        wanted: int (queries,), how many rows are relevant to each query.
    """

    def __init__(self, is_relevant, wanted: np.ndarray):
        self._is_relevant = is_relevant
        self.wanted = wanted

    def at(self, indices: np.ndarray) -> np.ndarray:
        """bool like `indices` (queries, k): whether these rows are relevant; -1 never is."""
        return self._is_relevant(indices) & (indices != PAD_INDEX)

    @classmethod
    def by_labels(cls, query_labels, row_labels, n_queries: int, n_rows: int) -> Relevance:
        """Rows of the query's label are relevant."""
        query_labels, row_labels = np.asarray(query_labels), np.asarray(row_labels)
        if query_labels.shape != (n_queries,) or row_labels.shape != (n_rows,):
            raise ValueError(
                f"`labels` must be a pair: labels of the {n_queries} queries and of the {n_rows} "
                f"rows. Received the shapes {query_labels.shape} and {row_labels.shape}."
            )
        names, counts = np.unique(row_labels, return_counts=True)
        place = np.minimum(np.searchsorted(names, query_labels), len(names) - 1)
        wanted = np.where(names[place] == query_labels, counts[place], 0)
        return cls(lambda indices: row_labels[indices] == query_labels[:, None], wanted)

    @classmethod
    def by_indices(cls, indices: np.ndarray, n_rows: int) -> Relevance:
        """The rows named by `indices` int (queries, any) are relevant; -1 names none."""
        # A pair is one number, query * rows + row, so that membership is one sorted look-up.
        first = np.arange(len(indices), dtype=np.int64)[:, None] * n_rows
        pairs = np.unique((first + indices)[indices != PAD_INDEX])
        wanted = np.bincount(pairs // n_rows, minlength=len(indices))
        return cls(lambda asked: np.isin(first + asked, pairs), wanted)

    @classmethod
    def by_ids(cls, ids: Sequence[Sequence], index) -> Relevance:
        """The rows with the given ids are relevant; -1 or "" names none.

        Raises:
            ValueError: an id that is not in the index.
        """
        lists = [np.asarray(one).reshape(-1) for one in ids]
        lengths = np.array([len(one) for one in lists], int)
        indices = np.full((len(lists), lengths.max(initial=0)), PAD_INDEX)
        some = [one for one in lists if len(one)]
        if some:  # one look-up for all, which sorts the index's ids
            filled = np.arange(indices.shape[1]) < lengths[:, None]
            indices[filled] = index.indices_of(np.concatenate(some))
        return cls.by_indices(indices, len(index))
