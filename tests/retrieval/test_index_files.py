import json
import os

import numpy as np
import pytest

from mrl_keras.retrieval import IndexOptions, NestedIndex, ScannParameters, SearchPlan
from mrl_keras.retrieval.index.storage import tables_of_blocks
from tests.retrieval.oracle import clustered

PLAN = SearchPlan.funnel((8, 16, 32), 60)


def built(storage="float32", ids=None, scann=None, metric="cosine"):
    rows, queries, *_ = clustered(600, 32, 12)
    options = {"shortlist_dim": 8, "scann": scann} if scann else {}
    options = IndexOptions(metric, storage, **options)
    index = NestedIndex.build(rows, [8, 16, 32], ids, options)
    return index, queries


@pytest.mark.parametrize("storage_name", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("memory_map", [False, True])
def test_round_trip(tmp_path, storage_name, memory_map):
    index, queries = built(storage_name, ids=[f"é{i}" for i in range(600)], metric="dot")
    index.save(tmp_path / "made" / "index")
    loaded = NestedIndex.load(tmp_path / "made" / "index", memory_map)
    assert loaded.nesting_dims == index.nesting_dims
    assert (loaded.metric, loaded.storage, loaded.shortlist) == ("dot", storage_name, None)
    for before, after in zip(
        index.search(queries, PLAN), loaded.search(queries, PLAN), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    for table in tables_of_blocks(loaded.blocks):
        assert isinstance(table.base, np.memmap) == memory_map or (
            isinstance(table, np.memmap) == memory_map
        )


def test_scann_round_trip_gives_the_same_answers(tmp_path):
    index, queries = built(scann=ScannParameters(12, 3))
    index.save(tmp_path / "index")
    loaded = NestedIndex.load(tmp_path / "index", memory_map=True)
    assert loaded.shortlist.parameters == index.shortlist.parameters
    for before, after in zip(
        index.search(queries, PLAN), loaded.search(queries, PLAN), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    leaves, again = index.shortlist.partition(), loaded.shortlist.partition()
    np.testing.assert_array_equal(leaves.centres, again.centres)
    np.testing.assert_array_equal(leaves.tokens, again.tokens)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", {8: "bfloat16", 32: "int8"}])
def test_an_index_built_in_a_folder_is_the_one_that_is_saved(tmp_path, storage, capfd):
    rows, queries, *_ = clustered(600, 32, 12)
    options = IndexOptions("cosine", storage, shortlist_dim=8, scann=ScannParameters(12, 3))
    chunks = (rows[start : start + 170] for start in range(0, 600, 170))
    folder = tmp_path / "built"
    index = NestedIndex.build(chunks, [8, 16, 32], None, options, progress=True, folder=folder)
    for table in tables_of_blocks(index.blocks):
        assert isinstance(table, np.memmap)
    whole = NestedIndex.build(rows, [8, 16, 32], options=IndexOptions("cosine", storage))
    whole.save(tmp_path / "saved")
    for name in os.listdir(tmp_path / "saved"):
        if name != "index.json":
            saved = (tmp_path / "saved" / name).read_bytes()
            assert (tmp_path / "built" / name).read_bytes() == saved, name
    loaded = NestedIndex.load(tmp_path / "built")
    for made, read in zip(index.search(queries, PLAN), loaded.search(queries, PLAN), strict=True):
        np.testing.assert_array_equal(made, read)
    found = capfd.readouterr().err
    assert "Building the index: 600" in found
    assert "ScaNN trains its leaves and codes: 100%" in found


def test_a_build_that_fails_leaves_no_folder(tmp_path):
    rows = np.ones((40, 32), np.float32)
    rows[33, 5] = np.nan
    with pytest.raises(ValueError, match="overflow: 33"):
        NestedIndex.build(rows, [8, 32], folder=tmp_path / "built")
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="`folder` must be of the local file system"):
        NestedIndex.build(rows, [8, 32], folder="ram://built")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists, and nothing is ever overwritten"):
        NestedIndex.build(rows, [8, 32], folder=tmp_path / "there")


def test_nothing_is_pickled(tmp_path):
    index, _ = built(ids=[f"d{i}" for i in range(600)], scann=ScannParameters(12, 3))
    index.save(tmp_path / "index")
    names = sorted(os.listdir(tmp_path / "index"))
    assert [name for name in names if not name.endswith(".npy")] == ["index.json"]
    for name in names:
        if name.endswith(".npy"):
            np.load(tmp_path / "index" / name, allow_pickle=False)


def test_an_existing_folder_is_never_overwritten(tmp_path):
    index, _ = built()
    index.save(tmp_path / "index")
    before = (tmp_path / "index" / "index.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match="exists, and nothing is ever overwritten"):
        index.save(tmp_path / "index")
    assert (tmp_path / "index" / "index.json").stat().st_mtime_ns == before


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    index, _ = built()
    written = []

    def full_disk(path, *args, **kwargs):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return save(path, *args, **kwargs)

    save = np.save
    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        index.save(tmp_path / "index")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda folder: (folder / "index.json").unlink(), "it has no index.json"),
        (
            lambda folder: (folder / "index.json").write_text(json.dumps({"format_version": 99})),
            "index with format version 1. Received version 99. Build the index again",
        ),
    ],
)
def test_folders_that_hold_no_index(tmp_path, break_it, text):
    built()[0].save(tmp_path / "index")
    break_it(tmp_path / "index")
    with pytest.raises(ValueError, match=text):
        NestedIndex.load(tmp_path / "index")


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("scales_02.npy", lambda part: part[:300], "the arrays have the shapes"),
        ("ids.npy", lambda part: part.astype(float), "the ids are float64"),
        ("signs_codes.npy", lambda part: part[:300], "signs of the shapes"),
        ("signs_thresholds.npy", lambda part: part[:4], "signs of the shapes"),
    ],
)
def test_parts_of_another_index_are_refused(tmp_path, name, change, text):
    rows, *_ = clustered(600, 32, 12)
    options = IndexOptions(storage="int8", shortlist_dim=8, signs=True)
    NestedIndex.build(rows, [8, 16, 32], options=options).save(tmp_path / "index")
    path = tmp_path / "index" / name
    np.save(path, change(np.load(path)))
    with pytest.raises(ValueError, match=text):
        NestedIndex.load(tmp_path / "index")
