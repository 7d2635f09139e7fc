"""Versions, failures and mistakes: what an export refuses, and what it leaves behind."""

import json
import os
import pathlib
import resource
import sys

import keras
import pytest
import tensorflow as tf

from mrl_keras.export import ServingOptions, export_saved_model, load, load_manifest, saved_model
from mrl_keras.export.custom_ops import OP_LIBRARIES
from mrl_keras.retrieval import NestedIndex, SearchPlan
from tests.export import cases


def test_a_version_is_never_overwritten(tiny):
    path = pathlib.Path(tiny(version=3))
    before = (path / "saved_model.pb").read_bytes()
    with pytest.raises(ValueError, match=r"Version 3 exists .* the next one, 4"):
        tiny(version=3)
    assert (path / "saved_model.pb").read_bytes() == before
    assert pathlib.Path(tiny()).name == "4"
    assert sorted(os.listdir(tiny.folder)) == ["3", "4"]


@pytest.mark.parametrize("step", ["save", "write_warmup", "write_manifest"])
def test_a_failure_leaves_nothing_visible(tiny, step, monkeypatch):
    def full(*args, **kwargs):
        seen.extend(name for name in os.listdir(tiny.folder) if name.isdecimal())
        raise OSError(28, "No space left on device")

    seen = []
    target = tf.saved_model if step == "save" else saved_model
    monkeypatch.setattr(target, step, full)
    with pytest.raises(OSError, match="No space left on device"):
        tiny()
    assert seen == []
    assert os.listdir(tiny.folder) == []


def test_a_full_disk_leaves_nothing_visible(tiny):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises((OSError, tf.errors.OpError), match="too large|File"):
            tiny()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tiny.folder) == []


def test_a_twin_that_fails_takes_the_main_model_along(tmp_path, monkeypatch):
    written = []

    def fail_second(directory, content):
        written.append(content["name"])
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    class Module:
        """Nothing to trace: this is about the folders."""

        example_values = staticmethod(dict)

        def __init__(self, *parts):
            self.signatures_by_name = {}

    monkeypatch.setattr(saved_model, "ServingModule", Module)
    monkeypatch.setattr(saved_model, "write_manifest", fail_second)
    monkeypatch.setattr(tf.saved_model, "save", lambda *args, **kwargs: None)
    monkeypatch.setattr(saved_model, "custom_op_packages", lambda path: [])
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(
            str(tmp_path / "m"),
            cases.encoder(),
            index=cases.index(),
            plan=cases.PLAN,
            options=ServingOptions(twin=True),
        )
    assert written == ["m", "m_plain"]
    assert [os.listdir(tmp_path / name) for name in written] == [[], []]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nesting_dims": [4, 16]}, r"must give embeddings \(batch, 16\).*is \(None, 32\)"),
        ({"index": "index"}, "`index` and `plan` belong together"),
        ({"plan": cases.PLAN}, "`index` and `plan` belong together"),
        ({"index": "index", "plan": SearchPlan((12, 32), (9,), 3)}, r"\[12\] beside"),
        (
            {"index": "index", "plan": SearchPlan((8, 16), (9,), 3, certified=True)},
            "must end at the index's width, 32",
        ),
        ({"index": "narrow", "plan": SearchPlan((8,), k=3)}, "Its rows are 16 wide"),
        ({"heads": {"classify": len}}, "no other signature has.*Received 'classify'"),
        ({"heads": {"a b": len}}, "must be an identifier.*Received 'a b'"),
        ({"functions": {"embed": len}}, "no other signature has.*Received 'embed'"),
        ({"heads": {"a": len}, "functions": {"a": len}}, "no other signature has.*Received 'a'"),
        ({"version": 0}, "`version` must be at least 1. Received 0"),
        ({"metrics": {"top1": {8: float("nan")}}}, "manifest must hold finite numbers"),
        ({"metrics": {"top1": {8: object()}}}, "manifest must hold finite numbers"),
        ({"classifier": keras.layers.Dense(4)}, r"nested logits \(batch, 4, classes\)"),
        ({"input_spec": tf.TensorSpec([2, 6])}, "must have an open batch axis"),
        ({"input_spec": {"k": tf.TensorSpec([None, 6])}}, "must not be called 'k'"),
        ({"nesting_dims": None}, "nesting dims are not known.* Give `nesting_dims`"),
    ],
)
def test_mistakes_are_named(tiny, changes, message):
    known = {
        "index": lambda: cases.index(scann=False, rows=20),
        "narrow": lambda: NestedIndex.build(cases.vectors(20)[:, :16], [8, 16]),
    }
    changes = {k: known[v]() if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
    assert not tiny.folder.exists() or os.listdir(tiny.folder) == []


def test_options_are_checked():
    with pytest.raises(ValueError, match="`max_k` must be at least 1. Received 0"):
        ServingOptions(max_k=0)
    with pytest.raises(ValueError, match="Each of `warmup_batch_sizes` must be an int"):
        ServingOptions(warmup_batch_sizes=(1.5,))
    for name in ("manifest.json", "tf_serving_warmup_requests", "a/b.png", "..", ""):
        with pytest.raises(ValueError, match="names of `files` must be .* without folders"):
            ServingOptions(files={name: "plan.png"})
    plan = SearchPlan((8, 32), (90,), 70)
    assert ServingOptions(max_k=5, max_shortlist=6).bounds(plan) == (70, 90)
    assert ServingOptions(max_k=500, max_shortlist=6).bounds(plan) == (500, 500)


def test_another_backend_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="runs on 'jax'. Set KERAS_BACKEND=tensorflow"):
        tiny()


@pytest.fixture
def loaded_paths(monkeypatch):
    """The folders that `load` hands to TensorFlow, instead of loading them."""
    paths = []
    monkeypatch.setattr(tf.saved_model, "load", paths.append)
    return paths


def test_a_model_of_other_libraries_is_refused(tmp_path, exported, loaded_paths):
    content = load_manifest(exported.plain) | {"libraries": {"tensorflow": "2.11.1"}}
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"made with tensorflow 2.11.1, and 2\..* is installed"):
        load(tmp_path)
    assert loaded_paths == []
    load(tmp_path, check_versions=False)
    assert loaded_paths == [str(tmp_path)]


def test_missing_scann_is_named(exported, loaded_paths, monkeypatch):
    monkeypatch.setitem(sys.modules, OP_LIBRARIES["Scann"].module, None)
    with pytest.raises(ImportError, match=r"ScaNN's ops.*pip install \"mrl_keras\[retrieval\]\""):
        load(exported.path)
    load(exported.plain)
    assert loaded_paths == [exported.plain]


def test_manifest_mistakes_are_named(tmp_path, exported):
    with pytest.raises(ValueError, match="neither saved_model.pb nor a child"):
        load_manifest(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match="that `export_saved_model` wrote. It has no assets.extra"):
        load_manifest(str(tmp_path))
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="format version 1. Received version 99. Read it with"):
        load_manifest(str(tmp_path))
