"""The database in prefix blocks: reranks read only the dims they add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.arrays import (
    PAD_POSITION,
    check_matrix,
    check_metric,
    check_queries,
    squared_norms,
)
from mrl_keras.retrieval.exact.search import DEFAULT_MEMORY_BUDGET, search_finite
from mrl_keras.retrieval.index import storage as disk
from mrl_keras.retrieval.index.build import build_tables, checked_ids, shortlist_for
from mrl_keras.retrieval.plan import SearchPlan
from mrl_keras.retrieval.rerank import rerank_blocks

if TYPE_CHECKING:
    from mrl_keras.retrieval.scann.shortlist import ScannParameters, ScannShortlist


class SearchResult(NamedTuple):
    """The answer of a nested search; all three are (queries, k), best first.

    Attributes:
        ids: int64 or str; empty slots hold -1 or "".
        scores: float32, the cosine (or inner product) at the plan's last dim; empty slots hold
            the lowest float32.
        positions: int64 row numbers; empty slots hold -1.
    """

    ids: np.ndarray
    scores: np.ndarray
    positions: np.ndarray


class NestedIndex:
    """A database of embeddings, stored as one block for each nesting dim's new dims.

    Make one with `build` or `load`. Prefix m of a row is the first blocks side by side, so a
    rerank from 16 to 2048 dims reads the dims after 16 only, and carries the running dot product:

        s_m(q, x) = (sum of <q, x> over the blocks up to m) / (|q[:m]| |x[:m]|).

    Attributes:
        nesting_dims: `NestingDims`, the prefixes that searches may use.
        metric: "cosine" or "dot".
        storage: "float32" or "bfloat16", the dtype of the blocks.
        blocks: tuple of arrays (rows, d_j - d_{j-1}), in memory or memory-mapped.
        inverse_norms: float32 (rows, prefixes), 1 / norm of each prefix as stored; 0 where the
            prefix is zero, and ones for metric="dot".
        ids: int64 or str (rows,), unique.
        shortlist: the `ScannShortlist` of one prefix, or `None` where shortlists are exact.

    Example:

    >>> rows = np.random.default_rng(0).standard_normal((100, 16)).astype("float32")
    >>> index = NestedIndex.build(rows, [4, 8, 16])
    >>> found = index.search(rows[:2], SearchPlan.adaptive(4, 20, 16, k=3))
    >>> found.ids[:, 0].tolist()
    [0, 1]

    Source: arXiv 2205.13147, Section 4.3.1 (adaptive and funnel retrieval).
    """

    def __init__(
        self,
        nesting_dims: Sequence[int],
        blocks: Sequence[np.ndarray],
        inverse_norms: np.ndarray,
        ids: np.ndarray,
        metric: str = "cosine",
        shortlist: ScannShortlist | None = None,
    ):
        self.nesting_dims = NestingDims(nesting_dims)
        self.blocks = tuple(blocks)
        self.inverse_norms = inverse_norms
        self.ids = ids
        self.metric = check_metric(metric)
        self.shortlist = shortlist

    @classmethod
    def build(
        cls,
        vectors: np.ndarray | Iterable[np.ndarray],
        nesting_dims: Sequence[int],
        ids: Sequence | None = None,
        metric: str = "cosine",
        storage: str = "float32",
        chunk_rows: int = 16_384,
        shortlist_dim: int | None = None,
        scann: str | ScannParameters | None = "auto",
        progress: bool = False,
    ) -> NestedIndex:
        """Builds from a matrix, a memory map, or a generator of row chunks.

        Holds the block tables and one chunk, never a second copy of the rows. A ScaNN shortlist
        also takes the D_s prefix as float32 while it is built.

        Args:
            vectors: (rows, width) array or memory map, read `chunk_rows` at a time, or an
                iterable of such arrays.
            nesting_dims: ints, ascending; the last one is the width.
            ids: unique ints or strings, one for each row; `None` counts from 0. -1 and "" are
                taken, they mark empty slots.
            metric: "cosine" or "dot". Defaults to "cosine".
            storage: "float32" or "bfloat16" (half the memory; scores move by about 0.4 %).
                Defaults to "float32".
            chunk_rows: int, rows read at once from an array. Defaults to 16,384.
            shortlist_dim: the prefix D_s that ScaNN proposes rows from; `None` for none.
            scann: `None` for exact shortlists, a `ScannParameters`, or "auto", which builds
                ScaNN by `scann_parameters(rows, D_s)` where a `shortlist_dim` is given and
                there are at least `scann_rule.EXACT_BELOW` rows. Defaults to "auto".
            progress: bool, whether to show a progress bar. Defaults to `False`.

        Raises:
            ValueError: no rows, chunks of another width, non-finite rows (named by number), ids
                that are repeated, missing or of the wrong count, an unknown metric or storage,
                or a `shortlist_dim` that is no nesting dim.
            ImportError: ScaNN is needed and not installed.
        """
        dims, metric = NestingDims(nesting_dims), check_metric(metric)
        tables = build_tables(vectors, dims, storage, chunk_rows, metric == "cosine", progress)
        blocks, norms = tables
        index = cls(dims, blocks, norms, checked_ids(ids, len(norms)), metric)
        index.shortlist = shortlist_for(index, shortlist_dim, scann)
        return index

    def __len__(self) -> int:
        return self.inverse_norms.shape[0]

    def __repr__(self) -> str:
        return (
            f"NestedIndex(rows={len(self)}, nesting_dims={list(self.nesting_dims)}, "
            f"metric={self.metric!r}, storage={self.storage!r}, "
            f"shortlist={None if self.shortlist is None else self.shortlist.dim})"
        )

    @property
    def width(self) -> int:
        """The embedding width d."""
        return self.nesting_dims.width

    @property
    def storage(self) -> str:
        """The dtype of the blocks, "float32" or "bfloat16"."""
        return self.blocks[0].dtype.name

    def blocks_up_to(self, dim: int) -> tuple[np.ndarray, ...]:
        """The blocks that make up the prefix `dim`."""
        return self.blocks[: self.nesting_dims.index(dim) + 1]

    def find_shortlist(
        self, queries: np.ndarray, dim: int, size: int, leaves: int | None = None
    ) -> np.ndarray:
        """The `size` rows nearest with `dim` dims: by ScaNN where `dim` is its prefix, else exact.

        Args:
            queries: (queries, `dim` or more) embeddings; at least `shortlist.width` for ScaNN.
            dim: int, D_s, a nesting dim.
            size: int, the shortlist's length.
            leaves: int, leaves that ScaNN opens; ignored by an exact shortlist.

        Returns:
            int64 positions (queries, size), best first (by `reorder_dim`, where ScaNN has one),
            -1 in empty slots.
        """
        if self.shortlist is not None and self.shortlist.dim == dim:
            asked = self._prefixes(queries, self.shortlist.width)
            return self.shortlist.search(asked, size, leaves)[0].astype(np.int64)
        return self.search_exactly(queries, dim, size)[1]

    def search_exactly(
        self,
        queries: np.ndarray,
        dim: int,
        k: int,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Brute force over one prefix.

        Args:
            queries: (queries, `dim` or more) embeddings; a prefix with NaN or inf finds nothing.
            dim: int, a nesting dim.
            k: int, rows returned.
            memory_budget: int, bytes of working memory. By default 1 GiB.

        Returns:
            (scores, positions): float32 and int64, both (queries, k), best first.
        """
        blocks = self.blocks_up_to(dim)
        scores, positions = search_finite(
            self._prefixes(queries, dim),
            blocks,
            whole_number(k, "`k`"),
            self.metric == "cosine",
            memory_budget,
            inverse_norms=self.inverse_norms[:, : len(blocks)],
            last_only=True,
        )
        return scores[0], positions[0]

    def _prefixes(self, queries, dim):
        queries = check_matrix(queries, "`queries`")
        if queries.shape[1] < dim:
            raise ValueError(
                f"`queries` must be at least {dim} wide. Received the shape {queries.shape}."
            )
        return check_queries(queries[:, :dim], dim)

    def rerank(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        dims: Sequence[int],
        sizes: Sequence[int] = (),
        k: int = 10,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reorders candidates with growing prefixes: one dim is a rerank, several are a funnel.

        Each stage adds the products of its new dims to the running dot product of the survivors.

        Args:
            queries: (queries, width) embeddings.
            candidates: int (queries, m) row numbers; -1 marks an empty slot, and a row that
                occurs twice counts once.
            dims: ints, ascending nesting dims; the last one gives the final order.
            sizes: ints, how many rows each dim but the last keeps.
            k: int, rows returned. Defaults to 10.

        Returns:
            (scores, positions): float32 and int64, both (queries, k), best first, empty slots
            at the lowest float32 and -1.

        Raises:
            ValueError: a wrong width, candidates of another shape or outside the index, dims
                that are no nesting dims, or sizes that do not fit `dims` and `k`.
        """
        queries = check_queries(queries, self.width)
        plan = SearchPlan(tuple(dims), tuple(sizes), k)
        plan.check_dims(self.nesting_dims)
        return rerank_blocks(self, queries, candidates, plan)

    def search(self, queries: np.ndarray, plan: SearchPlan) -> SearchResult:
        """Nested search: shortlist, then each rerank of the plan.

        Args:
            queries: (queries, width) embeddings. A row with NaN or inf gets no results, and the
                other rows are untouched. No queries give an empty answer.
            plan: `SearchPlan`; its dims must be nesting dims. `plan.k` or sizes above the
                number of rows leave empty slots. A plan of a single dim is exact search, and
                `plan.leaves` is ignored where the shortlist is exact, which opens everything.

        Returns:
            A `SearchResult` of (ids, scores, positions), each (queries, k).

        Raises:
            ValueError: a wrong width, or a dim that is not in the index.
        """
        queries = check_queries(queries, self.width)
        plan.check_dims(self.nesting_dims)
        bad = ~np.isfinite(squared_norms(queries))
        if bad.any():
            # A bad value past the plan's dims spoils the row as well, whatever the plan.
            queries = np.where(bad[:, None], np.float32(np.nan), queries)
        if not plan.rerank_dims:
            scores, positions = self.search_exactly(queries, plan.shortlist_dim, plan.k)
        else:
            scores, positions = rerank_blocks(self, queries, *self._before_reranks(queries, plan))
        return SearchResult(self.ids_at(positions), scores, positions)

    def _before_reranks(self, queries, plan):
        """(candidates, the reranks left to do): ScaNN may do the first one itself."""
        dims, sizes = plan.rerank_dims, plan.rerank_sizes
        if self.shortlist is not None and self.shortlist.reranks(plan):
            asked = queries[:, : self.shortlist.width]
            found = self.shortlist.search(asked, sizes[0], plan.leaves, plan.shortlist_size)
            return found[0], SearchPlan(dims[1:], sizes[1:], plan.k)
        size = plan.shortlist_size
        found = self.find_shortlist(queries, plan.shortlist_dim, size, plan.leaves)
        return found, SearchPlan(dims, sizes, plan.k)

    def ids_at(self, positions: np.ndarray) -> np.ndarray:
        """The ids of row numbers, of the same shape; -1 or "" where the position is -1."""
        empty = positions == PAD_POSITION
        pad = -1 if self.ids.dtype.kind == "i" else ""
        return np.where(empty, pad, self.ids[np.where(empty, 0, positions)])

    def positions_of(self, ids: Sequence) -> np.ndarray:
        """The row numbers of ids, int64 (ids,); -1 where the id is -1 or "".

        Raises:
            ValueError: ids that are not in the index.
        """
        ids = np.asarray(ids)
        pad = -1 if self.ids.dtype.kind == "i" else ""
        if ids.size and (ids.dtype.kind == "U") != (self.ids.dtype.kind == "U"):
            raise ValueError(
                f"`ids` must be of the index's kind, {self.ids.dtype}. Received {ids.dtype}."
            )
        order = np.argsort(self.ids, kind="stable")
        place = np.minimum(np.searchsorted(self.ids, ids, sorter=order), len(self) - 1)
        positions = np.where(ids == pad, PAD_POSITION, order[place])
        unknown = (positions != PAD_POSITION) & (self.ids[order[place]] != ids)
        if unknown.any():
            raise ValueError(
                f"`ids` must be in the index. Received {ids[unknown][:5].tolist()} beside them."
            )
        return positions

    def save(self, directory: str) -> None:
        """Writes the index into the new folder `directory`, atomically.

        The blocks, norms and ids are .npy files, the rest is JSON; nothing is pickled.

        Raises:
            ValueError: `directory` exists; it is not overwritten.
        """
        disk.save_index(self, directory)

    @classmethod
    def load(cls, directory: str, memory_map: bool = False) -> NestedIndex:
        """Reads an index that `save` wrote.

        Args:
            directory: path of the folder.
            memory_map: bool, whether the blocks stay on disk and are paged in as they are
                read. Defaults to `False`.

        Raises:
            ValueError: the folder holds no index, or one of another format version.
        """
        return disk.load_index(cls, directory, memory_map)
