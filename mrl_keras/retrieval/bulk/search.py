"""Bulk search: many queries, answers on disk chunk by chunk, continued after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.files import as_path
from mrl_keras.retrieval.arrays import as_array, check_queries
from mrl_keras.retrieval.bulk.fingerprints import RowDigest, index_fingerprint, plan_fingerprint
from mrl_keras.retrieval.bulk.folder import BulkFolder, load_bulk_search
from mrl_keras.retrieval.index.nested_index import NestedIndex
from mrl_keras.retrieval.index.results import SearchResult
from mrl_keras.retrieval.plan import SearchPlan

DEFAULT_CHUNK_QUERIES = 4096


def bulk_search(
    index: NestedIndex,
    queries: np.ndarray | Iterable[np.ndarray],
    plan: SearchPlan,
    directory: str,
    chunk_queries: int = DEFAULT_CHUNK_QUERIES,
    progress: bool = False,
) -> SearchResult:
    """`index.search(queries, plan)` for more queries than memory holds, with answers on disk.

    The answers of each chunk are one file, which appears whole or not at all; the last step joins
    them. A second call with the same index, plan and queries continues after the last whole chunk,
    and once all is answered it only opens the answers. So `directory` always belongs to one
    search: its manifest.json holds the plan and SHA-256 digests of the index and of the queries
    answered so far, and each call reads the index and those queries once to compare them.

    | file | holds |
    |---|---|
    | `manifest.json` | the plan, the digests, how many queries are answered |
    | `chunks/rows-START.npy` | scores and indices of the queries from START; until the end |
    | `answers/scores.npy`, `positions.npy`, `ids.npy` | scores, indices and ids; at the end |

    Args:
        index: the `NestedIndex` to search.
        queries: (queries, width) array or memory map, read `chunk_queries` at a time, or an
            iterable of such arrays of any lengths. A row with NaN or inf gets an empty answer.
            No queries give answers of the shape (0, k). To continue, pass an iterable that starts
            from the first query again.
        plan: `SearchPlan`; its dims must be nesting dims of the index.
        directory: path of a folder that is new, empty, or that of the same search. One process at
            a time may fill it. Of a remote one, a temporary local copy is memory-mapped.
        chunk_queries: int, the queries searched at once and lost at most by an interruption. It
            may change from call to call. Defaults to 4,096.
        progress: bool, whether to show a progress bar. Defaults to `False`.

    Returns:
        A `SearchResult` of the memory-mapped scores, indices and ids, each (queries, k).

    Raises:
        ValueError: queries of another width; a plan with dims that the index does not have;
            `chunk_queries` below 1; a `directory` that holds something else, or a search with
            another plan, index or queries (the text says what differs).
        OSError: a remote folder that can't be read or written.

    Example:

    >>> import os, tempfile
    >>> rows = np.random.default_rng(0).standard_normal((100, 16)).astype("float32")
    >>> index = NestedIndex.build(rows, [4, 8, 16], ids=[f"doc-{i}" for i in range(100)])
    >>> plan = SearchPlan.adaptive(shortlist_dim=4, shortlist=20, rerank_dim=16, k=3)
    >>> folder = os.path.join(tempfile.mkdtemp(), "answers")
    >>> found = bulk_search(index, rows[:50], plan, folder, chunk_queries=20)
    >>> found.ids.shape, found.ids[:2, 0].tolist()
    ((50, 3), ['doc-0', 'doc-1'])
    >>> bulk_search(index, rows[:50], SearchPlan((16,), k=3), folder)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ... holds another search, which differs in: plan.dims ([4, 16] there, [16] here),
    plan.sizes ([20] there, [] here). Choose another folder, or remove this one to start again.
    """
    directory = as_path(directory, "`directory`")
    chunk_queries = whole_number(chunk_queries, "`chunk_queries`")
    source = _query_source(queries, index.width, chunk_queries)
    return run_bulk_search(index, source, plan, directory, chunk_queries, progress)


@dataclass
class QuerySource:
    """Queries that a bulk search reads in order.

    Args:
        chunks: iterable of tuples of arrays (rows, ...), all of one length, from the first query.
        embed: function, such a tuple -> (rows, width) embeddings.
        rows: the number of queries, or `None` where it is not known.
        about: dict of what else identifies these queries, as JSON holds it.
    """

    chunks: Iterable[Sequence[np.ndarray]]
    embed: Callable[[Sequence[np.ndarray]], np.ndarray]
    rows: int | None = None
    about: dict = field(default_factory=dict)


def run_bulk_search(
    index: NestedIndex,
    source: QuerySource,
    plan: SearchPlan,
    directory: str,
    chunk_queries: int,
    progress: bool,
) -> SearchResult:
    """`bulk_search` for a `QuerySource`; queries that are answered already are not embedded."""
    if not isinstance(plan, SearchPlan):
        raise ValueError(f"`plan` must be a SearchPlan. Received {plan!r}.")
    if plan.certified:
        raise ValueError(
            "Certificates are not kept on disk. Give a plan without `certified`, or use "
            "`index.search`."
        )
    plan.check_dims(index.nesting_dims)
    about = {
        "plan": plan_fingerprint(plan),
        "index": index_fingerprint(index),
        "queries": source.about,
    }
    folder = BulkFolder(directory, about, source.rows)
    reader, digest = _Reader(source.chunks), RowDigest()
    with tqdm(total=source.rows, desc="Bulk search", disable=not progress, unit_scale=True) as bar:
        _compare_answered(folder, reader, digest, chunk_queries, bar.update)
        while (chunk := reader.take(chunk_queries)) is not None:
            if folder.is_finished:
                raise ValueError(
                    f"{folder.path} holds the answers of {folder.answered} queries, and `queries` "
                    "go on after them. Choose another folder, or remove this one to start again."
                )
            digest.update(chunk)
            folder.add(index.search(source.embed(chunk), plan), digest.hexdigest())
            bar.update(len(chunk[0]))
    if not folder.is_finished:
        folder.finish(index, plan.k)
    return load_bulk_search(folder.path)


def _compare_answered(folder, reader, digest, chunk_queries, advance):
    """Reads the queries that are answered already, and refuses others."""
    missing = folder.answered
    while missing:
        chunk = reader.take(min(missing, chunk_queries))
        if chunk is None:
            raise ValueError(
                f"{folder.path} holds the answers of {folder.answered} queries, and `queries` end "
                f"after {folder.answered - missing}. Pass the same queries, from the first one "
                "on, or choose another folder."
            )
        digest.update(chunk)
        missing -= len(chunk[0])
        advance(len(chunk[0]))
    if folder.answered and digest.hexdigest() != folder.digest:
        raise ValueError(
            f"{folder.path} holds the answers of other queries: the first {folder.answered} of "
            "`queries` differ from those it answered. Pass the same queries, choose another "
            "folder, or remove this one to start again."
        )


class _Reader:
    """Cuts chunks of any lengths into chunks of the lengths asked for."""

    def __init__(self, chunks):
        self._chunks = iter(chunks)
        self._left = self._row_shapes = None

    def take(self, count: int) -> tuple[np.ndarray, ...] | None:
        """The next `count` rows of every table, fewer at the end, `None` after it."""
        parts = []
        while count and self._fill():
            parts.append(tuple(table[:count] for table in self._left))
            self._left = tuple(table[count:] for table in self._left)
            count -= len(parts[-1][0])
        if len(parts) <= 1:
            return parts[0] if parts else None
        return tuple(np.concatenate(tables) for tables in zip(*parts, strict=True))

    def _fill(self):
        while self._left is None or not len(self._left[0]):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            shapes = [table.shape[1:] for table in chunk]
            if self._row_shapes not in (None, shapes):
                raise ValueError(
                    "Each chunk of queries must hold rows of the same shapes, "
                    f"{self._row_shapes} as in the first one. Received {shapes}."
                )
            self._left, self._row_shapes = tuple(chunk), shapes
        return True


def _query_source(queries, width, chunk_queries):
    if isinstance(queries, np.ndarray) or hasattr(queries, "__array__"):
        matrix = as_array(queries)
        # The shape of a vector is refused with advice; of a matrix, one row tells the rest.
        check_queries(matrix[:1] if matrix.ndim == 2 else matrix, width)
        return QuerySource(_slices(matrix, width, chunk_queries), _first, len(matrix))
    if not isinstance(queries, Iterable) or isinstance(queries, (str, bytes, dict)):
        raise ValueError(
            "`queries` must be an array (queries, width) or an iterable of such arrays. "
            f"Received {type(queries).__name__}."
        )
    return QuerySource(((check_queries(chunk, width),) for chunk in queries), _first)


def _slices(matrix, width, size) -> Iterator[tuple[np.ndarray]]:
    for start in range(0, len(matrix), size):
        yield (check_queries(matrix[start : start + size], width),)


def _first(tables):
    return tables[0]
