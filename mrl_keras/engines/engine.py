"""What every search engine offers: rows in by id, answers out by a `SearchPlan`."""

import abc
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    as_float32,
    check_matrix,
    check_metric,
    check_queries,
    refuse_rows,
    squared_norms,
)
from mrl_keras.retrieval.exact.blocked import prefix_squared_norms
from mrl_keras.retrieval.index.build import check_ids
from mrl_keras.retrieval.plan import SearchPlan

ID_DTYPES = ("int64", "string")


class EngineResult(NamedTuple):
    """The answer of an engine; both are (queries, k), best first.

    Attributes:
        scores: float32, the cosine (or inner product) at the plan's last dim; empty slots hold
            the lowest float32.
        ids: int64 or str; empty slots hold -1 or "".
    """

    scores: np.ndarray
    ids: np.ndarray


class Engine(abc.ABC):
    """A collection of nested embeddings in a search engine that keeps its rows by their ids.

    Unlike a `NestedIndex`, rows are added, replaced and deleted one by one, and searches can be
    filtered. What an engine searches approximately, it does by an index of its own; `exact=True`
    turns that off.

    Args:
        dims: ints, ascending prefix sizes that plans may use; the last is the embedding width.
        metric: "cosine" or "dot". Defaults to "cosine".
        id_dtype: "string" or "int64", the kind of the ids. Defaults to "string".

    Raises:
        ValueError: dims that do not ascend, an unknown metric or kind of ids.
    """

    def __init__(self, dims: Sequence[int], metric: str = "cosine", id_dtype: str = "string"):
        if id_dtype not in ID_DTYPES:
            raise ValueError(f"`id_dtype` must be one of {ID_DTYPES}. Received {id_dtype!r}.")
        self.dims = NestingDims(dims)
        self.metric = check_metric(metric)
        self.id_dtype = id_dtype

    @property
    def width(self) -> int:
        """The embedding width d."""
        return self.dims.width

    @abc.abstractmethod
    def create(self) -> None:
        """Makes the empty collection; one that exists with the same settings is kept as it is.

        Raises:
            ValueError: a collection of this name with other settings.
            ConnectionError: the engine can't be reached.
        """

    @abc.abstractmethod
    def finish(self) -> None:
        """Builds what searches use, after the uploads; calling it again does no harm."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection; a `with` statement does it too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @abc.abstractmethod
    def delete(self, ids: Sequence) -> int:
        """Deletes rows; returns how many of `ids` were there."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abc.abstractmethod
    def _there(self, ids: list) -> set:
        """Those of `ids` that the collection has."""

    @abc.abstractmethod
    def _write(self, rows: np.ndarray, ids: list, payload: Sequence[Mapping]) -> None:
        """Adds rows, or replaces those of the same ids."""

    @abc.abstractmethod
    def _find(self, query: np.ndarray, plan: SearchPlan, filters, exact: bool) -> list[tuple]:
        """[(score, id)] of one query, best first."""

    def upload(
        self,
        rows: np.ndarray,
        ids: Sequence,
        payload: Sequence[Mapping] | None = None,
        *,
        batch_rows: int = 512,
        resume: bool = False,
        progress: bool = False,
    ) -> int:
        """Adds rows by id; a row whose id is there is replaced, so a second upload changes nothing.

        Args:
            rows: (rows, width) embeddings, in memory or memory-mapped.
            ids: int64 or str (rows,), unique within the call.
            payload: for each row a dict that JSON can hold, which filters may use and updates
                replace as a whole. Defaults to `None`, empty ones.
            batch_rows: int, rows of one request. Defaults to 512.
            resume: bool, whether rows whose ids are there stay as they are: for an upload that was
                interrupted, of rows that did not change. Defaults to `False`.
            progress: bool, whether to show a progress bar. Defaults to `False`.

        Returns:
            int, how many rows were written.

        Raises:
            ValueError: another width, rows that are not finite or, for "cosine", have a zero
                prefix; ids that repeat, are missing or of another kind; a payload of another
                length; no collection.
            ConnectionError: the engine can't be reached. Upload again with `resume=True`.
        """
        rows = check_matrix(rows, "`rows`", self.width)
        ids = self._check_ids(ids, len(rows))
        if payload is not None and len(payload) != len(rows):
            raise ValueError(
                f"`payload` must hold one dict for each of the {len(rows)} rows. "
                f"Received {len(payload)}."
            )
        batch_rows, written = whole_number(batch_rows, "`batch_rows`"), 0
        with tqdm(total=len(rows), unit="row", unit_scale=True, disable=not progress) as bar:
            for low in range(0, len(rows), batch_rows):
                part = slice(low, low + batch_rows)
                batch, names = as_float32(np.asarray(rows[part])), ids[part].tolist()
                self._check_rows(batch, low)
                of = [{}] * len(names) if payload is None else payload[part]
                keep = range(len(names))
                if resume:
                    there = self._there(names)
                    keep = [place for place, name in enumerate(names) if name not in there]
                if len(keep):
                    chosen = [names[place] for place in keep], [of[place] for place in keep]
                    self._write(batch[list(keep)], *chosen)
                written += len(keep)
                bar.update(len(names))
        return written

    def query(
        self, embeddings: np.ndarray, plan: SearchPlan, filters=None, exact: bool = False
    ) -> EngineResult:
        """Nested search in the engine: shortlist, then each rerank of the plan.

        Args:
            embeddings: (queries, width). A query that is not finite, or that is zero in the
                plan's dims under "cosine", finds nothing.
            plan: `SearchPlan` with dims among `dims`. A plan of one dim is exact; `plan.leaves`
                means nothing here, and no engine certifies.
            filters: {payload field: value, or list of values of which one must match}, or what
                the engine itself takes; see its class. Defaults to `None`, all rows.
            exact: bool, whether the shortlist scans all rows too. Defaults to `False`.

        Returns:
            `EngineResult` of (scores, ids), each (queries, k).

        Raises:
            ValueError: another width, a dim that is not in `dims`, a certified plan, a bad filter,
                no collection.
            ConnectionError: the engine can't be reached.
        """
        embeddings = check_queries(embeddings, self.width)
        plan.check_dims(self.dims)
        check_uncertified(plan)
        scores = np.full((len(embeddings), plan.k), LOWEST_SCORE, np.float32)
        ids = np.full(scores.shape, "" if self.id_dtype == "string" else -1, object)
        exact = exact or not plan.rerank_dims
        for place in np.flatnonzero(self._searchable(embeddings, plan)):
            found = self._find(embeddings[place], plan, filters, exact)
            for slot, (score, name) in enumerate(found[: plan.k]):
                scores[place, slot], ids[place, slot] = score, name
        return EngineResult(scores, ids.astype(str if self.id_dtype == "string" else np.int64))

    def _searchable(self, queries, plan):
        good = np.isfinite(squared_norms(queries))
        if self.metric == "cosine":
            good &= (queries[:, : plan.shortlist_dim] != 0).any(axis=1)
        return good

    def _check_rows(self, rows, first):
        blocks = [rows[:, low:high] for low, high in self.dims.blocks]
        with np.errstate(over="ignore", invalid="ignore"):
            squared = prefix_squared_norms(blocks)
        refuse_rows(~np.isfinite(squared[-1]), first)
        zero = np.flatnonzero(squared[0] == 0)
        if self.metric == "cosine" and len(zero):
            raise ValueError(
                f"`rows` must not be zero in their first {self.dims[0]} dims, where a cosine is "
                f"not defined. Received {(zero[:5] + first).tolist()}; leave them out."
            )

    def _check_ids(self, ids, count):
        if not len(ids) and not count:
            return np.zeros(0, np.int64)
        ids = check_ids(ids, count)
        kind = "string" if ids.dtype.kind == "U" else "int64"
        if kind != self.id_dtype:
            raise ValueError(
                f"`ids` must be {self.id_dtype}, as the collection's. Received {kind}: convert "
                "them, or make the collection with another `id_dtype`."
            )
        return ids


def chosen_shortlist_dims(chosen: Sequence[int] | None, dims: NestingDims) -> tuple[int, ...]:
    """The prefixes that an engine searches: `chosen` ones among `dims`, or the smallest.

    >>> chosen_shortlist_dims(None, NestingDims([8, 64]))
    (8,)
    """
    found = dims[:1] if chosen is None else NestingDims(chosen)
    unknown = [dim for dim in found if dim not in dims]
    if unknown:
        raise ValueError(
            f"`shortlist_dims` must be among the dims {list(dims)}. Received {unknown} beside them."
        )
    return tuple(found)


def check_uncertified(plan: SearchPlan) -> None:
    """Refuses a certified plan with a ValueError."""
    if plan.certified:
        raise ValueError(
            "An engine can't certify its answers; `NestedIndex.search` can. Received a plan with "
            "certified=True: leave it out, or query with `exact=True`."
        )


def check_plain_filter(filters) -> dict:
    """A filter as {field: list of values}.

    Raises:
        ValueError: no mapping from names to values.

    >>> check_plain_filter({"lang": "en", "year": [2020, 2021]})
    {'lang': ['en'], 'year': [2020, 2021]}
    """
    if not isinstance(filters, Mapping) or not all(isinstance(name, str) for name in filters):
        raise ValueError(
            "`filters` must map names of payload fields to values, or be what the engine itself "
            f"takes. Received {filters!r}."
        )
    found = {}
    for name, wanted in filters.items():
        values = list(wanted) if isinstance(wanted, (list, tuple, set)) else [wanted]
        if not values or not all(isinstance(one, (str, bool, int)) for one in values):
            raise ValueError(
                f"A filter compares with strings, ints and booleans. Received {name}={wanted!r}."
            )
        found[name] = values
    return found
