"""What the searches of an index answer."""

from typing import NamedTuple

import numpy as np


class SearchResult(NamedTuple):
    """The answer of a nested search; all three are (queries, k), best first.

    Attributes:
        scores: float32, the cosine (or inner product) at the plan's last dim; empty slots hold
            the lowest float32.
        indices: int64 row numbers; empty slots hold -1.
        ids: int64 or str, the rows' own names; empty slots hold -1 or "".
    """

    scores: np.ndarray
    indices: np.ndarray
    ids: np.ndarray


class PrunedResult(NamedTuple):
    """The answer of `NestedIndex.search_pruned`; all but the last are (queries, k), best first.

    Attributes:
        scores, indices, ids: as in `SearchResult`, at the full width.
        dims_read: float64 (queries,), how many dims were read of a row on average; the width is
            what an ordinary exact search reads.
    """

    scores: np.ndarray
    indices: np.ndarray
    ids: np.ndarray
    dims_read: np.ndarray


class CertifiedResult(NamedTuple):
    """The answer of a certified plan; all but the last two are (queries, k), best first.

    Attributes:
        scores, indices, ids: as in `SearchResult`, at the full width: the best of the shortlist.
        certified: bool (queries,), whether no row outside the shortlist can be among them, so that
            the answer is that of exact search at the full width. Always false where an
            index's own `shortlist` finds it: nothing is known then of the rows that it left out.
        dims_read: float64 (queries,), how many dims the rerank read of a candidate on average.
    """

    scores: np.ndarray
    indices: np.ndarray
    ids: np.ndarray
    certified: np.ndarray
    dims_read: np.ndarray
