"""The options of an index, and the tables and ids that it is built from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.arrays import (
    as_float32,
    check_matrix,
    check_metric,
    inverse_norms,
    refuse_rows,
)
from mrl_keras.retrieval.exact.blocked import prefix_squared_norms
from mrl_keras.retrieval.scann.parameters import ScannParameters


@dataclass(frozen=True)
class IndexOptions:
    """How `NestedIndex.build` stores rows and finds shortlists.

    Args:
        metric: "cosine" or "dot". Defaults to "cosine".
        storage: "float32" or "bfloat16" (half the memory; scores move by about 0.4 %). Defaults
            to "float32".
        shortlist_dim: the prefix D_s that ScaNN proposes rows from, a nesting dim of the index;
            `None` for none.
        scann: `None` for exact shortlists, a `ScannParameters`, or "auto", which builds ScaNN by
            `scann_parameters(rows, D_s)` where a `shortlist_dim` is given and there are at least
            20,000 rows. Defaults to "auto".
        chunk_rows: int, rows read at once from an array. Defaults to 16,384.

    Raises:
        ValueError: an unknown metric, storage or `scann`, or `chunk_rows` below 1.

    >>> IndexOptions(storage="bfloat16", shortlist_dim=8).metric
    'cosine'
    """

    metric: str = "cosine"
    storage: str = "float32"
    shortlist_dim: int | None = None
    scann: str | ScannParameters | None = "auto"
    chunk_rows: int = 16_384

    def __post_init__(self):
        check_metric(self.metric)
        storage_dtype(self.storage)
        scann = self.scann
        if scann is not None and scann != "auto" and not isinstance(scann, ScannParameters):
            raise ValueError(
                f'`scann` must be None, "auto" or a ScannParameters. Received {scann!r}.'
            )
        object.__setattr__(self, "chunk_rows", whole_number(self.chunk_rows, "`chunk_rows`"))


def storage_dtype(storage: str) -> np.dtype:
    """The dtype of blocks by its name, "float32" or "bfloat16"."""
    if storage == "float32":
        return np.dtype(np.float32)
    if storage == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    raise ValueError(f'`storage` must be "float32" or "bfloat16". Received {storage!r}.')


def build_tables(vectors, dims, options, progress):
    """(blocks, inverse_norms) of all rows.

    Args:
        vectors, progress: as for `NestedIndex.build`.
        dims: `NestingDims`.
        options: `IndexOptions`.
    """
    dtype, cosine = storage_dtype(options.storage), options.metric == "cosine"
    chunks, total = _chunks(vectors, options.chunk_rows)
    growing = _GrowingTables([high - low for low, high in dims.blocks], dtype, total)
    with tqdm(total=total, desc="Building the index", disable=not progress, unit_scale=True) as bar:
        for chunk in chunks:
            chunk = check_matrix(chunk, "Each chunk of `vectors`", dims.width)
            with np.errstate(over="ignore"):
                stored = [chunk[:, low:high].astype(dtype) for low, high in dims.blocks]
            # Norms of what is stored, so that a rounded row still has cosine 1 with itself.
            squared = prefix_squared_norms([as_float32(block) for block in stored])
            refuse_rows(~np.isfinite(squared[-1]), growing.rows)
            norms = inverse_norms(squared) if cosine else np.ones_like(squared)
            growing.append([*stored, norms.T])
            bar.update(len(chunk))
    if growing.rows == 0:
        raise ValueError("`vectors` must hold at least one row. Received an empty database.")
    *blocks, norms = growing.tables
    return tuple(blocks), norms


def _chunks(vectors, chunk_rows):
    """(iterable of row chunks, total rows or None)."""
    if isinstance(vectors, np.ndarray) or hasattr(vectors, "__array__"):
        matrix = check_matrix(vectors, "`vectors`")
        starts = range(0, len(matrix), chunk_rows)
        return (matrix[start : start + chunk_rows] for start in starts), len(matrix)
    if not isinstance(vectors, Iterable) or isinstance(vectors, (str, bytes, dict)):
        raise ValueError(
            "`vectors` must be an array (rows, width) or an iterable of such arrays. "
            f"Received {type(vectors).__name__}."
        )
    return vectors, None


class _GrowingTables:
    """Tables with a common number of rows: allocated at once where the total is known.

    Otherwise each chunk makes them longer in place. The allocator moves large tables by
    remapping pages, so that there are never two copies, as `np.concatenate` would make.
    """

    def __init__(self, widths, dtype, total):
        dtypes = [dtype] * len(widths) + [np.dtype(np.float32)]
        shapes = [(total or 0, width) for width in (*widths, len(widths))]
        self.tables = [np.empty(*made) for made in zip(shapes, dtypes, strict=True)]
        self._known = total is not None
        self.rows = 0

    def append(self, parts):
        stop = self.rows + len(parts[0])
        for table, part in zip(self.tables, parts, strict=True):
            if not self._known:
                table.resize((stop, table.shape[1]), refcheck=False)
            table[self.rows : stop] = part
        self.rows = stop


def check_ids(ids, n_rows: int) -> np.ndarray:
    """Ids as int64 or str (rows,): unique, none missing, none that marks an empty slot."""
    if ids is None:
        return np.arange(n_rows, dtype=np.int64)
    ids = _as_array(ids)
    if ids.ndim != 1 or len(ids) != n_rows:
        raise ValueError(
            f"`ids` must hold one id for each of the {n_rows} rows. Received the shape {ids.shape}."
        )
    pad = -1 if ids.dtype.kind == "i" else ""
    if (ids == pad).any():
        raise ValueError(
            f"`ids` must not hold {pad!r}, which marks an empty slot. "
            f"Received it at row {int(np.flatnonzero(ids == pad)[0])}."
        )
    found, counts = np.unique(ids, return_counts=True)
    if len(found) < n_rows:
        raise ValueError(
            f"`ids` must be unique. Received {found[counts > 1][:5].tolist()} more than once."
        )
    return ids


def _as_array(ids):
    """Ids as int64 or str; NumPy alone would turn [1, "a"] into strings, and floats into ints."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind == "O":
        ids = list(ids)
        kinds = {str if isinstance(one, (str, bytes)) else type(one) for one in ids}
        array = np.asarray(ids) if len(kinds) <= 1 else np.asarray(ids, dtype=object)
    else:
        array = ids
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    wide = array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max
    if array.dtype.kind not in "iuU" or wide:
        raise ValueError(
            "`ids` must all be ints within int64 or all be strings, with none missing. "
            f"Received dtype {array.dtype}."
        )
    return array if array.dtype.kind == "U" else array.astype(np.int64)
