"""Processes that know neither this package nor scann's Python get the in-memory answers."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mrl_keras.export.graph.search import NestedSearch
from mrl_keras.export.graph.shortlists import ScannShortlist
from tests.export import cases

HERE = pathlib.Path(__file__).parent
QUERIES = cases.queries(20)


def tensor_names(path):
    """The graph's names of what `retrieve_embeddings` takes and gives."""
    saved = saved_model_pb2.SavedModel.FromString(
        (pathlib.Path(path) / "saved_model.pb").read_bytes()
    )
    signature = saved.meta_graphs[0].signature_def["retrieve_embeddings"]
    return {k: v.name for part in (signature.inputs, signature.outputs) for k, v in part.items()}


def run(script, folder, content):
    """The JSON that `script` makes of `content`, in a process of its own."""
    (folder / "cases.json").write_text(json.dumps(content))
    command = [sys.executable, str(HERE / script), "cases.json", "answers.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.fixture(scope="module")
def content(exported, tmp_path_factory):
    models = {"first": exported.path, "second": exported.second, "plain": exported.plain}
    both = tf.Module()
    both.searches = [
        NestedSearch(index, cases.PLAN, ScannShortlist(index, cases.PLAN))
        for index in (exported.index, exported.second_index)
    ]

    def signature(search):
        def retrieve(embedding):
            return search.search(embedding, 7, 60, 6)

        spec = tf.TensorSpec([None, 32], tf.float32, name="embedding")
        return tf.function(retrieve, input_signature=[spec])

    two = str(tmp_path_factory.mktemp("two") / "1")
    signatures = dict(zip(("first", "second"), map(signature, both.searches), strict=True))
    tf.saved_model.save(both, two, signatures=signatures)
    return {
        "queries": QUERIES.tolist(),
        "plan": {"k": 7, "shortlist": 60, "leaves": 6},
        "models": models,
        "two_indexes": two,
        "tensors": {name: tensor_names(path) for name, path in models.items()},
    }


@pytest.fixture(scope="module")
def fresh(content, tmp_path_factory):
    return run("fresh_process.py", tmp_path_factory.mktemp("fresh"), content)


@pytest.fixture(scope="module")
def expected(exported):
    return {
        "first": exported.index.search(QUERIES, cases.PLAN),
        "second": exported.second_index.search(QUERIES, cases.PLAN),
    }


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("way", ["loader", "session"])
def test_ids_are_those_in_memory(fresh, expected, way, name):
    assert fresh[way][name]["ids"] == expected[name].ids.tolist()


def test_the_twin_answers_alike_by_both_loaders(fresh, expected):
    ids = np.array(fresh["loader"]["plain"]["ids"])
    assert fresh["session"]["plain"]["ids"] == ids.tolist()
    assert np.mean(ids == expected["first"].ids) > 0.6


def test_the_twin_needs_tensorflow_alone(fresh):
    """Answered before the process knew ScaNN's ops, and no op of its graph is a custom one."""
    assert fresh["alone"] == fresh["loader"]["plain"]["ids"]
    assert fresh["unknown"]["plain"] == []
    assert fresh["unknown"]["first"] == ["Scann>ScannSearchBatched", "Scann>TensorsToScann"]


def test_the_process_does_not_know_this_package(fresh):
    assert fresh["modules"] == []


@pytest.mark.parametrize("name", ["first", "second", "plain"])
def test_a_session_fills_defaults_and_clamps(fresh, name):
    answers = fresh["session"][name]
    assert answers["defaults"] == answers["ids"]
    assert [len(row) for row in answers["two"]] == [2] * 20
    assert answers["one"] == [row[:1] for row in answers["ids"]]
    assert answers["empty"] == [0, 7]
    assert answers["wrong_width_refused"]


@pytest.mark.parametrize("name", ["first", "plain"])
def test_a_session_leaves_the_neighbours_of_bad_rows_alone(fresh, name):
    answers = fresh["session"][name]
    assert answers["poisoned"][1] == [""] * 7
    del answers["poisoned"][1]
    assert answers["poisoned"] == [row for n, row in enumerate(answers["ids"]) if n != 1]


def test_two_indexes_in_one_model_do_not_mix(fresh, expected):
    for way in ("loader", "session"):
        for name in ("first", "second"):
            assert fresh["two"][f"{way} {name}"] == expected[name].ids.tolist()


def test_first_requests_at_once_get_the_same_answers(fresh, expected):
    assert len(fresh["race"]) == 3 * 8
    assert all(answer == expected["first"].ids.tolist() for answer in fresh["race"])


@pytest.mark.parametrize("name", ["first", "second", "plain"])
def test_requests_build_nothing(fresh, name):
    """No signature adds a thread pool, the parts are gone, and memory stays where it is."""
    found = fresh["loader"][name]
    assert found["threads"] == [0] * 6
    assert found["parts"] == ([] if name == "plain" else [0] * 9)
    assert found["grown_kib"] < 30_000


def test_the_c_api_gives_the_same(content, expected, tmp_path):
    answers = run("c_api_client.py", tmp_path, content)
    assert answers["python_tensorflow"] is False
    for name in ("first", "second"):
        np.testing.assert_array_equal(answers[name]["indices"], expected[name].indices)
        np.testing.assert_allclose(answers[name]["scores"], expected[name].scores, rtol=1e-5)
    assert np.shape(answers["plain"]["indices"]) == (20, 7)
