"""The options of an index, and the tables and ids that it is built from."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Mapping
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
from mrl_keras.retrieval.index.storage import (
    blocks_of_tables,
    check_storage,
    storage_of_blocks,
    stored,
    table_names,
    tables_of_blocks,
)
from mrl_keras.retrieval.index.tables import GrowingTables, TableFiles
from mrl_keras.retrieval.partition.parameters import PartitionParameters
from mrl_keras.retrieval.scann.parameters import ScannParameters

# What counts as one kind of id: bool is no number here, though Python has it so.
_ID_KINDS = (bool, (str, bytes), numbers.Integral)
_STEP_BYTES = 2 << 20  # rows converted at once; their copies stay in the processor's caches


@dataclass(frozen=True)
class IndexOptions:
    """How `NestedIndex.build` stores rows and finds shortlists.

    Args:
        metric: "cosine" or "dot". Defaults to "cosine".
        storage: "float32", "bfloat16" (half the memory; scores move by about 0.4 %) or "int8" (a
            quarter, and a scale for each row and block). Or a mapping from nesting dims to these:
            `{64: "float32", 384: "int8"}` keeps the blocks up to 64 dims as float32 and the rest
            as int8. Defaults to "float32".
        shortlist_dim: the prefix D_s that ScaNN, sign bits or a partition propose rows from, a
            nesting dim of the index; `None` for none.
        scann: `None` for exact shortlists, a `ScannParameters`, or "auto", which builds ScaNN by
            `scann_parameters(rows, D_s)` where a `shortlist_dim` is given and there are at least
            20,000 rows. Defaults to "auto".
        signs: bool, whether shortlists by `shortlist_dim` are found by the signs of its components,
            one bit each, instead of ScaNN; see `SignSearcher`. Defaults to `False`.
        partition: `PartitionParameters` of leaves, made by a prefix of their own, whose rows are
            scored by `shortlist_dim`, instead of ScaNN; see `PartitionSearcher`. Or a trained
            `mrl_keras.PrefixCodebook`, for `PartitionParameters.of_codebook`. Defaults to `None`.
        chunk_rows: int, rows read at once from an array. Defaults to 16,384.

    Raises:
        ValueError: an unknown metric, storage or `scann`, `chunk_rows` below 1, `signs` or a
            `partition` without a `shortlist_dim`, or two of them and of a `ScannParameters`.

    >>> IndexOptions(storage="bfloat16", shortlist_dim=8).metric
    'cosine'
    """

    metric: str = "cosine"
    storage: str | Mapping[int, str] = "float32"
    shortlist_dim: int | None = None
    scann: str | ScannParameters | None = "auto"
    signs: bool = False
    partition: PartitionParameters | None = None
    chunk_rows: int = 16_384

    def __post_init__(self):
        check_metric(self.metric)
        check_storage(self.storage)
        scann = self.scann
        if scann is not None and scann != "auto" and not isinstance(scann, ScannParameters):
            raise ValueError(
                f'`scann` must be None, "auto" or a ScannParameters. Received {scann!r}.'
            )
        partition = self.partition
        if hasattr(partition, "leaf_centres"):
            partition = PartitionParameters.of_codebook(partition)
            object.__setattr__(self, "partition", partition)
        if partition is not None and not isinstance(partition, PartitionParameters):
            raise ValueError(
                "`partition` must be None, a PartitionParameters or a trained PrefixCodebook. "
                f"Received {partition!r}."
            )
        by = {"signs": self.signs, "partition": self.partition is not None}
        by["scann"] = isinstance(scann, ScannParameters)
        chosen = [name for name, is_chosen in by.items() if is_chosen]
        if chosen not in ([], ["scann"]) and (self.shortlist_dim is None or len(chosen) > 1):
            raise ValueError(
                f"`{chosen[0]}` needs a `shortlist_dim`, and takes the place of ScaNN and of any "
                f"other way to find shortlists. Received shortlist_dim={self.shortlist_dim!r} and "
                f"{' and '.join(chosen)}."
            )
        object.__setattr__(self, "chunk_rows", whole_number(self.chunk_rows, "`chunk_rows`"))


def build_tables(vectors, dims, options, progress, folder=None):
    """(blocks, inverse_norms) of all rows.

    Args:
        vectors, progress: as for `NestedIndex.build`.
        dims: `NestingDims`.
        options: `IndexOptions`.
        folder: optional local folder; the tables are then files in it, and memory maps.
    """
    storages, cosine = storage_of_blocks(options.storage, dims), options.metric == "cosine"
    chunks, total = _chunks(vectors, options.chunk_rows)

    def tables_of_rows(rows, first_row):
        edges = zip(dims.blocks, storages, strict=True)
        blocks = [stored(rows[:, low:high], storage) for (low, high), storage in edges]
        # Norms of what is stored, so that a rounded row still has cosine 1 with itself.
        squared = prefix_squared_norms([as_float32(block) for block in blocks])
        refuse_rows(~np.isfinite(squared[-1]), first_row)
        norms = inverse_norms(squared) if cosine else np.ones_like(squared)
        return [*tables_of_blocks(blocks), norms.T]

    like = tables_of_rows(np.empty((0, dims.width), np.float32), 0)
    if folder is None:
        tables = GrowingTables(like, total)
    else:
        names = [*table_names(storages), "inverse_norms.npy"]
        tables = TableFiles(like, [os.path.join(folder, name) for name in names])
    with tqdm(total=total, desc="Building the index", disable=not progress, unit_scale=True) as bar:
        for chunk in chunks:
            chunk = check_matrix(chunk, "Each chunk of `vectors`", dims.width)
            step = max(1, _STEP_BYTES // (4 * dims.width))
            for start in range(0, len(chunk), step):
                rows = chunk[start : start + step]
                tables.append(tables_of_rows(rows, tables.rows))
                bar.update(len(rows))
    if tables.rows == 0:
        raise ValueError("`vectors` must hold at least one row. Received an empty database.")
    *blocks, norms = tables.finish()
    return blocks_of_tables(blocks, storages), norms


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
        kinds = {next((k for k in _ID_KINDS if isinstance(one, k)), type(one)) for one in ids}
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
