"""Formulas for the cost of a search and for the size of an index."""

from __future__ import annotations

from collections.abc import Sequence

from mrl_keras.checks import whole_number
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.plan import SearchPlan

_STORAGE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


def mflops_per_query(
    n_rows: int,
    plan: SearchPlan,
    num_leaves: int | None = None,
    incremental: bool = False,
    shortlist=None,
) -> float:
    """Millions of multiply-adds that answer one query, counted as the paper counts.

        MFLOPs = (N D_s + k_1 d_1 + k_2 d_2 + ...) / 10^6

    where D_s finds k_1 rows, d_1 reranks those, and so on. A multiply-add counts once, and each
    rerank counts all of its dims.

    Args:
        n_rows: int, the number of rows N.
        plan: `SearchPlan`.
        num_leaves: int, the leaves of the shortlist's tree. With it, and `plan.leaves`, the
            shortlist costs one product with every centre and with the opened share of the rows
            (leaves taken as equally full): (leaves + N opened / leaves) D_s. `None` counts the
            exact shortlist.
        incremental: bool, whether a rerank counts its new dims only, as `NestedIndex` works:
            the second and later reranks carry the running dot product. Defaults to `False`,
            the paper's count.
        shortlist: optional `ScannSearcher`, `SignSearcher` or `PartitionSearcher` that finds the
            shortlist; its `multiply_adds(plan.leaves)` take the place of N D_s. A word of 64 sign
            bits counts as one, a partition's centres count at D_c and its rows at D_s.

    Raises:
        ValueError: `n_rows` or `num_leaves` below 1, or `num_leaves` below `plan.leaves`.

    >>> plan = SearchPlan.adaptive(shortlist_dim=16, shortlist=200, rerank_dim=2048)
    >>> round(mflops_per_query(1_281_167, plan), 2)
    20.91

    Source: arXiv 2205.13147, Section 4.3.1 and Appendix E (Tables 8 and 10 to 14).
    """
    rows = whole_number(n_rows, "`n_rows`")
    if num_leaves is not None and plan.leaves is not None:
        num_leaves = whole_number(num_leaves, "`num_leaves`")
        if plan.leaves > num_leaves:
            raise ValueError(
                f"`num_leaves` must be at least the plan's leaves={plan.leaves}. "
                f"Received {num_leaves}."
            )
        rows = num_leaves + rows * plan.leaves / num_leaves
    total = rows * plan.shortlist_dim
    if shortlist is not None:
        total = shortlist.multiply_adds(plan.leaves)
    carried = 0
    for size, dim in zip(plan.sizes, plan.rerank_dims, strict=True):
        total += size * (dim - carried)
        carried = dim if incremental else 0
    return total / 1e6


def index_bytes(
    n_rows: int,
    nesting_dims: Sequence[int] | int,
    kind: str = "nested",
    storage: str = "float32",
    id_bytes: int = 8,
    shortlist_blocks: int = 0,
    reorder_dims: int = 0,
) -> float:
    """Bytes of an index on disk, by formula, headers left out.

    - "exact": 4 d for each row, as FAISS IndexFlat.
    - "hnsw32": 4 d + 4 (2 M + M / (M - 1)) + 12 with M = 32, as FAISS IndexHNSWFlat. The bottom
      layer links 2 M rows, layer l >= 1 links M rows with probability M^-l; the 12 are an offset
      and a level.
    - "nested": (4, 2 or 1) d + 4 prefixes (int8: 8, a norm and a scale) + the id + the codes,
      + 4 for the leaf if there are codes, + what ScaNN reorders by, as `NestedIndex`.
      Sign bits add D_s / 64 words of 8 bytes instead, a partition 4 bytes for each leaf of a row.
    - "export": as "nested" and, if there are codes, 8 for the row's own number, since rows stand
      leaf by leaf: the variables of an export. `nesting_dims` are the dims at which its tables
      end: the plan's, without D_s where ScaNN finds the shortlist, without `reorder_dim` where it
      reranks.

    Args:
        n_rows: int, the number of rows N.
        nesting_dims: ascending ints, or the width alone.
        kind: "exact", "hnsw32", "nested" or "export". Defaults to "nested".
        storage: "float32", "bfloat16" or "int8", the nested index's blocks. Defaults to "float32".
        id_bytes: int, bytes of one stored id: 8 for ints, 4 for each character of the longest
            string. Defaults to 8.
        shortlist_blocks: int, codes of a row in the ScaNN shortlist: D_s / dims_per_block, rounded
            up. A code takes one byte on disk. Defaults to 0, no ScaNN.
        reorder_dims: int, the int8 values that ScaNN reorders by: D_s + `reorder_dim` with a
            `reorder_dim`. Defaults to 0, no reordering.

    Raises:
        ValueError: an unknown kind or storage, or a number out of range.

    >>> round(index_bytes(1_281_167, 2048, "exact") / 2**30, 2)
    9.77

    Source: arXiv 2205.13147, Appendix I (Table 20 gives the sizes that the paper measured).
    """
    n_rows = whole_number(n_rows, "`n_rows`")
    dims = NestingDims([nesting_dims] if isinstance(nesting_dims, int) else nesting_dims)
    if storage not in _STORAGE_BYTES:
        raise ValueError(
            f"`storage` must be one of {sorted(_STORAGE_BYTES)}. Received {storage!r}."
        )
    id_bytes = whole_number(id_bytes, "`id_bytes`", least=0)
    blocks = whole_number(shortlist_blocks, "`shortlist_blocks`", least=0)
    links, reorder_dims = 32, whole_number(reorder_dims, "`reorder_dims`", least=0)
    blocks_and_ids = (
        _STORAGE_BYTES[storage] * dims.width
        + id_bytes
        + (blocks + 4 if blocks else 0)
        + reorder_dims
        + (4 * len(dims) if storage == "int8" else 0)
    )
    row_bytes = {
        "exact": 4 * dims.width,
        "hnsw32": 4 * dims.width + 4 * (2 * links + links / (links - 1)) + 12,
        "nested": blocks_and_ids + 4 * len(dims),
        "export": blocks_and_ids + 4 * len(dims) + (8 if blocks else 0),
    }
    if kind not in row_bytes:
        raise ValueError(f"`kind` must be one of {sorted(row_bytes)}. Received {kind!r}.")
    return n_rows * row_bytes[kind]
