import os

import numpy as np
import pytest

from mrl_keras.retrieval import (
    NestedIndex,
    ScannParameters,
    SearchPlan,
    bulk_search,
    load_bulk_search,
)
from tests.retrieval.bulk_support import (
    PLAN,
    QUERIES,
    ROWS,
    assert_answers,
    build,
    interrupted_search,
    manifest,
    stop_after,
)
from tests.retrieval.oracle import LOWEST, funnel


@pytest.fixture(scope="module")
def index():
    return build()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "answers"


@pytest.mark.parametrize("size", [1, 20, 103, 4096])
def test_the_answers_are_those_of_search(index, folder, size):
    queries = QUERIES[: 12 * size]
    found = bulk_search(index, queries, PLAN, folder, chunk_queries=size)
    assert_answers(found, index, queries)
    np.testing.assert_array_equal(found.indices, funnel(queries, ROWS, PLAN))
    assert all(isinstance(part, np.memmap) for part in found)
    assert_answers(load_bulk_search(folder), index, queries)
    assert sorted(os.listdir(folder)) == ["answers", "manifest.json"]


@pytest.mark.parametrize(
    "given",
    [
        lambda path: np.load(path, mmap_mode="r"),
        lambda path: QUERIES.astype("float64"),
        lambda path: iter([QUERIES[:7], QUERIES[7:7], QUERIES[7:90], QUERIES[90:]]),
        lambda path: [row[None] for row in QUERIES],
    ],
    ids=["memmap", "float64", "generator", "list"],
)
def test_queries_come_as_arrays_or_chunks(index, folder, tmp_path, monkeypatch, given):
    np.save(tmp_path / "queries.npy", QUERIES)
    asked = stop_after(monkeypatch, 10**6)
    found = bulk_search(
        index, given(tmp_path / "queries.npy"), PLAN, folder, chunk_queries=np.int64(20)
    )
    assert asked == [20] * 5 + [3]
    assert_answers(found, index)


def test_integer_ids_and_scann_shortlists(folder):
    index = build(ids=None, shortlist_dim=8, scann=ScannParameters(10, 4), storage="bfloat16")
    plan = SearchPlan((8, 16), (40,), k=5)
    found = bulk_search(index, QUERIES, plan, folder, chunk_queries=50)
    assert_answers(found, index, plan=plan)
    assert found.ids.dtype == np.int64


@pytest.mark.parametrize("size", [20, 7, 64], ids="then_{}".format)
@pytest.mark.parametrize("again", [lambda: QUERIES, lambda: iter(np.array_split(QUERIES, 9))])
def test_a_second_call_continues(index, folder, monkeypatch, size, again):
    interrupted_search(index, folder, 3, monkeypatch)
    with pytest.raises(ValueError, match="not finished: 60 of 103 queries are answered"):
        load_bulk_search(folder)
    assert not (folder / "answers").exists()
    asked = stop_after(monkeypatch, 10**6)
    found = bulk_search(index, again(), PLAN, folder, chunk_queries=size)
    assert sum(asked) == 43
    assert max(asked) <= size
    assert_answers(found, index)


def test_a_finished_search_is_only_opened(index, folder, monkeypatch):
    bulk_search(index, iter([QUERIES]), PLAN, folder)
    before = manifest(folder)
    asked = stop_after(monkeypatch, 0)
    found = bulk_search(index, QUERIES, PLAN, folder)
    assert asked == []
    assert manifest(folder) == before
    monkeypatch.undo()
    assert_answers(found, index)


def test_a_saved_index_continues(index, folder, tmp_path, monkeypatch):
    index = build(shortlist_dim=8, scann=ScannParameters(10, 4), storage="bfloat16")
    plan = SearchPlan((8, 16), (40,), k=5)
    interrupted_search(index, folder, 2, monkeypatch, plan=plan)
    index.save(tmp_path / "index")
    loaded = NestedIndex.load(tmp_path / "index", memory_map=True)
    assert_answers(bulk_search(loaded, QUERIES, plan, folder), index, plan=plan)


def test_queries_beyond_a_finished_search_are_refused(index, folder):
    bulk_search(index, QUERIES, PLAN, folder)
    with pytest.raises(ValueError, match="answers of 103 queries, and `queries` go on after them"):
        bulk_search(index, iter([QUERIES, QUERIES[:1]]), PLAN, folder)


def test_bad_rows_get_empty_answers(index, folder):
    queries = QUERIES.copy()
    queries[[0, 30, 102], [0, 15, 3]] = np.nan, np.inf, -np.inf
    found = bulk_search(index, queries, PLAN, folder, chunk_queries=25)
    bad = np.isin(np.arange(103), [0, 30, 102])
    assert (found.ids[bad] == "").all()
    assert (found.indices[bad] == -1).all()
    assert (found.scores[bad] == LOWEST).all()
    np.testing.assert_array_equal(found.indices[~bad], index.search(QUERIES, PLAN).indices[~bad])


@pytest.mark.parametrize("queries", [QUERIES[:0], [], [QUERIES[:0]]], ids=["array", "none", "one"])
def test_no_queries(index, folder, queries):
    for _ in range(2):
        found = bulk_search(index, queries, PLAN, folder)
        assert [part.shape for part in found] == [(0, 5)] * 3
        assert found.ids.dtype == index.ids.dtype


def test_the_bar_starts_where_the_search_continues(index, folder, monkeypatch):
    steps = []

    class Bar:
        def __init__(self, total, disable, **options):
            assert not disable
            steps.append(total)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def update(self, step):
            steps.append(step)

    interrupted_search(index, folder, 2, monkeypatch)
    monkeypatch.setattr("mrl_keras.retrieval.bulk.search.tqdm", Bar)
    bulk_search(index, QUERIES, PLAN, folder, chunk_queries=40, progress=True)
    assert steps == [103, 40, 40, 23]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"chunk_queries": 0}, "`chunk_queries` must be at least 1. Received 0"),
        ({"chunk_queries": 2.5}, "`chunk_queries` must be an int. Received 2.5"),
        ({"queries": QUERIES[:, :8]}, "`queries` must be 16 wide"),
        ({"queries": QUERIES[0]}, r"pass `queries\[None\]`"),
        ({"queries": QUERIES.astype(str)}, "must hold real numbers"),
        ({"queries": "queries"}, "an array .* or an iterable of such arrays. Received str"),
        ({"queries": 3}, "an array .* or an iterable of such arrays. Received int"),
        ({"plan": (4, 16)}, r"`plan` must be a SearchPlan. Received \(4, 16\)"),
        ({"plan": SearchPlan((4, 16), (20,), certified=True)}, "Certificates are not kept"),
        ({"plan": SearchPlan((6, 16), (20,))}, r"Received \[6\] beside them"),
    ],
)
def test_bad_arguments_leave_no_folder(index, folder, change, text):
    arguments = {"index": index, "queries": QUERIES, "plan": PLAN, "directory": folder} | change
    with pytest.raises(ValueError, match=text):
        bulk_search(**arguments)
    assert not folder.exists()


def test_a_chunk_of_another_width_keeps_what_came_before(index, folder):
    with pytest.raises(ValueError, match="`queries` must be 16 wide"):
        bulk_search(index, [QUERIES[:50], QUERIES[50:, :8]], PLAN, folder, chunk_queries=20)
    assert manifest(folder)["answered"]["rows"] == 40
    assert_answers(bulk_search(index, QUERIES, PLAN, folder), index)
