"""A database of embeddings in prefix blocks, so that a rerank reads only the dims it adds."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.files import (
    as_path,
    atomic_directory,
    check_complete,
    exists,
    join,
    local_copy,
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
from mrl_keras.retrieval.exact.search import DEFAULT_MEMORY_BUDGET, search_finite
from mrl_keras.retrieval.index.build import (
    IndexOptions,
    build_tables,
    check_ids,
    storage_dtype,
)
from mrl_keras.retrieval.plan import SearchPlan
from mrl_keras.retrieval.rerank import GATHER_BYTES, check_candidates, gathered_products
from mrl_keras.retrieval.scann.parameters import ScannParameters, uses_scann
from mrl_keras.retrieval.scann.searcher import ScannSearcher

FORMAT_VERSION = 1
_MANIFEST = "index.json"


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
        shortlist: the `ScannSearcher` of one prefix, or `None` where shortlists are exact.

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
        shortlist: ScannSearcher | None = None,
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
    ) -> Self:
        """Builds from a matrix, a memory map, or a generator of row chunks.

        Holds the block tables and one chunk, never a second copy of the rows. A ScaNN shortlist
        also takes the D_s prefix as float32 while it is built.

        Args:
            vectors: (rows, width) array or memory map, read `options.chunk_rows` at a time, or
                an iterable of such arrays.
            nesting_dims: ints, ascending; the last one is the width.
            ids: unique ints or strings, one for each row; `None` counts from 0. -1 and "" are
                taken, they mark empty slots.
            options: `IndexOptions`, the metric, the storage and the shortlist; `None` takes its
                defaults.
            progress: bool, whether to show a progress bar. Defaults to `False`.

        Raises:
            ValueError: no rows, chunks of another width, non-finite rows (named by number), ids
                that are repeated, missing or of the wrong count, or a `shortlist_dim` that is
                not a nesting dim.
            ImportError: ScaNN is needed and not installed.
        """
        dims, options = NestingDims(nesting_dims), options or IndexOptions()
        blocks, norms = build_tables(vectors, dims, options, progress)
        index = cls(dims, blocks, norms, check_ids(ids, len(norms)), options.metric)
        index.shortlist = index._build_shortlist(options.shortlist_dim, options.scann)
        return index

    def _build_shortlist(self, dim, scann):
        if dim is None:
            if isinstance(scann, ScannParameters):
                raise ValueError(
                    "`shortlist_dim` must name the prefix that ScaNN searches when `scann` is "
                    f"given. Received None; choose one of {list(self.nesting_dims)}."
                )
            return None
        self.nesting_dims.index(dim)
        blocks = self.blocks_up_to(getattr(scann, "reorder_dim", None) or dim)
        if not uses_scann(scann, len(self)):
            return None
        prefix = np.concatenate([as_float32(block) for block in blocks], axis=1)
        parameters = None if scann == "auto" else scann
        return ScannSearcher.build(prefix, parameters, normalize=self.metric == "cosine", dim=dim)

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
        plan = SearchPlan(tuple(dims), tuple(sizes), k)
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

    def search(self, queries: np.ndarray, plan: SearchPlan) -> SearchResult:
        """Nested search: shortlist, then each rerank of the plan.

        Args:
            queries: (queries, width) embeddings. A row with NaN or inf gets no results, and the
                other rows are untouched. No queries give an empty answer.
            plan: `SearchPlan`; its dims must be nesting dims. `plan.k` or sizes above the
                number of rows leave empty slots. A plan of a single dim is exact search, and
                `plan.leaves` is ignored where the shortlist is exact, which opens everything.

        Returns:
            A `SearchResult` of (scores, indices, ids), each (queries, k).

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
            scores, indices = self.search_exactly(queries, plan.shortlist_dim, plan.k)
        else:
            scores, indices = self._rerank(queries, *self._find_candidates(queries, plan))
        return SearchResult(scores, indices, self.ids_at(indices))

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
            for place, block in enumerate(self.blocks):
                # NumPy's file format has no bfloat16: its bits are stored as uint16.
                bits = block if block.dtype == np.float32 else block.view(np.uint16)
                np.save(os.path.join(folder, _block_name(place)), bits, allow_pickle=False)
            for name in ("inverse_norms", "ids"):
                path = os.path.join(folder, f"{name}.npy")
                np.save(path, getattr(self, name), allow_pickle=False)
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

        dtype, saved = storage_dtype(manifest["storage"]), manifest["shortlist"]
        dims, rows = NestingDims(manifest["nesting_dims"]), manifest["rows"]
        blocks = [read(_block_name(place), memory_map).view(dtype) for place in range(len(dims))]
        norms, ids = read("inverse_norms.npy"), read("ids.npy")
        shapes = [part.shape for part in (*blocks, norms, ids)]
        wanted = [*((rows, high - low) for low, high in dims.blocks), (rows, len(dims)), (rows,)]
        if shapes != wanted:
            raise ValueError(f"the arrays have the shapes {shapes} in place of {wanted}")
        shortlist = None if saved is None else ScannSearcher.load(folder, saved, rows)
        return cls(dims, blocks, norms, ids, manifest["metric"], shortlist)


def _block_name(place):
    return f"block_{place:02d}.npy"


def _queries_at_once(n_candidates, plan):
    """The queries whose largest gather stays within `GATHER_BYTES`."""
    widest, kept, low = 1, n_candidates, 0
    for dim, keep in zip(plan.dims, (*plan.sizes, plan.k), strict=True):
        widest = max(widest, kept * (dim - low))
        low, kept = dim, keep
    return max(1, GATHER_BYTES // (4 * widest))
