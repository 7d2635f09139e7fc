"""What the exported signatures answer, and what the folder holds."""

import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import mrl_keras
from mrl_keras.export import ServingOptions, export_saved_model, load, load_manifest
from mrl_keras.export.graph.search import LOWEST_SCORE
from mrl_keras.export.warmup import FILE_NAME
from tests.export import cases

RETRIEVALS = [
    f"{name}{variant}"
    for name in ("retrieve", "retrieve_embeddings")
    for variant in ("", "_dynamic", "_batch")
]


def features(count=9):
    return np.random.default_rng(5).standard_normal((count, cases.FEATURES)).astype("float32")


def graph(path):
    return saved_model_pb2.SavedModel.FromString(
        (pathlib.Path(path) / "saved_model.pb").read_bytes()
    ).meta_graphs[0]


def test_signatures_and_their_inputs(model):
    found = {name: set(fn.structured_input_signature[1]) for name, fn in model.signatures.items()}
    numbers = {"k", "shortlist", "leaves"}
    expected = {"embed": {"features"}, "classify": {"features"}, "margin": {"features"}}
    expected |= {name: {"features", "dim"} for name in ("embed_dim", "embed_dim_batch")}
    for name, own in (("retrieve", {"features"}), ("retrieve_embeddings", {"embedding"})):
        expected |= {name: own, f"{name}_dynamic": own | numbers, f"{name}_batch": own | numbers}
    assert found == expected | {"serving_default": {"features"}}


def test_embed_is_the_encoder(exported, model):
    expected = exported.encoder.predict(features(), verbose=0)
    found = model.signatures["embed"](features=tf.constant(features()))["embedding"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dim", "served"), [(8, 8), (11, 11), (0, 1), (-3, 1), (10**9, 32)])
def test_embed_dim_is_a_normalised_prefix(exported, model, dim, served):
    embedding = exported.encoder.predict(features(), verbose=0)[:, :served]
    expected = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    answer = model.signatures["embed_dim"](features=tf.constant(features()), dim=tf.constant(dim))
    np.testing.assert_allclose(answer["embedding"], expected, rtol=1e-4, atol=1e-5)


def test_embed_dim_batch_gives_each_row_its_own_prefix(model):
    dims = np.array([4, 8, 16, 32, 0, 10**9, 5, 1, 32], "int32")
    inputs = tf.constant(features())
    found = model.signatures["embed_dim_batch"](features=inputs, dim=tf.constant(dims))["embedding"]
    assert found.shape == (9, 32)
    for row, dim in enumerate(np.clip(dims, 1, 32)):
        one = model.signatures["embed_dim"](features=inputs, dim=tf.constant(dim))["embedding"]
        np.testing.assert_allclose(found[row, :dim], one[row], rtol=1e-5, atol=1e-6)
        assert not found[row, dim:].numpy().any()


def test_classify_serves_the_full_width(exported, model):
    embedding = exported.encoder(features())
    logits = exported.classifier(embedding).numpy()[:, -1]
    found = model.signatures["classify"](features=tf.constant(features()))
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["class"], logits.argmax(1))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    expected = (odds / odds.sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose(found["probability"], expected, rtol=1e-4)


def test_classify_holds_no_other_prefixs_kernel(exported):
    names = [name for name, _ in tf.train.list_variables(f"{exported.path}/variables/variables")]
    shapes = [tuple(s) for _, s in tf.train.list_variables(f"{exported.path}/variables/variables")]
    assert (32, cases.CLASSES) in shapes
    assert not {(4, cases.CLASSES), (8, cases.CLASSES), (16, cases.CLASSES)} & set(shapes)
    assert not [name for name in names if "optimizer" in name or "momentum" in name]


def test_heads_see_the_embedding(exported, model):
    embedding = np.sort(exported.encoder.predict(features(), verbose=0), axis=1)
    found = model.signatures["margin"](features=tf.constant(features()))["margin"]
    np.testing.assert_allclose(found, embedding[:, -1] - embedding[:, -2], rtol=1e-4, atol=1e-5)


def test_retrieval_from_raw_inputs_is_retrieval_of_their_embeddings(exported, model):
    expected = exported.index.search(exported.encoder.predict(features(), verbose=0), cases.PLAN)
    for name in ("retrieve", "serving_default"):
        found = model.signatures[name](features=tf.constant(features()))
        assert found["ids"].numpy().astype(str).tolist() == expected.ids.tolist()


def numbers(count, k, shortlist, leaves, name):
    values = {"k": k, "shortlist": shortlist, "leaves": leaves}
    shape = [count] if name.endswith("_batch") else []
    return {key: tf.fill(shape, tf.constant(value, tf.int32)) for key, value in values.items()}


@pytest.mark.parametrize("name", ["retrieve_embeddings_dynamic", "retrieve_embeddings_batch"])
@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ((5, 40, 3), (5, 40, 3)),
        ((0, 40, 3), (1, 40, 3)),
        ((-5, 10**9, 10**9), (1, 400, 25)),
        ((10**9, -1, 0), (50, 50, 1)),
        ((-(2**31), 2**31 - 1, -7), (1, 400, 1)),
    ],
)
def test_numbers_are_clamped_into_their_bounds(exported, model, plain, name, asked, served):
    queries = cases.queries(6)
    k, shortlist, leaves = served
    if name.endswith("_batch"):
        k = min(k, cases.PLAN.k)
        shortlist = max(k, min(max(asked[1], k), 400))
    sizes = (shortlist, max(k, min(20, shortlist)))
    plan = mrl_keras.retrieval.SearchPlan(cases.PLAN.dims, sizes, k, leaves)
    expected = exported.index.search(queries, plan)
    inputs = {"embedding": tf.constant(queries), **numbers(6, *asked, name)}
    found = model.signatures[name](**inputs)
    width = cases.PLAN.k if name.endswith("_batch") else k
    for answer in (found, plain.signatures[name](**inputs)):
        assert answer["ids"].shape == (6, width)
        assert (answer["indices"].numpy()[:, k:] == -1).all()
        assert (answer["ids"].numpy()[:, k:] == b"").all()
        assert (answer["scores"].numpy()[:, k:] == LOWEST_SCORE).all()
    np.testing.assert_array_equal(found["indices"].numpy()[:, :k], expected.indices)


def test_merged_rows_do_not_change_each_other(model):
    queries, k = cases.queries(8), np.array([1, 7, 3, 7, 2, 5, 7, 4], "int32")
    fn = model.signatures["retrieve_embeddings_batch"]
    many = numbers(8, 7, 60, 6, "_batch") | {"k": tf.constant(k)}
    together = fn(embedding=tf.constant(queries), **many)["indices"].numpy()
    for row in range(8):
        one = numbers(1, int(k[row]), 60, 6, "_batch")
        alone = fn(embedding=tf.constant(queries[row : row + 1]), **one)["indices"].numpy()
        np.testing.assert_array_equal(together[row], alone[0])


@pytest.mark.parametrize("name", RETRIEVALS)
@pytest.mark.parametrize("count", [0, 3])
def test_every_retrieval_answers_any_batch(model, plain, name, count):
    for loaded in (model, plain):
        fn = loaded.signatures[name]
        inputs = {
            key: tf.zeros([count if size is None else size for size in spec.shape], spec.dtype)
            for key, spec in fn.structured_input_signature[1].items()
        }
        found = fn(**inputs)
        assert {part.shape[0] for part in found.values()} == {count}
        assert np.isfinite(found["scores"]).all()


def test_a_wrong_width_is_refused(model):
    with pytest.raises(Exception, match="shape|Incompatible|incompatible"):
        model.signatures["retrieve_embeddings"](embedding=tf.zeros([2, 31]))


def test_bad_rows_get_nothing(model, plain):
    queries = cases.queries(5)
    queries[2, 0] = np.nan
    for loaded in (model, plain):
        found = loaded.signatures["retrieve_embeddings"](embedding=tf.constant(queries))
        assert (found["indices"].numpy()[2] == -1).all()
        assert (found["indices"].numpy()[[0, 1, 3, 4]] >= 0).all()


def test_the_twin_equals_scann_at_all_leaves(model, plain):
    everything = numbers(9, 20, 400, 25, "")
    inputs = {"embedding": tf.constant(cases.queries(9)), **everything}
    found = [m.signatures["retrieve_embeddings_dynamic"](**inputs) for m in (model, plain)]
    np.testing.assert_array_equal(found[0]["ids"], found[1]["ids"])
    np.testing.assert_allclose(found[0]["scores"], found[1]["scores"], rtol=1e-5)


def test_only_the_main_model_has_custom_ops(exported):
    assert b"Scann" in (pathlib.Path(exported.path) / "saved_model.pb").read_bytes()
    assert b"Scann" not in (pathlib.Path(exported.plain) / "saved_model.pb").read_bytes()
    assert load_manifest(exported.path)["custom_ops"] == ["Scann"]
    assert load_manifest(exported.plain)["custom_ops"] == []


def test_the_graph_holds_no_table(exported):
    assert (pathlib.Path(exported.path) / "saved_model.pb").stat().st_size < 1_000_000
    definition = graph(exported.path).graph_def
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert max(node.attr["value"].tensor.ByteSize() for node in nodes) < 10_000


def test_the_database_stays_on_the_cpu(exported):
    library = graph(exported.path).graph_def.library.function
    nodes = [node for function in library for node in function.node_def]
    gathers = [node.device for node in nodes if node.op == "ResourceGather"]
    assert len(gathers) > 10
    assert all("CPU" in device for device in gathers)


def test_the_searcher_has_one_name_that_no_other_export_has(exported):
    def names(path):
        library = graph(path).graph_def.library.function
        nodes = [node for function in library for node in function.node_def]
        return {n.attr["shared_name"].s for n in nodes if n.op == "Scann>TensorsToScann"}

    first, second = names(exported.path), names(exported.second)
    assert len(first) == len(second) == 1
    assert first.isdisjoint(second)
    assert b"" not in first | second


def test_optional_numbers_have_defaults(exported):
    defaults = {
        name: {key: int(tf.make_ndarray(value)) for key, value in definition.defaults.items()}
        for name, definition in graph(exported.path).signature_def.items()
    }
    plan = {"k": 7, "shortlist": 60, "leaves": 6}
    assert defaults["retrieve_dynamic"] == defaults["retrieve_embeddings_dynamic"] == plan
    assert defaults["embed_dim"] == {"dim": 32}
    assert not defaults["retrieve"]
    assert not defaults["retrieve_batch"]


def test_manifest_names_no_shortlist_that_is_not_used(tmp_path):
    plan = mrl_keras.retrieval.SearchPlan(
        (8,), k=5
    )  # scores all rows, and the index has a ScaNN tree at 8
    path = export_saved_model(tmp_path / "m", cases.encoder(), index=cases.index(), plan=plan)
    assert load_manifest(path)["retrieval"]["shortlist"] == {"kind": "exact", "parameters": None}


def test_manifest(exported):
    manifest = load_manifest(exported.path)
    assert manifest["is_matryoshka"] is True
    assert manifest["matryoshka_dimensions"] == manifest["nesting_dims"] == list(cases.DIMS)
    assert manifest["metrics"] == {"top1": {"8": 0.5, "32": 0.75}}
    assert (manifest["name"], manifest["version"], manifest["twin_of"]) == ("tiny", 1, None)
    retrieval = manifest["retrieval"]
    assert retrieval["rows"] == cases.ROWS
    plan = {"dims": [8, 16, 32], "sizes": [60, 20], "k": 7, "leaves": 6, "certified": False}
    assert retrieval["plan"] == plan
    assert retrieval["bounds"] == {"k": 50, "shortlist": 400, "leaves": 25}
    assert retrieval["shortlist"]["kind"] == "scann"
    assert retrieval["shortlist"]["parameters"]["num_leaves"] == 25
    assert (retrieval["metric"], retrieval["storage"]) == ("cosine", "bfloat16")
    assert manifest["libraries"]["tensorflow"] == tf.__version__
    assert {"scann", "keras", "mrl_keras"} <= set(manifest["libraries"])
    assert manifest["signatures"]["retrieve"] == {"features": ["float32", [None, 6]]}
    twin = load_manifest(exported.plain)
    assert (twin["name"], twin["twin_of"]) == ("tiny_plain", "tiny")
    assert twin["retrieval"]["shortlist"]["kind"] == "partition"
    assert "scann" not in twin["libraries"]
    assert load_manifest(str(exported.base / "tiny"))["version"] == 2


def test_warmup_requests_are_answered(exported, model):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = os.path.join(exported.path, "assets.extra", FILE_NAME)
    answered = []
    for record in tf.data.TFRecordDataset(path):
        request = apis.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "tiny"
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        signature = request.model_spec.signature_name
        answer = model.signatures[signature](**inputs)
        batch = inputs.get("features", inputs.get("embedding")).shape[0]
        assert {part.shape[0] for part in answer.values()} == {batch}
        answered.append((signature, batch))
    assert sorted(answered) == sorted((name, size) for name in model.signatures for size in (1, 4))
    assert load_manifest(exported.path)["warmed_signatures"] == list(
        dict.fromkeys(name for name, _ in answered)
    )


def test_encoders_of_several_inputs_and_of_text(tmp_path):
    words = keras.layers.StringLookup(vocabulary=["red", "green"])
    word = keras.Input((3,), dtype="string", name="words")
    number = keras.Input((2,), name="numbers")
    parts = [keras.layers.Embedding(4, 5)(words(word)), number]
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(parts[0]), number])
    encoder = keras.Model({"words": word, "numbers": number}, keras.layers.Dense(8)(joined))
    path = export_saved_model(str(tmp_path / "m"), encoder, nesting_dims=[4, 8])
    inputs = {"words": tf.constant([["red", "blue", "green"]]), "numbers": tf.ones([1, 2])}
    found = load(path).signatures["embed"](**inputs)["embedding"]
    np.testing.assert_allclose(found, encoder(inputs), rtol=1e-5)


class Subclassed(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.dense = keras.layers.Dense(width)

    def call(self, inputs):
        return self.dense(inputs["a"] + inputs["b"])


def test_a_subclassed_encoder_needs_an_input_spec(tiny):
    encoder = Subclassed(32)
    encoder({"a": np.zeros((1, 3), "float32"), "b": np.zeros((1, 3), "float32")})
    with pytest.raises(ValueError, match="inputs of the encoder Subclassed are not known"):
        tiny(encoder=encoder)
    spec = {name: tf.TensorSpec([None, 3]) for name in "ab"}
    path = tiny(encoder=encoder, options=ServingOptions(input_spec=spec))
    ones = tf.ones([2, 3])
    np.testing.assert_allclose(
        load(path).signatures["embed"](a=ones, b=ones)["embedding"],
        encoder({"a": ones, "b": ones}),
        rtol=1e-5,
    )


def test_open_axes_are_not_warmed_up(tiny):
    inputs = keras.Input((None, 4), name="steps")
    encoder = keras.Model(inputs, keras.layers.Dense(32)(keras.layers.GlobalMaxPooling1D()(inputs)))
    assert load_manifest(tiny(encoder=encoder))["warmed_signatures"] == []
