"""How the blocks of an index are stored: float32, bfloat16, or int8 with a scale for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.arrays import as_float32
from mrl_keras.retrieval.quantized import QuantizedRows

STORAGES = ("float32", "bfloat16", "int8")


def storage_dtype(storage: str) -> np.dtype:
    """The dtype of blocks by its name, one of `STORAGES`."""
    if storage not in STORAGES:
        raise ValueError(f"`storage` must be one of {STORAGES}. Received {storage!r}.")
    if storage == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(storage)


def check_storage(storage) -> None:
    """Raises where `storage` is neither a name nor a mapping from dims to names."""
    for name in storage.values() if isinstance(storage, Mapping) else [storage]:
        storage_dtype(name)


def storage_of_blocks(storage: str | Mapping[int, str], dims: NestingDims) -> list[str]:
    """The storage of each block.

    Raises:
        ValueError: a mapping whose dims are not nesting dims, or do not end at the width.

    >>> storage_of_blocks({4: "float32", 16: "int8"}, NestingDims([2, 4, 8, 16]))
    ['float32', 'float32', 'int8', 'int8']
    """
    if not isinstance(storage, Mapping):
        return [storage] * len(dims)
    edges = sorted(storage)
    if not set(edges) <= set(dims) or edges[-1:] != [dims.width]:
        raise ValueError(
            f"`storage` must map nesting dims of {list(dims)} to storages, the last one "
            f"{dims.width}, the width. Received {dict(storage)}."
        )
    return [storage[next(edge for edge in edges if edge >= dim)] for dim in dims]


def shared_storage(blocks: Sequence) -> str | list[str]:
    """The storage of all blocks, or each block's where they differ."""
    names = [block.dtype.name for block in blocks]
    return names[0] if len(set(names)) == 1 else names


def stored(rows: np.ndarray, storage: str):
    """Rows of any real dtype as a block: an array, or `QuantizedRows` for "int8"."""
    if storage == "int8":
        return QuantizedRows.of(as_float32(rows))
    with np.errstate(over="ignore"):
        return rows.astype(storage_dtype(storage))


def tables_of(block) -> list[np.ndarray]:
    """The arrays that a block is made of: itself, or codes and scales."""
    return [block.codes, block.scales] if isinstance(block, QuantizedRows) else [block]


def tables_of_blocks(blocks: Sequence) -> list[np.ndarray]:
    """The arrays of all blocks in order."""
    return [table for block in blocks for table in tables_of(block)]


def table_names(storages: Sequence[str]) -> list[str]:
    """The file of each of `tables_of_blocks`.

    >>> table_names(["bfloat16", "int8"])
    ['block_00.npy', 'block_01.npy', 'scales_01.npy']
    """
    names = []
    for place, storage in enumerate(storages):
        names.append(f"block_{place:02d}.npy")
        if storage == "int8":
            names.append(f"scales_{place:02d}.npy")
    return names


def blocks_of_tables(tables: Sequence[np.ndarray], storages: Sequence[str]) -> tuple:
    """The blocks from `tables_of_blocks` of them."""
    left, blocks = iter(tables), []
    for storage in storages:
        table = next(left)
        blocks.append(QuantizedRows(table, next(left)) if storage == "int8" else table)
    return tuple(blocks)
