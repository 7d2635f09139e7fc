"""The arithmetic of the cost model, worked by hand."""

import pytest
from scipy.stats import binom

from mrl_keras.retrieval import SearchPlan
from mrl_keras.scale import MachineSpeed, StoredRows, capacity

GB = 1e9
SPEED = {
    "ram_bytes": 100 * GB,
    "disk_bytes": 1000 * GB,
    "cores": 10,
    "scan_dims_per_second": 2 * GB,
    "ram_rerank_seconds": 1e-6,
    "disk_rerank_seconds": 1e-4,
    "embed_rows_per_second": 500.0,
}
MACHINE = MachineSpeed(**SPEED)
PLAN = SearchPlan((16, 2048), (200,), k=10)
DIMS = (8, 16, 2048)


def test_rows_in_memory():
    stored = StoredRows(10**8, DIMS)
    # 2048 bfloat16, three float32 norms, an int64: 4096 + 12 + 8 bytes.
    found = capacity(stored, PLAN, MACHINE, miss=None, workers=4)
    assert found.machines == 5  # 411.6 GB
    assert found.ram_bytes == 10**8 * 4116 / 5
    assert found.disk_bytes == 0
    assert found.rows_scanned == 10**8
    assert found.scan_seconds == pytest.approx(2e7 * 16 / 2e9)
    assert found.rerank_seconds == pytest.approx(200e-6)
    assert found.rows_reranked == 1000
    assert found.queries_per_second == pytest.approx(10 / (0.16 + 200e-6))
    assert found.latency_seconds == pytest.approx(0.1602)
    assert found.answer_bytes == 5 * 10 * 12
    assert found.embed_seconds == 10**8 / 2000


def test_the_dims_that_are_only_reranked_on_disk():
    stored = StoredRows(10**9, DIMS, "int8", on_disk=True)
    found = capacity(stored, PLAN, MACHINE, opened=0.01)
    # 16 + 12 + 8 bytes in memory, 2032 on disk: 36 GB fit one machine, 2032 GB need three.
    assert found.machines == 3
    assert found.ram_bytes == pytest.approx(12 * GB)
    assert found.disk_bytes == pytest.approx(2032 * GB / 3)
    assert found.scan_seconds == pytest.approx(1e9 / 3 * 0.01 * 16 / 2e9)
    share = binom.ppf(1 - 0.01 / 3, 200, 1 / 3)
    assert found.rerank_seconds == pytest.approx(share * 1e-4)
    assert found.rows_reranked == pytest.approx(3 * share)


def test_a_plan_of_one_dim_reranks_nothing():
    found = capacity(StoredRows(1000, (64,)), SearchPlan((64,)), MACHINE)
    assert (found.machines, found.rerank_seconds, found.rows_reranked) == (1, 0, 0)


def test_a_shard_reranks_no_more_rows_than_it_has():
    tiny = MachineSpeed(**{**SPEED, "ram_bytes": 4116 * 50})
    found = capacity(StoredRows(100, DIMS), PLAN, tiny, miss=None)
    assert (found.machines, found.rows_reranked) == (2, 100)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MachineSpeed(**{**SPEED, "cores": 0}), "`cores` must be above 0"),
        (lambda: StoredRows(0, DIMS), "`rows` must be at least 1"),
        (lambda: StoredRows(1, DIMS, "float16"), "`storage` must be one of"),
        (lambda: capacity(StoredRows(1, (8, 16)), PLAN, MACHINE), r"Received \[2048\]"),
        (lambda: capacity(StoredRows(1, DIMS), PLAN, MACHINE, opened=0), "`opened` must lie"),
        (lambda: capacity(StoredRows(1, DIMS), PLAN, MACHINE, workers=0), "`workers` must be"),
        (lambda: capacity(StoredRows(1, DIMS), PLAN, MACHINE, miss=3), "`miss` must lie"),
    ],
)
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()
