"""A model from NumPy to NumPy, which answers few rows on the thread that asks."""

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.export import ServingOptions, SessionModel, export_saved_model, load
from tests.export import cases


@pytest.fixture(scope="module", params=["path", "plain", "second"])
def pair(request, exported):
    """(the model in a session, what `load` gives), with and without ScaNN."""
    path = getattr(exported, request.param)
    with SessionModel(path) as model:
        yield model, load(path)


def features(count):
    return np.random.default_rng(5).standard_normal((count, cases.FEATURES)).astype("float32")


@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_the_answers_are_those_of_load(pair, count):
    model, loaded = pair
    inputs = {"features": features(count), "embedding": cases.queries(count)}
    for name, signature in loaded.signatures.items():
        known = {key: value for key, value in inputs.items() if key in model.signatures[name]}
        known |= {
            key: np.full(shape if shape.rank == 0 else [count], 3, dtype.as_numpy_dtype)
            for key, (dtype, shape) in model.signatures[name].items()
            if key not in known
        }
        if name.endswith("_batch") and not count:
            continue
        expected = signature(**{key: tf.constant(value) for key, value in known.items()})
        answer = model(name, **known)
        assert answer.keys() == expected.keys()
        for key, value in expected.items():
            if value.dtype == tf.float32:
                np.testing.assert_allclose(answer[key], value, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(answer[key], value)


def test_optional_inputs_have_their_defaults(pair):
    model, _ = pair
    queries = cases.queries(2)
    expected = model("retrieve_embeddings", embedding=queries)["ids"]
    found = model("retrieve_embeddings_dynamic", embedding=queries)["ids"]
    np.testing.assert_array_equal(found, expected)
    assert model("retrieve_embeddings_dynamic", embedding=queries, k=2)["ids"].shape == (2, 2)


@pytest.fixture(scope="module")
def scores(exported):
    """What `load` answers to queries."""
    model = load(exported.path)
    return model.signatures["retrieve_embeddings"](tf.constant(cases.queries(40)))["scores"]


@pytest.mark.parametrize("inline_rows", [0, 7, 100])
def test_where_rows_are_answered_changes_no_answer(exported, scores, inline_rows):
    with SessionModel(exported.path, inline_rows=inline_rows) as model:
        for count in (7, 40):
            found = model("retrieve_embeddings", embedding=cases.queries(40)[:count])["scores"]
            np.testing.assert_allclose(found, scores[:count], rtol=1e-5, atol=1e-6)


def test_rows_below_none_are_refused(exported):
    with pytest.raises(ValueError, match="`inline_rows` must be at least 0. Received -1"):
        SessionModel(exported.path, inline_rows=-1)


def test_threads_share_a_model(pair):
    model, _ = pair
    queries = cases.queries(40)
    expected = model("retrieve_embeddings", embedding=queries)["indices"]

    def ask(one):
        return model("retrieve_embeddings", embedding=one[None])["indices"][0]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, queries))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "inputs", "text"),
    [
        ("search", {}, "`signature` must be one of .*retrieve.* Received 'search'"),
        ("retrieve", {}, "retrieve takes features. Received none"),
        ("retrieve", {"feature": 1}, "retrieve takes features. Received feature"),
        ("retrieve", {"features": np.ones(cases.FEATURES)}, r"must have the shape .* Received \("),
        ("retrieve", {"features": [["a"] * cases.FEATURES]}, "must be float32. Received <U1"),
        (
            "retrieve_embeddings_dynamic",
            {"embedding": cases.queries(1), "k": 1.5},
            "`k` of .* must be int32. Received float64",
        ),
    ],
)
def test_refusals(pair, name, inputs, text):
    with pytest.raises(ValueError, match=text):
        pair[0](name, **inputs)


def test_numbers_out_of_range_become_the_nearest_one(pair):
    model, _ = pair
    queries = cases.queries(2).astype("float64")
    name = "retrieve_embeddings_dynamic"
    most = model(name, embedding=queries, k=2**31 - 1)["ids"].shape
    assert model(name, embedding=queries, k=2**31 + 5)["ids"].shape == most
    assert model(name, embedding=queries, k=np.int8(2))["ids"].shape == (2, 2)
    queries[0, 0] = 1e300  # inf in float32: no warning, no result
    indices = model(name, embedding=queries)["indices"]
    assert (indices[0] == -1).all()
    assert (indices[1] >= 0).all()


def test_numbers_are_no_text(tmp_path):
    class Lengths(keras.layers.Layer):
        def call(self, text):
            length = tf.cast(tf.strings.length(text), tf.float32)
            return tf.stack([length] * 8, axis=1)

    options = ServingOptions(input_spec=tf.TensorSpec([None], tf.string), warmup_batch_sizes=())
    path = export_saved_model(tmp_path / "m", Lengths(), nesting_dims=[4, 8], options=options)
    with SessionModel(path) as model:
        assert model("embed", inputs=["four", b"three"])["embedding"][:, 0].tolist() == [4, 5]
        with pytest.raises(ValueError, match="`inputs` of embed must be string. Received int64"):
            model("embed", inputs=[1, 2])


def test_a_closed_model_is_refused(tmp_path):
    inputs = keras.Input((4,))
    encoder = keras.Model(inputs, keras.layers.Dense(8)(inputs))
    with SessionModel(export_saved_model(tmp_path / "m", encoder, nesting_dims=[4, 8])) as model:
        assert model("embed", inputs=np.zeros((2, 4)))["embedding"].shape == (2, 8)
    with pytest.raises(ValueError, match="the model is closed"):
        model("embed", inputs=np.zeros((2, 4)))


@pytest.mark.parametrize("loading", [SessionModel, load])
def test_a_lack_of_memory_is_not_told_as_damage(exported, loading, monkeypatch):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    for module in (tf.saved_model, tf.compat.v1.saved_model):
        monkeypatch.setattr(module, "load", full)
    with pytest.raises(tf.errors.ResourceExhaustedError, match="OOM"):
        loading(exported.path)
