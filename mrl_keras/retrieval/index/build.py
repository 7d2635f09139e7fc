"""Filling an index's tables: block by block, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.arrays import (
    as_float32,
    check_matrix,
    inverse_norms,
    refuse_rows,
)
from mrl_keras.retrieval.exact.blocked import prefix_squared_norms
from mrl_keras.retrieval.scann import parameters as scann_rule


def storage_dtype(storage: str) -> np.dtype:
    """The dtype of blocks by its name, "float32" or "bfloat16"."""
    if storage == "float32":
        return np.dtype(np.float32)
    if storage == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    raise ValueError(f'`storage` must be "float32" or "bfloat16". Received {storage!r}.')


def build_tables(vectors, dims, storage, chunk_rows, cosine, progress):
    """(blocks, inverse_norms) of all rows; see `NestedIndex.build`."""
    dtype = storage_dtype(storage)
    chunks, total = _chunks(vectors, whole_number(chunk_rows, "`chunk_rows`"))
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
    *blocks, norms = growing.tables()
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
    remapping pages, so this never holds two copies.
    """

    def __init__(self, widths, dtype, total):
        dtypes = [dtype] * len(widths) + [np.dtype(np.float32)]
        shapes = [(total or 0, width) for width in (*widths, len(widths))]
        self._tables = [np.empty(*made) for made in zip(shapes, dtypes, strict=True)]
        self._known = total is not None
        self.rows = 0

    def append(self, parts):
        stop = self.rows + len(parts[0])
        for table, part in zip(self._tables, parts, strict=True):
            if not self._known:
                table.resize((stop, table.shape[1]), refcheck=False)
            table[self.rows : stop] = part
        self.rows = stop

    def tables(self):
        return self._tables


def checked_ids(ids, n_rows: int) -> np.ndarray:
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


def shortlist_for(index, shortlist_dim, scann):
    """The ScaNN shortlist that `NestedIndex.build` asks for, or `None` for exact shortlists."""
    if scann is not None and scann != "auto" and not isinstance(scann, scann_rule.ScannParameters):
        raise ValueError(f'`scann` must be None, "auto" or a ScannParameters. Received {scann!r}.')
    if shortlist_dim is None:
        if isinstance(scann, scann_rule.ScannParameters):
            raise ValueError(
                "`shortlist_dim` must name the prefix that ScaNN searches when `scann` is given. "
                f"Received None; choose one of {list(index.nesting_dims)}."
            )
        return None
    index.nesting_dims.index(shortlist_dim)
    blocks = index.blocks_up_to(getattr(scann, "reorder_dim", None) or shortlist_dim)
    if scann is None or (scann == "auto" and len(index) < scann_rule.EXACT_BELOW):
        return None
    from mrl_keras.retrieval.scann.shortlist import ScannShortlist

    prefix = np.concatenate([as_float32(block) for block in blocks], axis=1)
    parameters = None if scann == "auto" else scann
    normalize = index.metric == "cosine"
    return ScannShortlist.build(prefix, parameters, normalize=normalize, dim=shortlist_dim)
