import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval import exact_search
from mrl_keras.retrieval.exact import blocked, threads
from tests.retrieval.oracle import LOWEST, assert_top_k, clustered, scores_at


def assert_exact(result, queries, database, k, metric="cosine", tolerance=1e-5):
    for place, dim in enumerate(result.dims):
        truth = scores_at(queries, database, dim, metric)
        assert_top_k(result.scores[place], result.indices[place], truth, k, tolerance)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_oracle(data):
    n_rows, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 12))
    dims = sorted(data.draw(st.sets(st.integers(1, width), min_size=1)))
    k, metric = data.draw(st.integers(1, 80)), data.draw(st.sampled_from(["cosine", "dot"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    # Few values, zeros among them: ties, repeated rows and zero prefixes are common.
    database, queries = (
        rng.choice([0.0, 0.0, 1.0, -1.0, 0.5, 3.0], (count, width)).astype(np.float32)
        for count in (n_rows, data.draw(st.integers(0, 40)))
    )
    result = exact_search(queries, database, dims, k, metric)
    assert result.dims == tuple(dims)
    assert_exact(result, queries, database, k, metric)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("budget", [1 << 30, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_many_tiles_blocks_and_dtypes(metric, budget, dtype):
    database, queries, *_ = clustered(6000, 24, 70)
    database = database.astype(dtype)
    result = exact_search(queries, database, [3, 8, 9, 24], 30, metric, budget)
    assert_exact(result, queries, database, 30, metric)
    assert result.indices.dtype == np.int64


@pytest.mark.parametrize("order", ["rising", "falling", "classes"])
def test_any_order_of_rows(order):
    """Rows that get better and better beat every threshold; sorted classes come in bursts."""
    database, queries, labels, _ = clustered(9000, 8, 5)
    if order == "classes":
        database = database[np.argsort(labels, kind="stable")]
    else:
        nearness = scores_at(queries[:1], database, 8)[0]
        database = database[np.argsort(nearness if order == "rising" else -nearness)]
    assert_exact(exact_search(queries, database, [2, 8], 100), queries, database, 100)


def test_faiss_finds_the_same_neighbours_dim_by_dim():
    faiss = pytest.importorskip("faiss")
    database, queries, *_ = clustered(4000, 64, 50)
    dims = NestingDims.halving(64, smallest=4).with_interpolated()
    result = exact_search(queries, database, dims, 20)
    for place, dim in enumerate(dims):
        rows, asked = (np.ascontiguousarray(side[:, :dim]) for side in (database, queries))
        faiss.normalize_L2(rows)
        faiss.normalize_L2(asked)
        index = faiss.IndexFlatL2(dim)
        index.add(rows)
        distances, found = index.search(asked, 20)
        np.testing.assert_allclose(2 - 2 * result.scores[place], distances, atol=1e-5)
        # Ties aside: where indices differ, the distances are the same to rounding.
        differs = found != result.indices[place]
        assert differs.mean() < 0.01


def test_memory_map_on_disk(tmp_path):
    database, queries, *_ = clustered(3000, 16, 9)
    np.save(tmp_path / "rows.npy", database)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert_exact(exact_search(queries, mapped, [4, 16], 7), queries, database, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("budget", [3 << 20, 6 << 20])
def test_peak_memory_stays_within_the_budget(dtype, budget):
    database, queries, *_ = clustered(6000, 64, 150)
    database = database.astype(dtype)
    dims, k = [8, 16, 32, 64], 50
    answer = len(dims) * len(queries) * k * (4 + 8)
    exact_search(queries[:5], database[:50], dims, 5)
    tracemalloc.start()
    exact_search(queries, database, dims, k, memory_budget=budget)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= budget + answer


def test_blocking_takes_what_the_budget_gives():
    wide = blocked.plan_blocking(10_000, [8, 8], 10**6, 10, False, 1 << 30)
    tight = blocked.plan_blocking(10_000, [8, 8], 10**6, 10, False, 1 << 22)
    assert wide.superblock == 10_000
    assert tight.superblock < 10_000
    assert tight.queries * tight.rows < wide.queries * wide.rows


def test_one_thread_without_threadpoolctl(monkeypatch):
    monkeypatch.setattr(threads, "_blas_controller", lambda: None)
    assert blocked.plan_blocking(1000, [64], 10**6, 10, False, 1 << 30).workers == 1
    database, queries, *_ = clustered(500, 8, 4)
    assert_exact(exact_search(queries, database, [8], 3), queries, database, 3)


def test_several_threads_give_the_same_answer(monkeypatch):
    database, queries, *_ = clustered(3000, 16, 200)
    alone = exact_search(queries, database, [4, 16], 10)
    monkeypatch.setattr(blocked, "_WORTH_THREADS", 1)
    monkeypatch.setattr(blocked, "available_cores", lambda: 3)
    together = exact_search(queries, database, [4, 16], 10)
    np.testing.assert_array_equal(alone.indices, together.indices)
    np.testing.assert_allclose(alone.scores, together.scores, atol=1e-6)


def test_searches_that_overlap_restore_the_blas_threads():
    controller = threads._blas_controller()
    if controller is None:
        pytest.skip("threadpoolctl is not installed")

    def counts():
        return [pool["num_threads"] for pool in controller.info() if pool["user_api"] == "blas"]

    before = counts()
    first, second = threads.blas_threads(1), threads.blas_threads(1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(counts()) == {1}
    second.__exit__(None, None, None)
    assert counts() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_query_rows_get_no_results_and_leave_the_others_alone(bad):
    database, queries, *_ = clustered(400, 8, 6)
    alone = exact_search(queries, database, [4, 8], 5)
    broken = queries.copy()
    broken[2, 3] = bad
    result = exact_search(broken, database, [4, 8], 5)
    assert (result.indices[:, 2] == -1).all()
    assert (result.scores[:, 2] == LOWEST).all()
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(result.indices[:, others], alone.indices[:, others])
    np.testing.assert_array_equal(result.scores[:, others], alone.scores[:, others])


def test_bad_values_past_the_searched_dims_do_no_harm():
    database, queries, *_ = clustered(50, 8, 2)
    database[7, 6] = np.nan
    queries[1, 7] = np.inf
    result = exact_search(queries, database, [2, 4], 3)
    assert_exact(result, queries[:, :4], database[:, :4], 3)


def test_non_finite_database_rows_are_named():
    database, queries, *_ = clustered(9000, 8, 2)
    for row, value in ((3, np.nan), (5000, np.inf), (8999, 3e38)):
        database[row, 1] = value
    with pytest.raises(ValueError, match=r"NaN, inf or overflow: 3, 5000, 8999\."):
        exact_search(queries, database, [4, 8], 3)


def test_many_bad_rows_are_counted():
    database = np.full((100, 4), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"0, 1, .*, 19 and 80 more"):
        exact_search(database[:1], database, [4], 1)


def test_zero_vectors_score_zero():
    database = np.array([[0, 0, 5], [1, 0, 0]], np.float32)
    result = exact_search(np.array([[1, 0, 0], [0, 0, 0]], np.float32), database, [2, 3], 2)
    np.testing.assert_array_equal(result.scores, [[[1, 0], [0, 0]], [[1, 0], [0, 0]]])


def test_empty_batch():
    result = exact_search(np.zeros((0, 4), np.float32), np.ones((5, 4), np.float32), [2, 4], 3)
    assert result.scores.shape == result.indices.shape == (2, 0, 3)


def test_one_prefix_by_its_dim():
    database, queries, *_ = clustered(50, 8, 2)
    result = exact_search(queries, database, [2, 8], 3)
    np.testing.assert_array_equal(result.at(8)[1], result.indices[1])
    np.testing.assert_array_equal(
        exact_search(queries, database, 8, 3).indices[0], result.indices[1]
    )
    with pytest.raises(ValueError, match="must be one of the trained prefixes"):
        result.at(4)


def test_progress_bar_is_shown_only_when_asked_for(capfd):
    database, queries, *_ = clustered(50, 8, 2)
    exact_search(queries, database, [8], 3)
    assert capfd.readouterr().err == ""
    exact_search(queries, database, [8], 3, progress=True)
    assert "Exact search: 100%" in capfd.readouterr().err


ROWS = np.ones((5, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"queries": np.ones((2, 3))}, r"`queries` must be 4 wide, .* Received the shape \(2, 3"),
        ({"queries": np.ones(4)}, r"Received the single vector \(4,\); pass `queries\[None\]`"),
        ({"queries": np.ones((2, 4), bool)}, "`queries` must hold real numbers. .* bool"),
        ({"queries": np.ones((2, 4, 1))}, r"`queries` must have the shape \(rows, dims\)"),
        ({"database": np.ones((0, 4))}, "at least one row. Received an empty database"),
        ({"database": np.array([["a"]])}, "`database` must hold real numbers"),
        ({"dims": [4, 8]}, r"must not exceed the embedding width 4. Received \[4, 8\]"),
        ({"dims": [4, 2]}, "must ascend"),
        ({"dims": []}, "at least one dim"),
        ({"k": 0}, "`k` must be at least 1. Received 0"),
        ({"k": -1}, "`k` must be at least 1. Received -1"),
        ({"k": 2.0}, "`k` must be an int. Received 2.0"),
        ({"metric": "l2"}, "`metric` must be .* Received 'l2'"),
        ({"memory_budget": 10}, "`memory_budget` must be at least .* Received 10"),
        ({"memory_budget": 0}, "`memory_budget` must be at least 1"),
    ],
)
def test_bad_input(arguments, text):
    with pytest.raises(ValueError, match=text):
        exact_search(**{"queries": ROWS[:2], "database": ROWS, "dims": [2, 4], "k": 3, **arguments})
