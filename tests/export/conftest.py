"""Exported models that all tests of this folder share, and one fresh process that asks them."""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mrl_keras.cascade import AdaptiveClassifier
from mrl_keras.export import ServingOptions, export_saved_model, load
from mrl_keras.export.graph.search import NestedSearch
from mrl_keras.export.graph.shortlists import ScannShortlist
from tests.export import cases

HERE = pathlib.Path(__file__).parent
OPTIONS = {field.name for field in dataclasses.fields(ServingOptions)}


def margin(embedding):
    """A head that is not a Keras layer."""
    best = tf.math.top_k(embedding, 2).values
    return {"margin": best[:, 0] - best[:, 1]}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """`path` of version 1 with `plain` its twin, `second` of version 2 over other rows.

    In version 2 ScaNN does the first rerank.
    """
    base = tmp_path_factory.mktemp("saved_models")
    encoder, classifier = cases.encoder(), cases.classifier()
    encoder.compile("adam", "mse")
    encoder.fit(tf.zeros([4, cases.FEATURES]), tf.zeros([4, 32]), verbose=0)
    bounds = {"max_k": 50, "max_shortlist": 400, "warmup_batch_sizes": (1, 4)}
    first, second = (
        cases.index(seed, storage="bfloat16", reorder_dim=16 * seed or None) for seed in (0, 1)
    )
    path = export_saved_model(
        str(base / "tiny"),
        encoder,
        classifier=classifier,
        index=first,
        plan=cases.PLAN,
        options=ServingOptions(
            heads={"margin": margin}, metrics={"top1": {8: 0.5, 32: 0.75}}, twin=True, **bounds
        ),
    )
    return types.SimpleNamespace(
        base=base,
        path=path,
        second=export_saved_model(
            str(base / "tiny"),
            encoder,
            index=second,
            plan=cases.PLAN,
            options=ServingOptions(**bounds),
        ),
        plain=str(base / "tiny_plain" / "1"),
        encoder=encoder,
        classifier=classifier,
        index=first,
        second_index=second,
    )


@pytest.fixture(scope="session")
def model(exported):
    return load(exported.path)


@pytest.fixture(scope="session")
def plain(exported):
    return load(exported.plain)


@pytest.fixture(scope="session")
def cascades(tmp_path_factory):
    """{"MRL" or "MRL-E": its `path`, `policy`, raw inputs and their logits}."""
    base, found = tmp_path_factory.mktemp("cascades"), {}
    for name, efficient in (("MRL", False), ("MRL-E", True)):
        encoder, head = cases.cascade_parts(efficient)
        raw = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
        logits = np.asarray(head(encoder(raw)))
        policy = cases.halving_policy(logits)
        path = export_saved_model(
            str(base / name), encoder, classifier=AdaptiveClassifier(head, policy)
        )
        found[name] = types.SimpleNamespace(path=path, policy=policy, raw=raw, logits=logits)
    return found


@pytest.fixture(scope="session")
def two_indexes(exported, tmp_path_factory):
    """The path of one SavedModel with two searchers."""
    both = tf.Module()
    both.searches = [
        NestedSearch(index, cases.PLAN, ScannShortlist)
        for index in (exported.index, exported.second_index)
    ]

    def signature(search):
        def retrieve(embedding):
            return search.search(embedding, 7, 60, 6)

        spec = tf.TensorSpec([None, 32], tf.float32, name="embedding")
        return tf.function(retrieve, input_signature=[spec])

    path = str(tmp_path_factory.mktemp("two") / "1")
    signatures = dict(zip(("first", "second"), map(signature, both.searches), strict=True))
    tf.saved_model.save(both, path, signatures=signatures)
    return path


@pytest.fixture(scope="session")
def content(exported, cascades, two_indexes):
    """What the scripts of fresh processes read."""
    models = {"first": exported.path, "second": exported.second, "plain": exported.plain}
    return {
        "queries": cases.queries(20).tolist(),
        "plan": {"k": 7, "shortlist": 60, "leaves": 6},
        "models": models,
        "two_indexes": two_indexes,
        "cascades": {name: [one.path, one.raw.tolist()] for name, one in cascades.items()},
        "tensors": {name: tensor_names(path) for name, path in models.items()},
    }


def tensor_names(path):
    """The graph's names of what `retrieve_embeddings` takes and gives."""
    saved = saved_model_pb2.SavedModel.FromString(
        (pathlib.Path(path) / "saved_model.pb").read_bytes()
    )
    signature = saved.meta_graphs[0].signature_def["retrieve_embeddings"]
    return {k: v.name for part in (signature.inputs, signature.outputs) for k, v in part.items()}


@pytest.fixture(scope="session")
def run_script(content, tmp_path_factory):
    """Function of a script's name: the JSON that it makes of `content`, in its own process."""

    @functools.cache
    def run(script):
        folder = tmp_path_factory.mktemp("fresh")
        (folder / "cases.json").write_text(json.dumps(content))
        command = [sys.executable, str(HERE / script), "cases.json", "answers.json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((folder / "answers.json").read_text())

    return run


@pytest.fixture(scope="session")
def fresh(run_script):
    """The answers of fresh_process.py."""
    return run_script("fresh_process.py")


@pytest.fixture
def tiny(tmp_path):
    """A function that exports the encoder alone, with changed arguments and options."""

    def export(**changes):
        options = {name: changes.pop(name) for name in OPTIONS & set(changes)}
        arguments = {"encoder": cases.encoder(), "nesting_dims": cases.DIMS} | changes
        if options:
            arguments["options"] = ServingOptions(**options)
        return export_saved_model(str(tmp_path / "m"), **arguments)

    export.folder = tmp_path / "m"
    return export
