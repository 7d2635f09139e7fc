import json
import os
import sys
import types

import numpy as np
import pytest

from mrl_keras.retrieval import (
    NestedIndex,
    ScannParameters,
    SearchPlan,
    bulk_search,
    load_bulk_search,
)
from tests.retrieval.oracle import LOWEST, clustered, funnel

ROWS, QUERIES, *_ = clustered(300, 16, n_queries=103)
PLAN = SearchPlan((4, 8, 16), (40, 20), k=5)
IDS = [f"doc-{row}" for row in range(len(ROWS))]


def build(rows=ROWS, dims=(4, 8, 16), **options):
    return NestedIndex.build(rows, dims, **{"ids": IDS[: len(rows)], **options})


@pytest.fixture(scope="module")
def index():
    return build()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "answers"


def stop_after(monkeypatch, calls, error=KeyboardInterrupt):
    """Lets `calls` searches pass and raises in the next one; returns the queries of each call."""
    search, asked = NestedIndex.search, []

    def interrupted(self, queries, plan):
        asked.append(len(queries))
        if len(asked) > calls:
            raise error("stopped")
        return search(self, queries, plan)

    monkeypatch.setattr(NestedIndex, "search", interrupted)
    return asked


def interrupted_search(index, folder, calls, monkeypatch, queries=QUERIES, plan=PLAN, size=20):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, calls)
        bulk_search(index, queries, plan, folder, chunk_queries=size)


def assert_answers(found, index, queries=QUERIES, plan=PLAN):
    expected = index.search(np.asarray(queries), plan)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert one.dtype == other.dtype, name
        if name == "scores":
            np.testing.assert_allclose(one, other, rtol=1e-5)
        else:
            np.testing.assert_array_equal(one, other)


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("size", [1, 20, 103, 4096])
def test_the_answers_are_those_of_search(index, folder, size):
    queries = QUERIES[: 12 * size]
    found = bulk_search(index, queries, PLAN, folder, chunk_queries=size)
    assert_answers(found, index, queries)
    np.testing.assert_array_equal(found.positions, funnel(queries, ROWS, PLAN))
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


def killed_at(name, monkeypatch, calls=0):
    """The process dies when the file or folder `name` is to get its name, leaving what it wrote.

    The clean-up that follows an exception does not run in a killed process either.
    """
    for function in ("replace", "rename"):
        real, seen = getattr(os, function), []

        def dying(source, target, real=real, seen=seen):
            if os.path.basename(target) == name:
                seen.append(target)
                if len(seen) > calls:
                    raise KeyboardInterrupt
            return real(source, target)

        monkeypatch.setattr(os, function, dying)
    monkeypatch.setattr("mrl_keras.files.os.remove", lambda path: None)
    monkeypatch.setattr("mrl_keras.files.shutil.rmtree", lambda *args, **kwargs: None)


@pytest.mark.parametrize(
    ("name", "calls", "answered"),
    [
        ("rows-000000000040.npy", 0, 40),
        ("manifest.json", 0, None),
        ("manifest.json", 3, 40),
        ("answers", 0, 103),
    ],
)
def test_a_kill_at_any_write_loses_one_chunk(index, folder, monkeypatch, name, calls, answered):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at(name, patch, calls)
        bulk_search(index, QUERIES, PLAN, folder, chunk_queries=20)
    left = [file for _, files, names in os.walk(folder) for file in (*files, *names)]
    assert any(file.startswith(".tmp-") for file in left)
    if answered is not None:
        assert manifest(folder)["answered"]["rows"] == answered
    with pytest.raises(ValueError, match="not finished|has no manifest"):
        load_bulk_search(folder)
    asked = stop_after(monkeypatch, 10**6)
    found = bulk_search(index, QUERIES, PLAN, folder, chunk_queries=30)
    assert sum(asked) == 103 - (answered or 0)
    assert_answers(found, index)
    assert sorted(os.listdir(folder)) == ["answers", "manifest.json"]
    assert sorted(os.listdir(folder / "answers")) == ["ids.npy", "positions.npy", "scores.npy"]


def test_a_kill_before_the_chunks_are_removed(index, folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def dying(path):
            raise KeyboardInterrupt

        patch.setattr("mrl_keras.retrieval.bulk_folder.shutil.rmtree", dying)
        bulk_search(index, QUERIES, PLAN, folder, chunk_queries=20)
    assert sorted(os.listdir(folder)) == ["answers", "chunks", "manifest.json"]
    assert_answers(bulk_search(index, QUERIES, PLAN, folder), index)
    assert sorted(os.listdir(folder)) == ["answers", "manifest.json"]


def test_a_full_disk_leaves_whole_chunks(index, folder, monkeypatch):
    save, saved = np.save, []

    def full(file, array, **options):
        saved.append(len(array))
        if len(saved) > 2:
            file.write(b"half")
            raise OSError("No space left on device")
        save(file, array, **options)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(np, "save", full)
        bulk_search(index, QUERIES, PLAN, folder, chunk_queries=20)
    assert sorted(os.listdir(folder / "chunks")) == [
        "rows-000000000000.npy",
        "rows-000000000020.npy",
    ]
    assert_answers(bulk_search(index, QUERIES, PLAN, folder), index)


def changed_row():
    rows = ROWS.copy()
    rows[250] *= -1  # the norms stay
    return rows


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"plan": SearchPlan((4, 8, 16), (40, 20), k=3)}, r"in: plan\.k \(5 there, 3 here\)\. Ch"),
        (
            {"plan": SearchPlan((4, 16), (40,), k=5, leaves=2)},
            r"plan\.dims \(\[4, 8, 16\] there, \[4, 16\] here\), plan\.leaves \(None there, 2 ",
        ),
        ({"index": build(ROWS[:299])}, r"index\.rows \(300 there, 299 here\), index\.sha256"),
        ({"index": build(changed_row())}, r"in: index\.sha256 \(\w{12}\.\.\. there, \w{12}\.\.\. "),
        ({"index": build(ids=IDS[::-1])}, r"in: index\.sha256"),
        ({"index": build(storage="bfloat16")}, r"index\.storage \(float32 there, bfloat16 here\)"),
        ({"index": build(metric="dot")}, r"index\.metric \(cosine there, dot here\)"),
        ({"index": build(dims=(4, 8, 12, 16))}, r"index\.nesting_dims \(\[4, 8, 16\] there"),
        (
            {"index": build(shortlist_dim=4, scann=ScannParameters(10, 4))},
            r"index\.sha256 .*, index\.shortlist \(None there, \{'dim': 4, ",
        ),
        ({"queries": QUERIES[:102]}, r"in: queries\.rows \(103 there, 102 here\)"),
        ({"queries": QUERIES + 1}, "first [0-9]+ of `queries` differ from those it answered"),
        ({"queries": [QUERIES[:30]]}, r"answers of (60|103) queries, and .* end after 30"),
    ],
)
def test_another_search_is_refused(index, folder, monkeypatch, finished, change, text):
    if finished:
        bulk_search(index, QUERIES, PLAN, folder)
    else:
        interrupted_search(index, folder, 3, monkeypatch)
    before = manifest(folder)
    arguments = {"index": index, "queries": QUERIES, "plan": PLAN} | change
    with pytest.raises(ValueError, match=text):
        bulk_search(**arguments, directory=folder)
    assert manifest(folder) == before
    assert_answers(bulk_search(index, QUERIES, PLAN, folder), index)


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
    assert (found.positions[bad] == -1).all()
    assert (found.scores[bad] == LOWEST).all()
    np.testing.assert_array_equal(
        found.positions[~bad], index.search(QUERIES, PLAN).positions[~bad]
    )


@pytest.mark.parametrize("queries", [QUERIES[:0], [], [QUERIES[:0]]], ids=["array", "none", "one"])
def test_no_queries(index, folder, queries):
    for _ in range(2):
        found = bulk_search(index, queries, PLAN, folder)
        assert [part.shape for part in found] == [(0, 5)] * 3
        assert found.ids.dtype == index.ids.dtype


def test_the_bar_starts_where_the_search_continues(index, folder, monkeypatch):
    steps = []

    class Bar:
        def __init__(self, total, **options):
            steps.append(total)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def update(self, step):
            steps.append(step)

    interrupted_search(index, folder, 2, monkeypatch)
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
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


def test_folders_that_are_something_else(index, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="must be a folder. Received the file"):
        bulk_search(index, QUERIES, PLAN, tmp_path / "file")
    with pytest.raises(ValueError, match=r"must be new, empty, .* holds \['file'\]"):
        bulk_search(index, QUERIES, PLAN, tmp_path)
    with pytest.raises(ValueError, match="must be the folder of a bulk search"):
        load_bulk_search(tmp_path)
    for text in ("{", "[]", '{"format_version": 2}', '{"format_version": 1}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match="manifest of a bulk search with format version 1"):
            bulk_search(index, QUERIES, PLAN, tmp_path)


@pytest.mark.parametrize("damage", ["remove", "truncate", "swap"])
def test_damaged_chunks_are_refused(index, folder, monkeypatch, damage):
    interrupted_search(index, folder, 3, monkeypatch)
    chunk = folder / "chunks" / "rows-000000000040.npy"
    if damage == "remove":
        chunk.unlink()
    elif damage == "truncate":
        chunk.write_bytes(chunk.read_bytes()[:-1])
    else:
        np.save(chunk, np.load(chunk).repeat(2))
    with pytest.raises(ValueError, match="missing or damaged|hold the answers of 60 .* hold 80"):
        bulk_search(index, QUERIES, PLAN, folder)
