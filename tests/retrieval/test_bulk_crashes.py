"""Bulk searches that were interrupted, damaged, or belong to something else."""

import os

import numpy as np
import pytest

from mrl_keras.retrieval import (
    ScannParameters,
    SearchPlan,
    bulk_search,
    load_bulk_search,
)
from tests.retrieval.bulk_support import (
    IDS,
    PLAN,
    QUERIES,
    ROWS,
    assert_answers,
    build,
    interrupted_search,
    manifest,
    stop_after,
)


@pytest.fixture(scope="module")
def index():
    return build()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "answers"


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

        patch.setattr("mrl_keras.files.shutil.rmtree", dying)
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
