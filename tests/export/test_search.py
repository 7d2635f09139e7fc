"""The nested search in the graph, against `NestedIndex.search` and a NumPy oracle."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mrl_keras.export.graph.search import LOWEST_SCORE, NestedSearch
from mrl_keras.export.graph.shortlists import (
    ExactShortlist,
    PartitionShortlist,
    ScannShortlist,
    SignShortlist,
)
from mrl_keras.export.graph.tables import (
    PrefixTable,
    variable_from_ids,
    variable_from_rows,
)
from mrl_keras.retrieval import IndexOptions, NestedIndex, PartitionParameters, SearchPlan
from tests.export import cases

MIXED = ((8, "float32"), (32, "int8"))
KINDS = ["scann", "reordering scann", "partition", "exact"]
EVERYTHING = SearchPlan((8, 16, 32), (cases.ROWS, cases.ROWS), k=7, leaves=25)


def searched(search, queries, k=None, shortlist=None, leaves=None):
    plan = search.plan
    return search.search(
        tf.constant(queries, tf.float32),
        plan.k if k is None else k,
        plan.shortlist_size if shortlist is None else shortlist,
        search.default_leaves if leaves is None else leaves,
    )


def oracle(vectors, queries, k):
    """Exact cosine over all dims, by NumPy in double precision: scores and indices."""
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries, vectors)]
    scores = unit[0].astype("float64") @ unit[1].T.astype("float64")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.fixture(scope="module")
def scann_index():
    return cases.index()


@pytest.fixture(scope="module")
def scann_search(scann_index):
    search = NestedSearch(scann_index, cases.PLAN, ScannShortlist)
    search.finder.searcher._initialize()  # what a SavedModel's init op does
    return search


@pytest.fixture(scope="module")
def reordering():
    """(index, search) whose first rerank ScaNN does."""
    index = cases.index(reorder_dim=16)
    search = NestedSearch(index, cases.PLAN, ScannShortlist)
    search.finder.searcher._initialize()
    return index, search


@pytest.mark.parametrize("reorders", [False, True])
@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_scann_answers_as_in_memory(scann_index, scann_search, reordering, count, reorders):
    index, search = reordering if reorders else (scann_index, scann_search)
    queries = cases.queries(count)
    expected = index.search(queries, cases.PLAN)
    found = searched(search, queries)
    assert found["ids"].numpy().astype(str).tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(found["indices"], expected.indices)
    np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-5)
    assert [table.low for table in search.tables] == ([0] if reorders else [0, 16])


@pytest.mark.parametrize("reorders", [False, True])
@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("length", [2.0**-40, 2.0**-15, 2.0**15, 2.0**40])
def test_the_length_of_a_query_changes_no_answer(
    scann_index, scann_search, reordering, length, count, reorders
):
    index, search = reordering if reorders else (scann_index, scann_search)
    queries = cases.queries(count)
    expected, found = searched(search, queries), searched(search, queries * np.float32(length))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    one, other = (index.search(q, cases.PLAN) for q in (queries, queries * np.float32(length)))
    np.testing.assert_array_equal(one.ids, other.ids)


def test_the_released_parts_leave_the_searcher_alone(scann_search):
    assert all(tf.size(part) == 0 for part in scann_search.finder.parts.parts.values())
    assert searched(scann_search, cases.queries(3))["indices"].shape == (3, 7)


def test_without_its_init_op_the_searcher_fails_cleanly(scann_index):
    search = NestedSearch(scann_index, cases.PLAN, ScannShortlist)
    with pytest.raises(tf.errors.OpError, match="null"):
        searched(search, cases.queries(2))


@pytest.mark.parametrize("kind", ["scann", "reordering scann", "partition"])
def test_all_leaves_and_rows_are_brute_force(scann_index, reordering, kind):
    index = reordering[0] if kind == "reordering scann" else scann_index
    if kind == "partition":
        search = NestedSearch(index, EVERYTHING, PartitionShortlist)
    else:
        search = NestedSearch(index, EVERYTHING, ScannShortlist)
        search.finder.searcher._initialize()
    assert search.finder.reranks == (kind == "reordering scann")
    queries = cases.queries()
    scores, indices = oracle(cases.vectors(), queries, 7)
    found = searched(search, queries)
    np.testing.assert_array_equal(found["indices"], indices)
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-5)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8", MIXED])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("plan", [SearchPlan((32,), k=9), cases.PLAN, SearchPlan((4, 16), (30,))])
def test_exact_shortlists_answer_as_in_memory(storage, metric, plan):
    options = IndexOptions(metric, dict(storage) if storage == MIXED else storage)
    index = NestedIndex.build(cases.vectors(), cases.DIMS, options=options)
    search = NestedSearch(index, plan, ExactShortlist)
    expected = index.search(cases.queries(), plan)
    found = searched(search, cases.queries())
    np.testing.assert_array_equal(found["ids"], expected.ids)
    np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_the_partition_searches_the_leaves_that_scann_opens(metric):
    index = cases.index(metric=metric, storage="bfloat16", ids=False)
    queries, count = cases.queries(20), 3
    search = NestedSearch(index, cases.PLAN, PartitionShortlist)
    found = searched(search, queries, leaves=count)["indices"].numpy()
    leaves = index.shortlist.partition()
    centres, order, starts = leaves.centres, leaves.order, leaves.starts
    unit = queries[:, :8] / np.linalg.norm(queries[:, :8], axis=1, keepdims=True)
    for query, indices in enumerate(found):
        opened = np.argsort(-(centres @ unit[query]))[:count]
        inside = np.concatenate([order[starts[leaf] : starts[leaf + 1]] for leaf in opened])
        assert set(indices) <= set(inside)
        expected = index.rerank(
            queries[query : query + 1], inside[None], cases.PLAN.dims, (60, 20), 7
        )
        np.testing.assert_array_equal(indices, expected[1][0])


def test_database_chunks_do_not_change_exact_shortlists(monkeypatch):
    index = cases.index(scann=False, ids=False)
    whole = ExactShortlist(index, cases.PLAN).find(tf.constant(cases.queries()), True, 25, 1)
    monkeypatch.setattr("mrl_keras.export.graph.shortlists._CHUNK_ROWS", 300)
    for one, other in zip(
        whole,
        ExactShortlist(index, cases.PLAN).find(tf.constant(cases.queries()), True, 25, 1),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("shortlist", [100_000, 10_000_000, 2**31 - 1])
def test_the_longest_shortlist_is_searched_a_query_at_a_time(shortlist):
    # Its gather takes more bytes than an int32 holds.
    search = NestedSearch(cases.index(), SearchPlan((4, 32), (60,), 7), ExactShortlist)
    for numbers in ((shortlist, 7), (tf.constant(shortlist), tf.constant(7))):
        fitting = int(search._most_queries(*numbers))
        assert fitting == max((32 << 20) // (4 * 28) // shortlist, 1)


def test_the_gather_budget_only_cuts_blocks(monkeypatch):
    index = cases.index(scann=False, ids=False)
    monkeypatch.setattr("mrl_keras.export.graph.search._BLOCK_BYTES", 3 * 60 * 4 * 9)
    search = NestedSearch(index, cases.PLAN, ExactShortlist)
    expected = index.search(cases.queries(), cases.PLAN)
    np.testing.assert_array_equal(searched(search, cases.queries())["ids"], expected.ids)


@pytest.mark.parametrize("count", [3, 40, 300])
def test_equal_scores_come_by_ascending_index(count):
    random = np.random.default_rng(0)
    signs = np.where(random.random((20, 32)) < 0.5, -1.0, 1.0)
    rows = signs[random.permutation(np.repeat(np.arange(20), 30))]
    index = NestedIndex.build(
        rows,
        cases.DIMS,
        options=IndexOptions(metric="dot", shortlist_dim=8, partition=PartitionParameters(8, 9, 9)),
    )
    plan = SearchPlan((8, 32), (200,), k=50, leaves=9)
    search = NestedSearch(index, plan, PartitionShortlist)
    assert (np.diff(search.row_indices[:-1]) < 0).any()
    found = searched(search, signs[np.arange(count) % 20])
    scores, indices = found["scores"].numpy(), found["indices"].numpy()
    equal = scores[:, 1:] == scores[:, :-1]
    assert 0.5 < equal.mean() < 1
    assert (np.diff(indices)[equal] > 0).all()


@pytest.fixture(scope="module")
def finders(scann_index, scann_search, reordering):
    exact = cases.index(scann=False)
    return {
        "scann": scann_search,
        "reordering scann": reordering[1],
        "partition": NestedSearch(scann_index, cases.PLAN, PartitionShortlist),
        "exact": NestedSearch(exact, cases.PLAN, ExactShortlist),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [5, 40])
def test_bad_queries_get_nothing_and_leave_others_alone(finders, kind, count):
    queries = cases.queries(count)
    clean = searched(finders[kind], queries)
    queries[1, 3], queries[2, 31], queries[4] = np.nan, np.inf, 1e30
    found = searched(finders[kind], queries)
    bad = [1, 2, 4]
    assert (found["indices"].numpy()[bad] == -1).all()
    assert (found["ids"].numpy()[bad] == b"").all()
    assert (found["scores"].numpy()[bad] == LOWEST_SCORE).all()
    others = [row for row in range(count) if row not in bad]
    for name in found:
        np.testing.assert_array_equal(
            found[name].numpy()[others], clean[name].numpy()[others], err_msg=name
        )


@pytest.mark.parametrize("kind", KINDS)
def test_no_queries_give_an_empty_answer(finders, kind):
    found = searched(finders[kind], np.zeros((0, 32)))
    assert {name: tuple(part.shape) for name, part in found.items()} == dict.fromkeys(
        ("ids", "indices", "scores"), (0, 7)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 30])
def test_a_zero_query_scores_zero(finders, kind, count):
    found = searched(finders[kind], np.zeros((count, 32)))
    assert (found["scores"].numpy() == 0).all()
    assert (found["indices"].numpy() >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "k"), [(20, 500), (1, 500), (1, 100)])
def test_short_answers_are_padded_and_hold_no_row_twice(finders, kind, count, k):
    found = searched(finders[kind], cases.queries(count), k=k, shortlist=k, leaves=1)
    indices, scores = found["indices"].numpy(), found["scores"].numpy()
    assert indices.shape == scores.shape == (count, k)
    for row in range(count):
        real = indices[row][indices[row] >= 0]
        assert len(set(real)) == len(real)
        assert (indices[row][len(real) :] == -1).all()
        assert (scores[row][len(real) :] == LOWEST_SCORE).all()
        assert np.isfinite(scores[row]).all()
        assert (np.diff(scores[row][: len(real)]) <= 1e-6).all()
    assert (indices < 0).any() == (kind != "exact")
    zeros = searched(finders[kind], np.zeros((count, 32)), k=k, shortlist=k, leaves=1)
    real = zeros["indices"].numpy() >= 0
    np.testing.assert_array_equal(zeros["scores"], np.where(real, 0, LOWEST_SCORE))


def test_each_row_has_its_own_shortlist(finders):
    queries, sizes = cases.queries(20), np.array([7, 60] * 10)
    search = finders["partition"]
    numbers = tf.fill([20], 7), tf.constant(sizes, tf.int32)
    mixed = search.search(tf.constant(queries), 7, 60, 6, numbers)
    for size in (7, 60):
        alone = searched(search, queries[sizes == size], shortlist=size)
        np.testing.assert_array_equal(mixed["indices"].numpy()[sizes == size], alone["indices"])


def test_equal_rows_come_by_index():
    rows = np.repeat(cases.vectors(50), 4, axis=0)
    index = NestedIndex.build(rows, cases.DIMS)
    plan = SearchPlan((8, 32), (40,), k=12)
    found = searched(NestedSearch(index, plan, ExactShortlist), rows[::4])
    expected = index.search(rows[::4], plan)
    np.testing.assert_array_equal(found["indices"], expected.indices)


@settings(max_examples=6, deadline=None)
@example(rows=9, k=3, count=0, storage="int8", seed=0)
@given(
    rows=st.integers(1, 60),
    k=st.integers(1, 70),
    count=st.integers(0, 20),
    storage=st.sampled_from(["float32", "bfloat16", "int8"]),
    seed=st.integers(0, 5),
)
def test_a_whole_shortlist_is_brute_force(rows, k, count, storage, seed):
    index = cases.index(seed, scann=False, storage=storage, ids=False, rows=rows)
    plan = SearchPlan((4, 16, 32), (max(rows, k), max(rows, k)), k)
    stored = np.concatenate([np.asarray(block, "float32") for block in index.blocks], axis=1)
    queries = cases.queries(count, seed)
    found = searched(NestedSearch(index, plan, ExactShortlist), queries)
    scores, indices = oracle(stored, queries, k)
    real = min(rows, k)
    np.testing.assert_array_equal(found["indices"].numpy()[:, :real], indices)
    np.testing.assert_allclose(found["scores"].numpy()[:, :real], scores, rtol=1e-4, atol=1e-6)
    assert (found["indices"].numpy()[:, real:] == -1).all()


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_a_table_holds_dims_norms_and_an_empty_row(storage):
    index = cases.index(scann=False, storage=storage, rows=50)
    table = PrefixTable(index, 4, 16, order=np.arange(50)[::-1])
    rows = table.rows.numpy().astype("float32")
    stored = np.concatenate([block.astype("float32") for block in index.blocks], axis=1)
    np.testing.assert_array_equal(rows[:50], stored[::-1, 4:16])
    np.testing.assert_array_equal(table.norms[:50], index.inverse_norms[::-1, 2])
    assert rows[50].sum() == 0
    assert table.norms[50] == 1


def test_a_table_reads_blocks_on_disk_once_and_in_order(monkeypatch):
    monkeypatch.setattr("mrl_keras.export.graph.tables._SLICE_BYTES", 128)
    index, read = cases.index(scann=False, rows=50), []

    class Recorded(np.ndarray):
        def __getitem__(self, rows):
            read.append(rows)
            return super().__getitem__(rows)

    index.blocks = tuple(block.view(Recorded) for block in index.blocks)
    PrefixTable(index, 4, 8, order=np.random.default_rng(0).permutation(50))
    read = [(part.start, part.stop) for part in read if len(range(50)[part])]
    assert read[0] == (0, 1)  # to know the width
    stops = [stop for _, stop in read[1:]]
    assert [start for start, _ in read[1:]] == [0, *stops[:-1]]
    assert stops[-1] == 50
    assert len(stops) > 5


@pytest.mark.parametrize("dtype", ["float32", "int32", tf.bfloat16.as_numpy_dtype])
def test_variables_are_filled_in_slices(dtype, monkeypatch):
    monkeypatch.setattr("mrl_keras.export.graph.tables._SLICE_BYTES", 64)
    values, slices = np.arange(300).reshape(100, 3).astype(dtype), []

    def rows(start, stop):
        slices.append((start, stop))
        return values[start:stop]

    variable = variable_from_rows((100, 3), dtype, rows, "x")
    np.testing.assert_array_equal(variable.numpy(), values)
    assert len(slices) > 5
    assert slices[-1][1] == 100


def test_ids_end_with_an_empty_one():
    assert variable_from_ids(np.array(["a", "ü"])).numpy().tolist() == [b"a", "ü".encode(), b""]
    assert variable_from_ids(np.array([5, 7])).numpy().tolist() == [5, 7, -1]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_a_table_of_codes_holds_scales_norms_and_an_empty_row(metric):
    options = IndexOptions(metric, "int8")
    index = NestedIndex.build(cases.vectors(50), cases.DIMS, options=options)
    table = PrefixTable(index, 4, 32, order=np.arange(50)[::-1])
    assert table.rows.dtype == tf.int8
    assert table.rows.shape == (51, 28 + 4 * 3)
    stored = np.concatenate([np.asarray(block, "float32") for block in index.blocks], axis=1)
    values = table.values(table.rows)
    np.testing.assert_array_equal(values[:50], stored[::-1, 4:])
    assert (values[50].numpy() == 0).all()
    if metric == "dot":
        assert table.norms is None
    else:
        np.testing.assert_array_equal(table.norms[:50], index.inverse_norms[::-1, 3])
        assert table.norms[50] == 1


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 1])
def test_sign_shortlists_answer_as_in_memory(monkeypatch, chunk_bytes):
    """Whole or in chunks of 256 rows, with empty slots, and with bits of two words."""
    monkeypatch.setattr("mrl_keras.export.graph.shortlists._CHUNK_BYTES", chunk_bytes)
    rows = np.concatenate([cases.vectors(), cases.vectors(seed=1), cases.vectors(seed=2)], axis=1)
    queries = rows[:30] + 0.1 * rows[30:60]
    queries[3, 90] = np.nan
    options = IndexOptions(storage="int8", shortlist_dim=80, signs=True)
    index = NestedIndex.build(rows, [80, 96], options=options)
    for size in (40, 1000):
        plan = SearchPlan((80, 96), (size,), k=9)
        expected = index.search(queries, plan)
        found = searched(NestedSearch(index, plan, SignShortlist), queries)
        np.testing.assert_array_equal(found["indices"], expected.indices)
        np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("metric", "spill", "dim"), [("cosine", None, 32), ("cosine", 1.0, 4), ("dot", 1.0, 32)]
)
def test_partitions_answer_as_in_memory(metric, spill, dim):
    """Leaves by fewer and by more dims than the scores, few and many queries and leaves."""
    partition = PartitionParameters(dim, 25, 4, spill)
    options = IndexOptions(metric, "int8", shortlist_dim=8, partition=partition)
    index = NestedIndex.build(cases.vectors(), cases.DIMS, options=options)
    search = NestedSearch(index, SearchPlan((8, 32), (40,), k=9), PartitionShortlist)
    assert (search.num_leaves, search.default_leaves) == (len(index.shortlist.leaves), 4)
    for count, leaves in ((40, None), (3, 1), (3, 25), (0, 2)):
        plan = SearchPlan((8, 32), (40,), k=9, leaves=leaves)
        queries = cases.queries(count)
        if count:
            queries[0, 20] = np.nan
        expected = index.search(queries, plan)
        found = searched(search, queries, leaves=leaves)
        np.testing.assert_array_equal(found["indices"], expected.indices)
        np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-5, atol=1e-6)
