"""URLs wherever a path is written or read: what works remotely, and what is refused before work."""

import os
import pathlib
import sys

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.cascade import CascadePolicy
from mrl_keras.data import SPECIAL_PIECES, read_vocabulary, write_vocabulary
from mrl_keras.data.image.imagenet_4k import choose_images
from mrl_keras.distribution import Checkpoints
from mrl_keras.evaluation import read_hierarchy
from mrl_keras.evaluation.plots import line_panels
from mrl_keras.export import (
    export_saved_model,
    load,
    load_manifest,
    models_config,
    write_models_config,
)
from mrl_keras.export.versions import model_versions
from mrl_keras.files import (
    MARKER,
    atomic_directory,
    atomic_file,
    list_names,
    local_path,
    read_text,
    remove,
    write_text,
)
from mrl_keras.models import RetrievalModel, load_backbone
from mrl_keras.retrieval import NestedIndex, SearchPlan, bulk_search, load_bulk_search
from recipes.common.arguments import ScriptParser
from recipes.common.config_flags import define_folder, define_workdir, run_main
from recipes.common.run import Run
from tests.support.remote import Stopped, new_folder, stop_writes, tree

LOCAL = "must be of the local file system"
REFUSED = {
    pathlib.Path("gs://bucket/x"): "give the str 'gs://bucket/x'",
    pathlib.Path("hdfs://host/x"): "give the str 'hdfs://host/x'",
    "file:///x": "Give the plain path, '/x'",
    b"none://host/x": "It knows .*ram://",
}
PLAN = SearchPlan((2,), k=1)


def _index():
    return NestedIndex.build(np.eye(2), [2])


def _never():
    raise AssertionError("work was done")
    yield


def _encoder():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])


CALLS = {
    "atomic_file": lambda url: atomic_file(url).__enter__(),
    "atomic_directory": lambda url: atomic_directory(url).__enter__(),
    "write_text": lambda url: write_text(url, ""),
    "NestedIndex.save": lambda url: _index().save(url),
    "CascadePolicy.save": lambda url: CascadePolicy([1, 2], [0.5]).save(url),
    "export_saved_model": lambda url: export_saved_model(url, None),
    "load": load,
    "load_manifest": load_manifest,
    "models_config": models_config,
    "write_models_config": write_models_config,
    "NestedIndex.load": NestedIndex.load,
    "bulk_search": lambda url: bulk_search(_index(), _never(), PLAN, url),
    "load_bulk_search": load_bulk_search,
    "retrieve_to_disk": lambda url: RetrievalModel(_encoder(), _index(), PLAN).retrieve_to_disk(
        _never(), url
    ),
    "Checkpoints": lambda url: Checkpoints(url, {}),
    "write_vocabulary": lambda url: write_vocabulary(url, SPECIAL_PIECES),
    "read_vocabulary": read_vocabulary,
    "CascadePolicy.load": CascadePolicy.load,
    "read_hierarchy": read_hierarchy,
    "line_panels": lambda url: line_panels(url, {}, "x", "y"),
    "Run": lambda url: Run(url, ml_collections.ConfigDict()),
    "Run.open": Run.open,
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_url_of_a_known_file_system_is_refused_and_makes_no_folder(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for url, text in REFUSED.items():
        with pytest.raises(ValueError, match=text):
            CALLS[name](url)
    assert os.listdir(tmp_path) == []


def test_where_files_must_be_local():
    for url in ("gs://bucket/x", "ram://bucket/x", b"gs://bucket/x"):
        with pytest.raises(ValueError, match=f"`source` {LOCAL}. Received the URL"):
            choose_images(url)


@pytest.mark.parametrize(
    "path", ["runs/a", "/runs/a", "./gs:/a", "a:b", "a:b/c", "C:/models", "", pathlib.Path("a b/c")]
)
def test_local_paths_stay(path):
    assert local_path(path) == os.fspath(path)


@pytest.mark.parametrize("url", ["GS://b", " gs://b", "gs:/b", "az+blob://b/c", "http://a/b"])
def test_other_spellings_of_urls(url):
    with pytest.raises(ValueError, match="`directory` must be of the local file system"):
        local_path(url, "`directory`")


@pytest.mark.parametrize("url", ["file:///runs/a", "file:/runs/a"])
def test_a_file_url_is_refused_with_its_plain_path(url):
    for path in (url, pathlib.Path(url)):
        with pytest.raises(ValueError, match="Give the plain path, '/runs/a'"):
            local_path(path)


def test_path_likes_of_other_libraries():
    class Remote:
        def __str__(self):
            return "gs://bucket/x"

        def __fspath__(self):
            raise AssertionError("downloaded")

    class Plain:
        def __fspath__(self):
            return "gs://bucket/x"

    for path in (Remote(), Plain()):
        with pytest.raises(ValueError, match="gs://bucket/x"):
            local_path(path)
    with pytest.raises(TypeError):
        local_path(3)


def test_scripts_take_urls_or_refuse_them_in_one_line(monkeypatch, capsys):
    def define_flags(values):
        define_workdir(values)
        define_folder(values, "output", "a folder")

    def main(options):
        print(options.workdir, options.output)

    def call(**given):
        monkeypatch.setattr(sys, "argv", ["x.py", *(f"--{n}={v}" for n, v in given.items())])
        run_main(main, define_flags)

    call(workdir="ram://a", output="gs://b")
    assert capsys.readouterr().out == "ram://a gs://b\n"
    for one in ("workdir", "output"):
        given = {"workdir": "a", "output": "b", one: "gs:/bucket/x"}
        with pytest.raises(SystemExit, match=f"error: .*--{one} must be a whole URL"):
            call(**given)
    for default in ("a.csv", pathlib.Path("a")):
        parser = ScriptParser("x.py", "About.")
        parser.add_measuring(default)
        for url in ("gs://bucket/x", "gs:/bucket/x"):
            with pytest.raises(SystemExit):
                parser.parse_args([f"--output={url}"])
            assert f"--output {LOCAL}" in capsys.readouterr().err


def test_a_library_without_permission_ends_a_script_in_one_line(monkeypatch):
    def main(options):
        raise tf.errors.PermissionDeniedError(None, None, "no right to gs://bucket/logs\nmore")

    monkeypatch.setattr(sys, "argv", ["x.py", "--workdir=a"])
    with pytest.raises(SystemExit, match=r"^\nerror: permission denied \(no right .*/logs\)\. Log"):
        run_main(main, define_workdir)


# What is written to a remote folder and read from it.


@pytest.fixture
def folder():
    return new_folder()


def test_small_files(folder):
    policy = CascadePolicy([1, 2], [0.5])
    policy.save(f"{folder}/policy.json")
    assert CascadePolicy.load(f"{folder}/policy.json") == policy
    write_vocabulary(f"{folder}/vocabulary.txt", [*SPECIAL_PIECES, "a b", "\r"])
    assert read_vocabulary(f"{folder}/vocabulary.txt") == [*SPECIAL_PIECES, "a b", "\r"]
    write_text(f"{folder}/is_a.txt", "n1 n2\n")
    assert read_hierarchy(f"{folder}/is_a.txt") == [("n2", "n1")]
    line_panels(f"{folder}/lines.png", {"a": {"MRL": [(1, 2.0)]}}, "x", "y")
    assert tree(folder)["lines.png"].startswith(b"\x89PNG")


def test_pretrained_weights(folder, capsys):
    pretrained, other = _encoder(), _encoder()
    with atomic_file(f"{folder}/a.keras") as temporary:
        pretrained.save(temporary)
    assert load_backbone(other, f"{folder}/a.keras") == 0
    assert f"Copying {folder}/a.keras into" in capsys.readouterr().out
    np.testing.assert_array_equal(other.get_weights()[0], pretrained.get_weights()[0])


def test_an_index(folder, capsys):
    index = NestedIndex.build(np.eye(4), [2, 4], ids=list("abcd"))
    index.save(f"{folder}/index")
    with pytest.raises(ValueError, match="nothing is ever overwritten"):
        index.save(f"{folder}/index")
    for mapped in (False, True):
        loaded = NestedIndex.load(f"{folder}/index", memory_map=mapped)
        assert f"Copying {folder}/index into" in capsys.readouterr().out
        assert isinstance(loaded.blocks[0], np.memmap) == mapped
        found, wanted = (one.search(np.eye(4), SearchPlan((4,), k=2)) for one in (loaded, index))
        np.testing.assert_array_equal(found.ids, wanted.ids)
    remove(f"{folder}/index/block_01.npy")
    with pytest.raises(ValueError, match=r"/index must be those of one whole index.*block_01"):
        NestedIndex.load(f"{folder}/index")
    remove(f"{folder}/index/{MARKER}")
    with pytest.raises(ValueError, match=r"/index is no whole folder: its upload was interrupted"):
        NestedIndex.load(f"{folder}/index")


@pytest.mark.slow
def test_a_bulk_search_goes_on_after_every_write_that_stops(folder, monkeypatch):
    index, queries = _index(), np.eye(2)[[0, 1, 1, 0, 1]]
    wanted = index.search(queries, PLAN)
    for for_good in (False, True):
        at, stopped = -1, True
        while stopped:
            at += 1
            path = f"{folder}/{for_good}/{at}"
            with monkeypatch.context() as patch:
                stop_writes(patch, at, for_good)
                try:
                    bulk_search(index, queries, PLAN, path, chunk_queries=2)
                    stopped = False
                except Stopped:
                    pass
            found = bulk_search(index, queries, PLAN, path, chunk_queries=2)
            np.testing.assert_array_equal(found.indices, wanted.indices)
            np.testing.assert_array_equal(load_bulk_search(path).scores, wanted.scores)
            assert set(list_names(path)) == {"answers", "manifest.json"}
        assert at > 20


def test_versions_of_models(folder):
    for version in ("1", "3"):
        with atomic_directory(f"{folder}/digits/{version}") as temporary:
            pathlib.Path(temporary, "saved_model.pb").touch()
    write_text(f"{folder}/digits/4/saved_model.pb", "half")
    assert model_versions(f"{folder}/digits") == (1, 3)
    assert f'base_path: "{folder}/digits"' in models_config(folder)
    assert write_models_config(folder, "/models") == f"{folder}/models.config"
    assert 'base_path: "/models/digits"' in read_text(f"{folder}/models.config")
    with pytest.raises(ValueError, match="digits/4 is no whole folder"):
        load_manifest(f"{folder}/digits/4")
