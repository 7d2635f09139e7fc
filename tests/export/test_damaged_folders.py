"""Folders that were renamed, or copied in part."""

import os
import shutil

import keras
import numpy as np
import pytest

from mrl_keras.export import SessionModel, export_saved_model, load, load_manifest
from mrl_keras.export.versions import model_versions, version_directory
from mrl_keras.retrieval import NestedIndex, SearchPlan, bulk_search, load_bulk_search


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    inputs = keras.Input((4,))
    folder = tmp_path_factory.mktemp("m")
    export_saved_model(
        folder / "m", keras.Model(inputs, keras.layers.Dense(8)(inputs)), nesting_dims=[4, 8]
    )
    return folder / "m"


@pytest.fixture
def model(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "m")


def test_a_zero_padded_version_is_read_by_its_own_name(model):
    (model / "1").rename(model / "0001")
    assert version_directory(model) == str(model / "0001")
    assert load_manifest(model)["version"] == 1
    assert "embed" in load(model).signatures
    for name in ("٣", "²", "-2", "1.0"):
        (model / name).mkdir()
    assert model_versions(model) == (1,)
    (model / "1").mkdir()
    assert version_directory(model) == str(model / "1")
    (model / "0012").mkdir()
    assert version_directory(model) == str(model / "0012")


@pytest.mark.parametrize("name", ["saved_model.pb", "assets.extra/manifest.json"])
def test_a_part_of_a_model_is_refused(model, name):
    os.remove(model / "1" / name)
    for read in (load, load_manifest):
        with pytest.raises(ValueError, match=f"has no {name}.*copy"):
            read(model)


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
@pytest.mark.parametrize("read", [load, SessionModel])
def test_a_model_without_its_variables_is_refused(model, name, read):
    os.remove(model / "1" / "variables" / name)
    with pytest.raises(ValueError, match="One is missing or damaged: .* export the model again"):
        read(model)


@pytest.mark.parametrize("read", [load, SessionModel])
def test_a_cut_graph_is_refused(model, read):
    path = model / "1" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="One is missing or damaged: .* export the model again"):
        read(model)


@pytest.fixture
def saved(tmp_path):
    index = NestedIndex.build(np.eye(4), [2, 4])
    index.save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("name", ["block_00.npy", "block_01.npy", "inverse_norms.npy", "ids.npy"])
@pytest.mark.parametrize("change", ["absent", "empty", "cut", "other"])
def test_a_part_of_an_index_is_refused(saved, name, change):
    path = saved / name
    content = path.read_bytes()
    path.unlink()
    if change == "other":
        np.save(path, np.zeros((3, 2), "float32"))
    elif change != "absent":
        path.write_bytes(content[: 0 if change == "empty" else -4])
    for memory_map in (False, True):
        with pytest.raises(ValueError, match="One is missing or damaged: .* build the index again"):
            NestedIndex.load(saved, memory_map)


def test_a_part_of_the_answers_is_refused(tmp_path):
    index, folder = NestedIndex.build(np.eye(4), [2, 4]), tmp_path / "answers"
    bulk_search(index, np.eye(4), SearchPlan((4,), k=1), folder)
    os.remove(folder / "answers" / "ids.npy")
    with pytest.raises(ValueError, match="A file is missing or damaged: .*ids.npy"):
        load_bulk_search(folder)
