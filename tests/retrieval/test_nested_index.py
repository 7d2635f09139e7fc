import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    ScannParameters,
    SearchPlan,
    exact_search,
)
from mrl_keras.retrieval.index.storage import tables_of_blocks
from tests.retrieval.oracle import LOWEST, assert_top_k, clustered, funnel, scores_at

DIMS = [4, 8, 16, 32]


@pytest.fixture(scope="module")
def data():
    return clustered(900, 32, 25)


@pytest.fixture(scope="module")
def index(data):
    return NestedIndex.build(data[0], DIMS)


def test_blocks_norms_and_ids(data, index):
    rows = data[0]
    assert [block.shape for block in index.blocks] == [(900, 4), (900, 4), (900, 8), (900, 16)]
    np.testing.assert_array_equal(np.concatenate(index.blocks, axis=1), rows)
    for place, dim in enumerate(DIMS):
        norms = np.linalg.norm(rows[:, :dim], axis=1)
        np.testing.assert_allclose(index.inverse_norms[:, place], 1 / norms, rtol=1e-5)
    np.testing.assert_array_equal(index.ids, np.arange(900))
    assert (len(index), index.width, index.storage) == (900, 32, "float32")
    assert index.shortlist is None
    assert "rows=900" in repr(index)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize(
    "plan",
    [
        SearchPlan((32,)),
        SearchPlan((8,), k=3),
        SearchPlan((4, 32), (50,)),
        SearchPlan((16, 32), (20,), k=20),
        SearchPlan.funnel((4, 8, 16, 32), 100),
        SearchPlan((4, 16, 32), (60, 60), k=60),
    ],
    ids=str,
)
def test_plans_equal_a_funnel_that_scores_from_scratch(data, metric, plan):
    rows, queries, *_ = data
    index = NestedIndex.build(rows, DIMS, options=IndexOptions(metric=metric))
    found = index.search(queries, plan)
    np.testing.assert_array_equal(found.indices, funnel(queries, rows, plan, metric))
    truth = scores_at(queries, rows, plan.dims[-1], metric)
    np.testing.assert_allclose(found.scores, np.take_along_axis(truth, found.indices, 1), atol=1e-4)
    np.testing.assert_array_equal(found.ids, found.indices)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shortlist_of_all_rows_equals_brute_force(data):
    n_rows, width = data.draw(st.integers(1, 40)), data.draw(st.integers(2, 10))
    dims = sorted(data.draw(st.sets(st.integers(1, width - 1)))) + [width]
    stages = sorted(data.draw(st.sets(st.sampled_from(dims[:-1])))) if len(dims) > 1 else []
    metric = data.draw(st.sampled_from(["cosine", "dot"]))
    k = data.draw(st.integers(1, 50))
    size = max(n_rows, k)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, queries = (
        rng.choice([0.0, 1.0, -1.0, 0.25], (count, width)).astype(np.float32)
        for count in (n_rows, data.draw(st.integers(0, 12)))
    )
    index = NestedIndex.build(rows, dims, options=IndexOptions(metric=metric))
    plan = SearchPlan((*stages, width), (size,) * len(stages), k)
    found = index.search(queries, plan)
    assert_top_k(found.scores, found.indices, scores_at(queries, rows, width, metric), k)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_funnel_equals_one_that_scores_from_scratch(data):
    n_rows, k = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 20))
    stages = data.draw(st.lists(st.sampled_from([2, 3, 5, 8]), min_size=1, unique=True))
    sizes = sorted(data.draw(st.integers(k, 70)) for _ in stages[1:])[::-1]
    metric = data.draw(st.sampled_from(["cosine", "dot"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, queries = rng.standard_normal((n_rows, 8)), rng.standard_normal((5, 8))
    rows, queries = rows.astype(np.float32), queries.astype(np.float32)
    plan = SearchPlan(sorted(stages), sizes, k)
    index = NestedIndex.build(rows, [2, 3, 5, 8], options=IndexOptions(metric=metric))
    found = index.search(queries, plan)
    np.testing.assert_array_equal(found.indices, funnel(queries, rows, plan, metric))


def test_bfloat16_scores_what_it_stores(data):
    rows, queries, *_ = data
    index = NestedIndex.build(rows, DIMS, options=IndexOptions(storage="bfloat16"))
    assert index.storage == "bfloat16"
    assert sum(block.nbytes for block in index.blocks) == rows.nbytes // 2
    stored = np.concatenate([block.astype(np.float32) for block in index.blocks], axis=1)
    np.testing.assert_allclose(stored, rows, rtol=2**-8)
    plan = SearchPlan.funnel((4, 16, 32), 100)
    found = index.search(queries, plan)
    np.testing.assert_array_equal(found.indices, funnel(queries, stored, plan))
    assert (index.search(stored[:9], SearchPlan((32,), k=1)).scores <= 1 + 1e-6).all()


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_sources_give_the_same_tables(tmp_path, data, storage):
    rows = data[0]
    np.save(tmp_path / "rows.npy", rows)
    whole = NestedIndex.build(rows, DIMS, options=IndexOptions(storage=storage))
    for source in (
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
        rows.astype(np.float64),
        (rows[start : start + 350] for start in range(0, 900, 350)),
        [rows[:1], rows[1:1], rows[1:]],
    ):
        options = IndexOptions(storage=storage, chunk_rows=128)
        other = NestedIndex.build(source, DIMS, options=options)
        assert other.storage == storage
        tables = (tables_of_blocks(index.blocks) for index in (whole, other))
        for one, two in zip(*tables, strict=True):
            assert one.tobytes() == two.tobytes()
        np.testing.assert_array_equal(whole.inverse_norms, other.inverse_norms)


@pytest.mark.parametrize("generator", [False, True])
def test_building_holds_the_tables_and_one_chunk(generator):
    rows = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
    chunk = 1000
    source = (rows[at : at + chunk] for at in range(0, len(rows), chunk)) if generator else rows
    tracemalloc.start()
    index = NestedIndex.build(source, [16, 64], options=IndexOptions(chunk_rows=chunk))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tables = sum(block.nbytes for block in index.blocks) + index.inverse_norms.nbytes
    ids = index.ids.nbytes
    # A chunk is held in blocks, and once more while its norms are taken.
    assert peak <= tables + 4 * ids + 3 * chunk * 64 * 4


def test_zero_prefixes_score_zero():
    rows = np.array([[0, 0, 3, 4], [1, 0, 0, 0]], np.float32)
    index = NestedIndex.build(rows, [2, 4])
    np.testing.assert_allclose(index.inverse_norms, [[0, 0.2], [1, 1]])
    found = index.search(np.array([[1, 0, 0, 0]], np.float32), SearchPlan((2, 4), (2,), k=2))
    assert found.indices.tolist() == [[1, 0]]
    np.testing.assert_allclose(found.scores, [[1, 0]])
    dot = NestedIndex.build(rows, [2, 4], options=IndexOptions(metric="dot"))
    np.testing.assert_array_equal(dot.inverse_norms, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("ids", "pad"), [([f"doc-{i}" for i in range(5)], ""), ([9, 7, 5, 3, 1], -1), (None, -1)]
)
def test_short_rows_are_padded_never_with_row_0(ids, pad):
    rows = np.eye(5, 8, dtype=np.float32)
    index = NestedIndex.build(rows, [4, 8], ids=ids)
    for plan in (SearchPlan((8,), k=7), SearchPlan((4, 8), (9,), k=7)):
        found = index.search(rows[2:4], plan)
        assert found.ids.shape == found.scores.shape == found.indices.shape == (2, 7)
        assert (found.indices[:, 5:] == -1).all()
        assert (found.ids[:, 5:] == pad).all()
        assert (found.scores[:, 5:] == LOWEST).all()
        for indices, names in zip(found.indices, found.ids, strict=True):
            assert sorted(indices[:5]) == [0, 1, 2, 3, 4]
            assert names[:5].tolist() == index.ids[indices[:5]].tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25])
@pytest.mark.parametrize("column", [0, 31])
def test_bad_query_rows_get_no_results_and_leave_the_others_alone(data, index, bad, column):
    queries = data[1][:6].copy()
    for plan in (SearchPlan((32,)), SearchPlan((8,)), SearchPlan.funnel((4, 16, 32), 40)):
        alone = index.search(queries, plan)
        broken = queries.copy()
        broken[3, column] = bad
        found = index.search(broken, plan)
        assert (found.indices[3] == -1).all()
        assert (found.ids[3] == -1).all()
        assert (found.scores[3] == LOWEST).all()
        others = [0, 1, 2, 4, 5]
        for before, after in zip(alone, found, strict=True):
            np.testing.assert_array_equal(before[others], after[others])


def test_empty_batch(index):
    for plan in (SearchPlan((32,)), SearchPlan((4, 32), (20,))):
        found = index.search(np.zeros((0, 32)), plan)
        assert [part.shape for part in found] == [(0, 10)] * 3


def test_rerank_masks_empty_slots_and_repeats(data, index):
    rows, queries, *_ = data
    candidates = np.array([[7, -1, 3, 7, 7, 500], [-1] * 6])
    scores, indices = index.rerank(queries[:2], candidates, [16, 32], [4], k=4)
    assert sorted(indices[0, :3]) == [3, 7, 500]
    truth = scores_at(queries[:1], rows, 32)[0]
    np.testing.assert_allclose(scores[0, :3], truth[indices[0, :3]], atol=1e-5)
    assert (np.diff(scores[0]) <= 0).all()
    assert indices[0, 3] == -1
    assert scores[0, 3] == LOWEST
    assert (indices[1] == -1).all()
    assert (scores[1] == LOWEST).all()


def test_rerank_without_candidates(data, index):
    scores, indices = index.rerank(data[1][:2], np.zeros((2, 0), int), [32], k=3)
    assert indices.tolist() == [[-1] * 3] * 2
    assert (scores == LOWEST).all()


class ReadRecorder(np.ndarray):
    """Counts the floats that are gathered from it."""

    gathered = 0

    def take(self, *args, **kwargs):
        taken = np.asarray(super().take(*args, **kwargs))
        self.gathered += taken.size
        return taken


def test_each_stage_reads_only_its_new_dims(data, index):
    blocks = [block.view(ReadRecorder) for block in index.blocks]
    watched = NestedIndex(DIMS, blocks, index.inverse_norms, index.ids)
    candidates = np.tile(np.arange(100), (2, 1))
    watched.rerank(data[1][:2], candidates, [8, 16, 32], [30, 10], k=5)
    # 100 rows at the first 8 dims (two blocks), 30 rows of 8 more, 10 rows of 16 more.
    assert [block.gathered for block in blocks] == [2 * n for n in (400, 400, 240, 160)]


def test_one_prefix_of_the_index_equals_exact_search(data, index):
    rows, queries, *_ = data
    scores, indices = index.search_exactly(queries, 16, 12)
    exact = exact_search(queries, rows, [16], 12)
    np.testing.assert_array_equal(indices, exact.indices[0])
    np.testing.assert_allclose(scores, exact.scores[0], atol=1e-6)
    np.testing.assert_array_equal(index.find_shortlist(queries, 16, 12), indices)


ROWS = np.ones((3, 4), np.float32)


def _broken(row, value, dtype=np.float32):
    rows = np.ones((50, 4), dtype)
    rows[row, 2] = value
    return rows


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"vectors": np.ones((0, 4))}, "at least one row. Received an empty database"),
        ({"vectors": iter(())}, "at least one row. Received an empty database"),
        ({"vectors": np.ones((3, 5))}, r"must be 4 wide, .* Received the shape \(3, 5\)"),
        ({"vectors": iter([ROWS, np.ones((2, 3))])}, r"must be 4 wide.* \(2, 3\)"),
        ({"vectors": ROWS[0]}, r"must have the shape \(rows, dims\). Received \(4,\)"),
        ({"vectors": "rows"}, "an array .* or an iterable of such arrays. Received str"),
        ({"vectors": 7}, "an array .* or an iterable of such arrays. Received int"),
        ({"vectors": ROWS > 0}, "must hold real numbers. Received dtype bool"),
        ({"vectors": _broken(41, np.nan), "chunk_rows": 20}, r"overflow: 41\."),
        ({"vectors": _broken(7, -np.inf)}, r"overflow: 7\."),
        ({"vectors": _broken(7, 1e30)}, r"overflow: 7\."),
        ({"vectors": _broken(7, 1e300, np.float64)}, r"overflow: 7\."),
        ({"nesting_dims": [4, 2]}, "must ascend"),
        ({"metric": "l2"}, "`metric` must be"),
        ({"storage": "int4"}, "`storage` must be one of .* Received 'int4'"),
        ({"chunk_rows": 0}, "`chunk_rows` must be at least 1"),
        ({"ids": [1, 2]}, r"one id for each of the 3 rows. Received the shape \(2,\)"),
        ({"ids": [[1], [2], [3]]}, "one id for each of the 3 rows|must all be ints"),
        ({"ids": [1, 2, 2]}, r"must be unique. Received \[2\] more than once"),
        ({"ids": ["a", "b", "a"]}, r"must be unique. Received \['a'\] more than once"),
        ({"ids": [1, None, 3]}, "with none missing. Received dtype object"),
        ({"ids": ["a", None, "b"]}, "with none missing. Received dtype object"),
        ({"ids": [1, "a", 3]}, "must all be ints within int64 or all be strings"),
        ({"ids": [1.0, 2.0, 3.0]}, "Received dtype float64"),
        ({"ids": [1, 2, 2**63]}, "must all be ints within int64"),
        ({"ids": [0, -1, 1]}, "must not hold -1, which marks an empty slot. .* row 1"),
        ({"ids": ["a", "", "b"]}, "must not hold '', which marks an empty slot"),
        ({"shortlist_dim": 3}, "`dim` must be one of the trained prefixes"),
        ({"scann": "yes"}, "`scann` must be None, \"auto\" or a ScannParameters. Received 'yes'"),
        ({"scann": ScannParameters(2, 1)}, "`shortlist_dim` must name the prefix"),
    ],
)
def test_bad_databases(arguments, text):
    given = {
        name: arguments[name] for name in ("vectors", "nesting_dims", "ids") if name in arguments
    }
    options = {name: value for name, value in arguments.items() if name not in given}
    with pytest.raises(ValueError, match=text):
        NestedIndex.build(
            **{"vectors": ROWS, "nesting_dims": [2, 4], **given}, options=IndexOptions(**options)
        )


def test_ids_and_indices_are_each_others_inverse():
    index = NestedIndex.build(ROWS, [4], ids=["b", "c", "a"])
    assert index.indices_of(["a", "", "b"]).tolist() == [2, -1, 0]
    assert index.ids_at(np.array([2, -1, 0])).tolist() == ["a", "", "b"]


def test_progress_bar_counts_rows(capfd):
    NestedIndex.build(ROWS, [4], progress=True)
    assert "Building the index: 100%" in capfd.readouterr().err


def test_object_and_byte_ids_become_strings():
    made = [
        NestedIndex.build(ROWS, [4], ids=ids).ids
        for ids in (np.array(["a", "bc", "d"], object), [b"a", b"bc", b"d"])
    ]
    for ids in made:
        assert ids.tolist() == ["a", "bc", "d"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda ix, q: ix.search(q[:, :8], SearchPlan((32,))), "`queries` must be 32 wide"),
        (lambda ix, q: ix.search(q[0], SearchPlan((32,))), r"pass `queries\[None\]`"),
        (lambda ix, q: ix.search(q, SearchPlan((12, 32), (20,))), r"Received \[12\] beside them"),
        (lambda ix, q: ix.search_exactly(q[:, :8], 16, 5), r"at least 16 wide. .* \(25, 8\)"),
        (lambda ix, q: ix.search_exactly(q, 12, 5), "one of the trained prefixes"),
        (lambda ix, q: ix.find_shortlist(q, 16, 0), "`k` must be at least 1"),
        (lambda ix, q: ix.indices_of([5, 900]), r"must be in the index. Received \[900\]"),
        (lambda ix, q: ix.rerank(q, np.zeros((25, 3), int), [12]), r"Received \[12\]"),
        (lambda ix, q: ix.rerank(q, np.zeros((24, 3), int), [32]), "must be ints of the shape"),
        (lambda ix, q: ix.rerank(q, np.zeros((25, 3)), [32]), "must be ints .* float64"),
        (lambda ix, q: ix.rerank(q, np.full((25, 3), 900), [32]), "between 0 and 899.* 900"),
        (lambda ix, q: ix.rerank(q, np.full((25, 3), -2), [32]), "be -1 for an empty slot.* -2"),
        (lambda ix, q: ix.rerank(q, np.zeros((25, 3), int), [16, 32]), "one number fewer"),
        (lambda ix, q: ix.rerank(q, np.zeros((25, 3), int), [32], k=0), "`k` must be at least 1"),
    ],
)
def test_bad_searches(data, index, call, text):
    with pytest.raises(ValueError, match=text):
        call(index, data[1])


def test_ids_of_several_whole_number_types_are_numbers():
    index = NestedIndex.build(np.eye(3), [3], ids=[1, np.int64(2), np.int32(7)])
    assert index.ids.tolist() == [1, 2, 7]
    with pytest.raises(ValueError, match="must all be ints"):
        NestedIndex.build(np.eye(3), [3], ids=[1, True, 7])


def test_rerank_takes_sequences(index, data):
    queries = data[1][:2]
    candidates = np.zeros((2, 1), int)
    for wrong in ({"dims": DIMS[-1]}, {"dims": DIMS[-1:], "sizes": 5}):
        with pytest.raises(ValueError, match="Received"):
            index.rerank(queries, candidates, **wrong)
