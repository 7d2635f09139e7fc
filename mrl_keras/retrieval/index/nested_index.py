"""A database of embeddings in prefix blocks, so that a rerank reads only the dims it adds."""

import functools
import os
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.files import (
    as_path,
    atomic_directory,
    check_complete,
    exists,
    join,
    local_copy,
    local_path,
    read_manifest,
    write_json,
)
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_INDEX,
    as_float32,
    best_columns,
    check_matrix,
    check_metric,
    check_queries,
    inverse_norms,
    order_rows,
    pad_columns,
    squared_norms,
)
from mrl_keras.retrieval.exact.blocked import prefix_squared_norms
from mrl_keras.retrieval.exact.pruned import PrunedScan
from mrl_keras.retrieval.exact.search import DEFAULT_MEMORY_BUDGET, search_finite
from mrl_keras.retrieval.exact.unread import UnreadBound
from mrl_keras.retrieval.index.build import (
    IndexOptions,
    build_tables,
    check_ids,
)
from mrl_keras.retrieval.index.results import CertifiedResult, PrunedResult, SearchResult
from mrl_keras.retrieval.index.shortlists import Shortlist, build_shortlist, load_shortlist
from mrl_keras.retrieval.index.storage import (
    blocks_of_tables,
    shared_storage,
    storage_dtype,
    table_names,
    tables_of_blocks,
)
from mrl_keras.retrieval.index.tables import as_written
from mrl_keras.retrieval.plan import SearchPlan
from mrl_keras.retrieval.quantized import QuantizedRows
from mrl_keras.retrieval.rerank import GATHER_BYTES, check_candidates, gathered_products

FORMAT_VERSION = 1
_MANIFEST = "index.json"
_NORM_ROWS = 65_536


class NestedIndex:
    """A database of embeddings, stored as one block for each nesting dim's new dims.

    Make one with `build` or `load`. Prefix m of a row is the first blocks side by side, so a
    rerank from 16 to 2048 dims reads the dims after 16 only, and carries the running dot product:

        s_m(q, x) = (sum of <q, x> over the blocks up to m) / (|q[:m]| |x[:m]|).

    Attributes:
        nesting_dims: `NestingDims`, the prefixes that searches may use.
        metric: "cosine" or "dot".
        storage: "float32", "bfloat16" or "int8", or a list of them, one for each block.
        blocks: tuple of arrays (rows, d_j - d_{j-1}), `QuantizedRows` for "int8", in memory or
            memory-mapped.
        inverse_norms: float32 (rows, prefixes), 1 / norm of each prefix as stored; 0 where the
            prefix is zero, and ones for metric="dot".
        ids: int64 or str (rows,), unique.
        shortlist: the `ScannSearcher`, `SignSearcher` or `PartitionSearcher` of one prefix, or
            `None` where shortlists are exact.

    Example:

    >>> rows = np.random.default_rng(0).standard_normal((100, 16)).astype("float32")
    >>> index = NestedIndex.build(rows, [4, 8, 16])
    >>> plan = SearchPlan.adaptive(shortlist_dim=4, shortlist=20, rerank_dim=16, k=3)
    >>> found = index.search(rows[:2], plan)
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
        shortlist: Shortlist | None = None,
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
        options: IndexOptions | None = None,
        progress: bool = False,
        folder: str | None = None,
    ) -> Self:
        """Builds from a matrix, a memory map, or a generator of row chunks.

        Holds the block tables and one chunk, never a second copy of the rows; with `folder` the
        tables are files there, so that rows and index may be larger than memory. A ScaNN shortlist
        also takes the D_s prefix (and the `reorder_dim`) as float32 while it is built. Rows and
        tables are read once and in order.

        Args:
            vectors: (rows, width) array or memory map, read `options.chunk_rows` at a time, or
                an iterable of such arrays.
            nesting_dims: ints, ascending; the last one is the width.
            ids: unique ints or strings, one for each row; `None` counts from 0. -1 and "" are
                taken, they mark empty slots.
            options: `IndexOptions`, the metric, the storage and the shortlist; `None` takes its
                defaults.
            progress: bool, whether to show progress bars. Defaults to `False`.
            folder: str, a new local folder that the index is written into, as `save` does, while
                it is built; its blocks are then memory maps of these files. Defaults to `None`,
                an index in memory.

        Raises:
            ValueError: no rows, chunks of another width, non-finite rows (named by number), ids
                that are repeated, missing or of the wrong count, a `shortlist_dim` that is
                not a nesting dim, or a `folder` that exists or is remote.
            ImportError: ScaNN is needed and not installed.
        """
        dims, options = NestingDims(nesting_dims), options or IndexOptions()
        if folder is None:
            return cls._build(vectors, dims, ids, options, progress)
        with atomic_directory(local_path(folder, "`folder`")) as temporary:
            index = cls._build(vectors, dims, ids, options, progress, temporary)
            index._write_rest(temporary)
        return index

    @classmethod
    def _build(cls, vectors, dims, ids, options, progress, folder=None):
        blocks, norms = build_tables(vectors, dims, options, progress, folder)
        norms = np.array(norms) if folder else norms
        index = cls(dims, blocks, norms, check_ids(ids, len(norms)), options.metric)
        index.shortlist = build_shortlist(index, options, progress)
        return index

    def with_shortlist(self, options: IndexOptions) -> Self:
        """The same rows with another shortlist, without a copy of them.

        Args:
            options: `IndexOptions`, of which `shortlist_dim`, `scann`, `signs` and `partition`
                count.

        Raises:
            ValueError, ImportError: as for `build`.

        >>> index = NestedIndex.build(np.eye(4), [2, 4])
        >>> index.with_shortlist(IndexOptions(shortlist_dim=2, signs=True)).shortlist.dim
        2
        """
        tables = (self.nesting_dims, self.blocks, self.inverse_norms, self.ids)
        index = type(self)(*tables, self.metric)
        index.shortlist = build_shortlist(index, options, False)
        return index

    def memory_bytes(self) -> int:
        """Bytes of the blocks, norms, ids and the shortlist, whether in memory or mapped."""
        tables = (*tables_of_blocks(self.blocks), self.inverse_norms, self.ids)
        size = sum(table.nbytes for table in tables)
        return size + (0 if self.shortlist is None else self.shortlist.memory_bytes())

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
    def storage(self) -> str | list[str]:
        """How the blocks are stored: one of `STORAGES`, or each block's where they differ."""
        return shared_storage(self.blocks)

    def blocks_up_to(self, dim: int) -> tuple[np.ndarray, ...]:
        """The blocks that make up the prefix `dim`."""
        return self.blocks[: self.nesting_dims.index(dim) + 1]

    def find_shortlist(
        self, queries: np.ndarray, dim: int, size: int, leaves: int | None = None
    ) -> np.ndarray:
        """The `size` rows nearest with `dim` dims, exactly or by the `shortlist` of that prefix.

        Args:
            queries: (queries, `dim` or more) embeddings; at least `shortlist.width` by a shortlist.
            dim: int, D_s, a nesting dim.
            size: int, the shortlist's length.
            leaves: int, leaves that are opened; ignored by an exact shortlist.

        Returns:
            int64 indices (queries, size), best first (by `reorder_dim`, where ScaNN has one),
            -1 in empty slots.
        """
        if self.shortlist is not None and self.shortlist.dim == dim:
            asked = self._prefixes(queries, self.shortlist.width)
            return self.shortlist.search(asked, size, leaves)[1].astype(np.int64)
        return self.search_exactly(queries, dim, size)[1]

    def search_exactly(
        self,
        queries: np.ndarray,
        dim: int,
        k: int,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Exact search over one prefix.

        Args:
            queries: (queries, `dim` or more) embeddings; a prefix with NaN or inf finds nothing.
            dim: int, a nesting dim.
            k: int, rows returned.
            memory_budget: int, bytes of working memory. By default 1 GiB.

        Returns:
            (scores, indices): float32 and int64, both (queries, k), best first.
        """
        blocks = self.blocks_up_to(dim)
        scores, indices = search_finite(
            self._prefixes(queries, dim),
            blocks,
            whole_number(k, "`k`"),
            self.metric == "cosine",
            memory_budget,
            inverse_norms=self.inverse_norms[:, : len(blocks)],
            last_only=True,
        )
        return scores[0], indices[0]

    def search_pruned(self, queries: np.ndarray, k: int = 10) -> PrunedResult:
        """Exact search at the full width that reads most rows in part only.

        What the dims after a prefix can add to a score is at most the product of the norms of both
        tails, so a row is left as soon as that cannot bring it among the k best:

            <q, x>  <=  <q[:m], x[:m]> + |q[m:]| |x[m:]|.

        The answer is that of `search_exactly(queries, width, k)`, to float32 rounding, with ties by
        ascending row number. How much is saved depends on the embeddings: much where queries have
        near neighbours and the first dims hold most of the norm, nothing on noise.

        Args:
            queries: (queries, width) embeddings; a row with NaN or inf finds nothing.
            k: int, rows returned. Defaults to 10.

        Raises:
            ValueError: a wrong width, or k below 1.

        Example:

        >>> rows = np.random.default_rng(0).standard_normal((500, 16)).astype("float32")
        >>> index = NestedIndex.build(rows, [4, 8, 16])
        >>> found = index.search_pruned(rows[:2], k=3)
        >>> found.ids[:, 0].tolist(), bool((found.dims_read > 4).all())
        ([0, 1], True)

        Source: the bound is Cauchy-Schwarz's; pruning level by level, arXiv 2510.00566.
        """
        queries, k = check_queries(queries, self.width), whole_number(k, "`k`")
        squared = squared_norms(queries)
        good = np.isfinite(squared)
        found = self._pruned_scan.run(queries[good], min(k, len(self)))
        return PrunedResult(*self._filled(found, good, squared, k))

    def _filled(self, found, good, squared, k):
        """(scores, indices, ids, dims read) of all queries from a `PrunedScores` of the good ones.

        Args:
            good: bool (queries,), which were searched.
            squared: float32 (queries,), their squared norms, by which cosines are divided.
            k: int, columns of the answer.
        """
        scores = np.full((len(good), k), LOWEST_SCORE, np.float32)
        indices, read = np.full(scores.shape, PAD_INDEX, np.int64), np.zeros(len(good))
        norms = inverse_norms(squared[good])[:, None] if self.metric == "cosine" else 1.0
        columns = slice(found.scores.shape[1])
        there = found.indices >= 0
        scores[good, columns] = np.where(there, found.scores * norms, LOWEST_SCORE)
        indices[good, columns], read[good] = found.indices, found.dims_read
        return scores, indices, self.ids_at(indices), read

    def unread_bound(self, dim: int) -> UnreadBound:
        """What bounds the scores of rows that a shortlist by `dim` dims, a nesting dim, leaves."""
        return self._pruned_scan.unread[dim]

    @functools.cached_property
    def _pruned_scan(self):
        return PrunedScan(self.blocks, self._prefix_norms(), self.metric == "cosine")

    def _prefix_norms(self):
        """The norm of every prefix of every row, float32 (rows, prefixes)."""
        if self.metric == "cosine":
            inverse = np.asarray(self.inverse_norms)
            return np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)
        norms = np.empty((len(self), len(self.blocks)), np.float32)
        for first in range(0, len(self), _NORM_ROWS):
            part = slice(first, first + _NORM_ROWS)
            squared = prefix_squared_norms([as_float32(block[part]) for block in self.blocks])
            norms[part] = np.sqrt(squared).T
        return norms

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
            (scores, indices): float32 and int64, both (queries, k), best first, empty slots
            at the lowest float32 and -1.

        Raises:
            ValueError: a wrong width, candidates of another shape or outside the index, dims
                that are not nesting dims, or sizes that do not fit `dims` and `k`.
        """
        queries = check_queries(queries, self.width)
        plan = SearchPlan(dims, sizes, k)
        plan.check_dims(self.nesting_dims)
        return self._rerank(queries, candidates, plan)

    def _rerank(self, queries, candidates, plan):
        """`rerank` with checked queries; `plan` holds the rerank dims."""
        candidates = check_candidates(candidates, len(queries), len(self))
        finite = np.isfinite(squared_norms(queries))
        candidates = np.where(finite[:, None], candidates, PAD_INDEX)
        scores = np.full((len(queries), plan.k), LOWEST_SCORE, np.float32)
        indices = np.full((len(queries), plan.k), PAD_INDEX, np.int64)
        at_once = _queries_at_once(candidates.shape[1], plan)
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            scores[part], indices[part] = self._rerank_part(queries[part], candidates[part], plan)
        return scores, indices

    def _rerank_part(self, queries, indices, plan):
        running = np.zeros(indices.shape, np.float32)
        # Non-finite queries have no candidates left; zeros keep them out of the arithmetic.
        queries = np.where(np.isfinite(squared_norms(queries))[:, None], queries, np.float32(0))
        block = 0
        for dim, keep in zip(plan.dims, (*plan.sizes, plan.k), strict=True):
            last = self.nesting_dims.index(dim)
            rows = np.maximum(indices, 0)
            while block <= last:
                low, high = self.nesting_dims.blocks[block]
                running += gathered_products(self.blocks[block], rows, queries[:, low:high])
                block += 1
            scores = running * self.inverse_norms[rows, last]
            scores = np.where(indices < 0, -np.inf, scores)
            kept = best_columns(scores, keep)
            if kept is not None:
                scores, indices, running = (
                    np.take_along_axis(part, kept, 1) for part in (scores, indices, running)
                )
        if self.metric == "cosine":
            norms = inverse_norms(squared_norms(queries[:, : plan.dims[-1]]))[:, None]
            scores = np.multiply(scores, norms, where=indices >= 0, out=scores)
        scores = np.where(indices < 0, LOWEST_SCORE, scores)
        return pad_columns(*order_rows(scores, indices), plan.k)

    def prefix_scores(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """The candidates' scores at every prefix, each dimension's products computed once.

        Args:
            queries: (queries, width) embeddings.
            candidates: int (queries, m) row numbers as a search gives them, -1 for empty slots.

        Returns:
            float32 (prefixes, queries, m): scores that order rows as the index's metric does,
            not divided by the query's own norm; -inf for empty slots and non-finite queries.
        """
        queries = check_queries(queries, self.width)
        scores = np.empty((len(self.nesting_dims), *candidates.shape), np.float32)
        finite = np.isfinite(squared_norms(queries))
        at_once = max(1, GATHER_BYTES // (4 * max(1, candidates.shape[1]) * self.width))
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            asked = np.where(finite[part, None], queries[part], np.float32(0))
            rows, running = np.maximum(candidates[part], 0), np.float32(0)
            for place, (low, high) in enumerate(self.nesting_dims.blocks):
                new = gathered_products(self.blocks[place], rows, asked[:, low:high])
                running = running + new
                scores[place, part] = running * self.inverse_norms[rows, place]
        scores[:, (candidates < 0) | ~finite[:, None]] = -np.inf
        return scores

    def search(self, queries: np.ndarray, plan: SearchPlan) -> SearchResult | CertifiedResult:
        """Nested search: shortlist, then each rerank of the plan.

        Args:
            queries: (queries, width) embeddings. A row with NaN or inf gets no results, and the
                other rows are untouched. No queries give an empty answer.
            plan: `SearchPlan`; its dims must be nesting dims. `plan.k` or sizes above the
                number of rows leave empty slots. A plan of a single dim is exact search, and
                `plan.leaves` is ignored where the shortlist is exact, which opens everything.

        Returns:
            A `SearchResult` of (scores, indices, ids), each (queries, k); a `CertifiedResult` for a
            certified plan.

        Raises:
            ValueError: a wrong width, a dim that is not in the index, or a certified plan that
                does not end at the width.

        Example:

        >>> rows = np.random.default_rng(0).standard_normal((500, 16)).astype("float32")
        >>> index = NestedIndex.build(rows, [4, 8, 16])
        >>> found = index.search(rows[:2], SearchPlan((8, 16), (50,), k=1, certified=True))
        >>> found.ids.tolist(), found.certified.tolist(), bool((found.dims_read < 16).all())
        ([[0], [1]], [True, True], True)
        """
        queries = check_queries(queries, self.width)
        plan.check_dims(self.nesting_dims)
        squared = squared_norms(queries)
        bad = ~np.isfinite(squared)
        if bad.any():
            # A bad value past the plan's dims spoils the row as well, whatever the plan.
            queries = np.where(bad[:, None], np.float32(np.nan), queries)
        if plan.certified:
            return self._search_certified(queries, squared, plan)
        if not plan.rerank_dims:
            scores, indices = self.search_exactly(queries, plan.shortlist_dim, plan.k)
        else:
            scores, indices = self._rerank(queries, *self._find_candidates(queries, plan))
        return SearchResult(scores, indices, self.ids_at(indices))

    def _search_certified(self, queries, squared, plan):
        dim, size, k = plan.shortlist_dim, plan.shortlist_size, plan.k
        good = np.isfinite(squared)
        asked, scan = queries[good], self._pruned_scan
        exact = self.shortlist is None or self.shortlist.dim != dim
        if exact:
            near, candidates = self.search_exactly(asked, dim, size)
        else:
            candidates = self.find_shortlist(asked, dim, size, plan.leaves)
        found = scan.rerank(asked, candidates, k)
        certified = np.zeros(len(queries), bool)
        certified[good] = exact
        if exact and size < len(self):
            last = near[:, -1]
            if self.metric == "cosine":
                last = last * np.sqrt(squared_norms(asked[:, :dim]))
            certified[good] = found.scores[:, -1] > self.unread_bound(dim).highest(asked, last)
        scores, indices, ids, read = self._filled(found, good, squared, k)
        return CertifiedResult(scores, indices, ids, certified, read)

    def _find_candidates(self, queries, plan):
        """(candidates, the reranks left to do): ScaNN may do the first one itself."""
        dims, sizes = plan.rerank_dims, plan.rerank_sizes
        if self.shortlist is not None and self.shortlist.reranks(plan):
            asked = queries[:, : self.shortlist.width]
            found = self.shortlist.search(asked, sizes[0], plan.leaves, plan.shortlist_size)
            return found[1], SearchPlan(dims[1:], sizes[1:], plan.k)
        size = plan.shortlist_size
        found = self.find_shortlist(queries, plan.shortlist_dim, size, plan.leaves)
        return found, SearchPlan(dims, sizes, plan.k)

    def ids_at(self, indices: np.ndarray) -> np.ndarray:
        """The ids of row numbers, of the same shape; -1 or "" where the position is -1."""
        empty = indices == PAD_INDEX
        pad = -1 if self.ids.dtype.kind == "i" else ""
        return np.where(empty, pad, self.ids[np.where(empty, 0, indices)])

    def indices_of(self, ids: Sequence) -> np.ndarray:
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
        indices = np.where(ids == pad, PAD_INDEX, order[place])
        unknown = (indices != PAD_INDEX) & (self.ids[order[place]] != ids)
        if unknown.any():
            raise ValueError(
                f"`ids` must be in the index. Received {ids[unknown][:5].tolist()} beside them."
            )
        return indices

    def save(self, directory: str) -> None:
        """Writes the index into the new folder `directory`, atomically.

        The blocks, norms and ids are .npy files, the rest is JSON; nothing is pickled.

        Args:
            directory: path of the folder, local or remote.

        Raises:
            ValueError: `directory` exists, and is not overwritten.
            OSError: a remote folder that can't be written.
        """
        # Plain .npy files, because they can be memory-mapped and hold nothing pickled.
        with atomic_directory(directory) as folder:
            tables = [*tables_of_blocks(self.blocks), self.inverse_norms]
            names = [*table_names([block.dtype.name for block in self.blocks]), "inverse_norms.npy"]
            for name, table in zip(names, tables, strict=True):
                np.save(os.path.join(folder, name), as_written(table), allow_pickle=False)
            self._write_rest(folder)

    def _write_rest(self, folder):
        """Ids, shortlist and manifest, beside the tables."""
        np.save(os.path.join(folder, "ids.npy"), self.ids, allow_pickle=False)
        manifest = {
            "format_version": FORMAT_VERSION,
            "nesting_dims": list(self.nesting_dims),
            "metric": self.metric,
            "storage": self.storage,
            "rows": len(self),
            "shortlist": None if self.shortlist is None else self.shortlist.save(folder),
        }
        write_json(os.path.join(folder, _MANIFEST), manifest)

    @classmethod
    def load(cls, directory: str, memory_map: bool = False) -> Self:
        """Reads an index that `save` wrote.

        Args:
            directory: path of the folder. A remote one is copied to a temporary local folder
                first, and a line says so.
            memory_map: bool, whether the blocks stay on disk and are paged in as they are
                read. Defaults to `False`.

        Raises:
            ValueError: the folder holds no index, or one of another format version; or a remote
                folder whose writing was interrupted.
            OSError: a remote folder that can't be read.
        """
        directory = as_path(directory, "`directory`")
        path = join(directory, _MANIFEST)
        if not exists(path):
            raise ValueError(
                f"{directory} must be a folder that `NestedIndex.save` wrote; it has no "
                f"{_MANIFEST}."
            )
        manifest = read_manifest(path, "an index", FORMAT_VERSION, "Build the index again.")

        check_complete(directory)
        with local_copy(directory) as folder:
            try:
                return cls._read(folder, manifest, memory_map)
            except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"The files of {directory} must be those of one whole index. One is missing "
                    f"or damaged: {error}. Copy it again, or build the index again."
                ) from error

    @classmethod
    def _read(cls, folder, manifest, memory_map):
        def read(name, mapped=False):
            path = os.path.join(folder, name)
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)

        storages, saved = manifest["storage"], manifest["shortlist"]
        dims, rows = NestingDims(manifest["nesting_dims"]), manifest["rows"]
        storages = [storages] * len(dims) if isinstance(storages, str) else storages
        tables = [read(name, memory_map) for name in table_names(storages)]
        tables = [
            one.view(storage_dtype("bfloat16")) if one.dtype == "u2" else one for one in tables
        ]
        blocks = blocks_of_tables(tables, storages)
        norms, ids = read("inverse_norms.npy"), read("ids.npy")
        scales = [one.scales for one in blocks if isinstance(one, QuantizedRows)]
        shapes = [part.shape for part in (*blocks, norms, ids, *scales)]
        wanted = [*((rows, high - low) for low, high in dims.blocks), (rows, len(dims)), (rows,)]
        wanted += [(rows, 1)] * len(scales)
        if shapes != wanted:
            raise ValueError(f"the arrays have the shapes {shapes} in place of {wanted}")
        if ids.dtype.kind not in "iU":
            raise ValueError(f"the ids are {ids.dtype} in place of ints or strings")
        index = cls(dims, blocks, norms, ids, manifest["metric"])
        index.shortlist = None if saved is None else load_shortlist(index, folder, saved)
        return index


def _queries_at_once(n_candidates, plan):
    """The queries whose largest gather stays within `GATHER_BYTES`."""
    widest, kept, low = 1, n_candidates, 0
    for dim, keep in zip(plan.dims, (*plan.sizes, plan.k), strict=True):
        widest = max(widest, kept * (dim - low))
        low, kept = dim, keep
    return max(1, GATHER_BYTES // (4 * widest))
