"""What a sharded search needs, on paper: machines, memory, disk, queries a second, embedding time.

Arithmetic from constants that are measured on one machine; nothing here was run on a cluster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mrl_keras.checks import whole_number
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.fanout import shard_plan
from mrl_keras.retrieval.index.storage import storage_dtype
from mrl_keras.retrieval.plan import SearchPlan

NORM_BYTES = 4
"""Of the float32 inverse norm that an index keeps for each prefix of a row."""


@dataclass(frozen=True)
class MachineSpeed:
    """One machine, and what it was measured to do.

    Args:
        ram_bytes: float, memory that rows may take.
        disk_bytes: float, SSD that rows may take.
        cores: int.
        scan_dims_per_second: float, products of a query's and a row's dim that one core adds up
            while it scores the rows of a prefix in memory.
        ram_rerank_seconds: float, one core's time for a reranked row whose dims are in memory.
        disk_rerank_seconds: float, the same with a cold read from SSD.
        embed_rows_per_second: float, rows that one worker embeds.

    Raises:
        ValueError: a number that is not above 0.
    """

    ram_bytes: float
    disk_bytes: float
    cores: int
    scan_dims_per_second: float
    ram_rerank_seconds: float
    disk_rerank_seconds: float
    embed_rows_per_second: float

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"`{name}` must be above 0. Received {value!r}.")


class Capacity(NamedTuple):
    """What a search over all rows takes.

    Attributes:
        machines: int, each with one shard.
        ram_bytes, disk_bytes: float, of rows on each machine.
        scan_seconds, rerank_seconds: float, one core's time for one query on each machine.
        latency_seconds: float, of a query on idle machines: scan and rerank.
        queries_per_second: float, of all machines together, every core busy.
        rows_scanned, rows_reranked: float, of all machines together, for one query.
        answer_bytes: int, scores and ids of one query that all shards send.
        embed_seconds: float, to embed all rows on `workers` workers.
    """

    machines: int
    ram_bytes: float
    disk_bytes: float
    scan_seconds: float
    rerank_seconds: float
    latency_seconds: float
    queries_per_second: float
    rows_scanned: float
    rows_reranked: float
    answer_bytes: int
    embed_seconds: float


@dataclass(frozen=True)
class StoredRows:
    """How the rows of a deployment lie.

    Args:
        rows: int, N.
        dims: ints, ascending prefix sizes; the last is the embedding width.
        storage: "float32", "bfloat16" or "int8". Defaults to "bfloat16".
        on_disk: bool, whether the dims after the shortlist's lie on SSD. Defaults to `False`.
        id_bytes: int, of one id. Defaults to 8.

    Raises:
        ValueError: `rows` or `id_bytes` below 1, dims that do not ascend, unknown storage.
    """

    rows: int
    dims: tuple[int, ...]
    storage: str = "bfloat16"
    on_disk: bool = False
    id_bytes: int = 8

    def __post_init__(self):
        whole_number(self.rows, "`rows`"), whole_number(self.id_bytes, "`id_bytes`")
        object.__setattr__(self, "dims", NestingDims(self.dims))
        storage_dtype(self.storage)

    def bytes_of_row(self, plan: SearchPlan) -> tuple[int, int]:
        """(bytes in memory, bytes on SSD) of one row.

        >>> plan = SearchPlan.adaptive(shortlist_dim=16, shortlist=200, rerank_dim=64)
        >>> StoredRows(1000, (16, 64), on_disk=True).bytes_of_row(plan)
        (48, 96)
        """
        size = storage_dtype(self.storage).itemsize
        first, width = plan.shortlist_dim, self.dims.width
        fixed = NORM_BYTES * len(self.dims) + self.id_bytes
        rest = size * (width - first)
        ram = size * first + fixed
        return (ram, rest) if self.on_disk else (ram + rest, 0)


def capacity(
    stored: StoredRows,
    plan: SearchPlan,
    machine: MachineSpeed,
    *,
    opened: float = 1.0,
    miss: float | None = 0.01,
    workers: int = 1,
) -> Capacity:
    """The machines that hold the rows, and what they answer.

        machines  M = max(ceil(N ram_row / RAM), ceil(N disk_row / SSD))
        scan      opened N / M rows of D_s dims, at the measured dims a second of one core
        rerank    the plan of a shard (`shard_plan`), at the measured seconds of a row
        queries   cores / (scan + rerank): every machine works on every query
        answer    M k (4 + id_bytes) bytes a query
        embedding N / (workers rows a second)

    Args:
        stored: `StoredRows`.
        plan: `SearchPlan` of a single index with all rows; each shard runs its `shard_plan`.
        machine: `MachineSpeed`.
        opened: float in (0, 1], the share of the rows that a shortlist scores: 1 is exact, a tree
            opens leaves / all leaves. Defaults to 1.0.
        miss: float or `None`, as for `shard_plan`. Defaults to 0.01.
        workers: int, that embed. Defaults to 1.

    Raises:
        ValueError: dims that are not stored, `opened` out of range, or `workers` below 1.

    Source: arXiv 2205.13147, Section 4.3.1, counts the products; the rest is this module's.
    """
    plan.check_dims(stored.dims)
    workers = whole_number(workers, "`workers`")
    if not 0 < opened <= 1:
        raise ValueError(f"`opened` must lie above 0 and at most 1. Received {opened!r}.")
    ram_row, disk_row = stored.bytes_of_row(plan)
    machines = max(
        math.ceil(stored.rows * ram_row / machine.ram_bytes),
        math.ceil(stored.rows * disk_row / machine.disk_bytes),
        1,
    )
    rows = stored.rows / machines
    scanned = rows * opened
    scan = scanned * plan.shortlist_dim / machine.scan_dims_per_second
    reranked = sum(min(size, rows) for size in shard_plan(plan, machines, miss).sizes)
    each = machine.disk_rerank_seconds if stored.on_disk else machine.ram_rerank_seconds
    rerank = reranked * each
    return Capacity(
        machines=machines,
        ram_bytes=rows * ram_row,
        disk_bytes=rows * disk_row,
        scan_seconds=scan,
        rerank_seconds=rerank,
        latency_seconds=scan + rerank,
        queries_per_second=machine.cores / (scan + rerank),
        rows_scanned=scanned * machines,
        rows_reranked=reranked * machines,
        answer_bytes=machines * plan.k * (4 + stored.id_bytes),
        embed_seconds=stored.rows / (workers * machine.embed_rows_per_second),
    )
