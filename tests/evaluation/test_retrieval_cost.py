import sys

import numpy as np
import pytest

from mrl_keras.evaluation import retrieval_cost

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((400, 16))
QUERIES = ROWS[:20] + 0.1 * RNG.standard_normal((20, 16))


def test_exact_finds_everything_and_its_size_is_arithmetic():
    found = retrieval_cost(QUERIES, ROWS, [4, 16], ["exact"], k=5, repeats=1)
    assert [(cost.system, cost.dim) for cost in found] == [("exact", 4), ("exact", 16)]
    for cost in found:
        assert cost.index_bytes == 400 * (4 * cost.dim + 4 + 8)
        assert (cost.rows, cost.queries, cost.recall) == (400, 20, 1.0)
        assert cost.build_seconds > 0
        assert cost.microseconds_per_query == pytest.approx(cost.search_seconds * 1e6 / 20)


def test_scann_keeps_the_rows_beside_its_codes():
    (exact,) = retrieval_cost(QUERIES, ROWS, [16], ["exact"], k=5, repeats=1)
    (cost,) = retrieval_cost(QUERIES, ROWS, [16], ["scann"], k=5, repeats=1)
    assert cost.index_bytes > exact.index_bytes
    assert 0.5 < cost.recall <= 1.0


def test_hnsw_keeps_rows_and_links():
    pytest.importorskip("faiss")
    (cost,) = retrieval_cost(QUERIES, ROWS, [16], ["hnsw"], k=5, repeats=1)
    # The rows, and at the lowest level two times 32 links of 4 bytes for each row.
    assert cost.index_bytes > 400 * (4 * 16 + 2 * 32 * 4)
    assert 0.8 < cost.recall <= 1.0


def test_a_missing_faiss_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "faiss-cpu>=1.8", or leave "hnsw" out'):
        retrieval_cost(QUERIES, ROWS, [4], ["hnsw"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": ["hsnw"]}, r"`systems` must be some of .* Received \['hsnw'\]"),
        ({"systems": "exact"}, "`systems` must be some of"),
        ({"systems": []}, "`systems` must be some of"),
        ({"k": 401}, "must not exceed the 400 rows. Received 401"),
        ({"dims": [17]}, "d at least 17"),
        ({"database": ROWS[:0]}, "`database` must be"),
        ({"queries": QUERIES * np.nan}, "`queries` must be finite"),
    ],
)
def test_errors(change, message):
    arguments = {"queries": QUERIES, "database": ROWS, "dims": [4], "systems": ["exact"]}
    with pytest.raises(ValueError, match=message):
        retrieval_cost(**{**arguments, **change})
