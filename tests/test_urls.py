"""Wherever a path is written or read, a URL is refused before any work, and no folder appears."""

import os
import pathlib
import sys

import keras
import ml_collections
import numpy as np
import pytest

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
from mrl_keras.files import local_path
from mrl_keras.models import RetrievalModel
from mrl_keras.retrieval import NestedIndex, SearchPlan, bulk_search, load_bulk_search
from recipes.common.arguments import ScriptParser
from recipes.common.config_flags import define_folder, define_workdir, run_main
from recipes.common.run import Run

URLS = "gs://bucket/x", "s3://bucket/x", pathlib.Path("hdfs://host/x"), b"gs://bucket/x"
PLAN = SearchPlan((2,), k=1)


def _index():
    return NestedIndex.build(np.eye(2), [2])


def _never():
    raise AssertionError("work was done")
    yield


def _encoder():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])


CALLS = {
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
    "choose_images": choose_images,
    "line_panels": lambda url: line_panels(url, {}, "x", "y"),
    "Run": lambda url: Run(url, ml_collections.ConfigDict()),
    "Run.open": Run.open,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_url_is_refused_and_makes_no_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in URLS:
        with pytest.raises(ValueError, match="must be of the local file system"):
            CALLS[name](url)
    assert os.listdir(tmp_path) == []


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


@pytest.mark.parametrize("url", ["gs://bucket/x", "gs:/bucket/x"])
def test_scripts_refuse_urls_in_one_line(url, monkeypatch, capsys):
    def define_flags(values):
        define_workdir(values)
        define_folder(values, "output", "a folder")

    def main(options):
        raise AssertionError("work was done")

    for one in ("workdir", "output"):
        given = {"workdir": "a", "output": "b", one: url}
        monkeypatch.setattr(sys, "argv", ["x.py", *(f"--{n}={v}" for n, v in given.items())])
        with pytest.raises(SystemExit, match=f"error: .*--{one} must be of the local file"):
            run_main(main, define_flags)
    for default in ("a.csv", pathlib.Path("a")):
        parser = ScriptParser("x.py", "About.")
        parser.add_measuring(default)
        with pytest.raises(SystemExit):
            parser.parse_args([f"--output={url}"])
        assert "--output must be of the local file system" in capsys.readouterr().err
