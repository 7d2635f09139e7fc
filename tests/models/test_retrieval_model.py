import keras
import numpy as np
import pytest

from mrl_keras.export import ServingOptions, export_saved_model, load
from mrl_keras.models import RetrievalModel
from mrl_keras.retrieval import IndexOptions, NestedIndex, ScannParameters, SearchPlan
from tests.support.contracts import as_numpy

DIMS = (4, 8, 16)
PLAN = SearchPlan((4, 8, 16), (40, 20), k=5, leaves=5)
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((400, 6)).astype("float32")
ASKED = FEATURES[:50] + 0.1 * RNG.standard_normal((50, 6)).astype("float32")


def dense_encoder(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,), name="features")
    hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(12, activation="tanh")(inputs))
    return keras.Model(inputs, keras.layers.Dense(DIMS[-1])(hidden))


def indexed(embeddings, scann=False):
    return NestedIndex.build(
        embeddings,
        DIMS,
        ids=[f"doc-{row}" for row in range(len(embeddings))],
        options=IndexOptions(
            shortlist_dim=4 if scann else None, scann=ScannParameters(12, 5) if scann else None
        ),
    )


@pytest.fixture(scope="module")
def model():
    encoder = dense_encoder()
    index = indexed(encoder.predict(FEATURES, verbose=0), scann=True)
    return RetrievalModel(encoder, index, PLAN, batch_size=16)


def count_encoded(model, monkeypatch, stop_at=None):
    """Lets the model note how many rows it encodes, and fail before row `stop_at`."""
    encode, seen = RetrievalModel._encode, []

    def noting(self, batch):
        output = encode(self, batch)
        seen.append(len(output))
        if stop_at is not None and sum(seen) > stop_at:
            raise KeyboardInterrupt
        return output

    monkeypatch.setattr(RetrievalModel, "_encode", noting)
    return seen


def assert_same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


@pytest.mark.slow
def test_the_answers_are_those_of_the_export(model, tmp_path):
    path = export_saved_model(
        str(tmp_path / "tiny"),
        model.encoder,
        index=model.index,
        plan=PLAN,
        options=ServingOptions(warmup_batch_sizes=()),
    )
    served, embeddings = load(path), model.embed(ASKED)
    for found, signature, given in (
        (model.retrieve(ASKED), "retrieve", {"features": ASKED}),
        (model.retrieve_embeddings(embeddings), "retrieve_embeddings", {"embedding": embeddings}),
    ):
        tensors = {name: keras.ops.convert_to_tensor(value) for name, value in given.items()}
        answer = served.signatures[signature](**tensors)
        assert answer["ids"].numpy().astype(str).tolist() == found.ids.tolist()
        np.testing.assert_array_equal(answer["indices"].numpy(), found.indices)
        np.testing.assert_allclose(answer["scores"].numpy(), found.scores, rtol=1e-5)


def test_embeddings_are_the_encoders_in_inference_mode(model, monkeypatch):
    seen = count_encoded(model, monkeypatch)
    found = model.embed(ASKED)
    assert seen == [16, 16, 16, 2]
    assert found.dtype == np.float32
    expected = as_numpy(model.encoder(ASKED, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    tensor = keras.ops.convert_to_tensor(ASKED)
    np.testing.assert_array_equal(model.embed(tensor), found)
    assert_same(model.retrieve(tensor), model.index.search(expected, PLAN))


def test_a_layer_encodes_too():
    layer = keras.layers.Dense(16, dtype="mixed_bfloat16")
    layer.build((None, 6))
    index = indexed(as_numpy(keras.ops.cast(layer(FEATURES), "float32")))
    model = RetrievalModel(layer, index, SearchPlan((16,), k=1))
    assert model.embed(FEATURES).dtype == np.float32
    assert model.retrieve(FEATURES[:9]).indices[:, 0].tolist() == list(range(9))


def test_an_empty_batch_and_bad_rows(model):
    assert model.embed(ASKED[:0]).shape == (0, 16)
    assert [part.shape for part in model.retrieve(ASKED[:0])] == [(0, 5)] * 3
    asked = ASKED.copy()
    asked[7, 2] = np.nan
    found, expected = model.retrieve(asked), model.retrieve(ASKED)
    assert found.ids[7].tolist() == [""] * 5
    others = np.arange(50) != 7
    np.testing.assert_array_equal(found.ids[others], expected.ids[others])


@pytest.mark.parametrize("many", [list, tuple])
def test_a_list_of_texts_is_a_batch(many):
    words = [f"w{n}" for n in range(8)]
    text = keras.Input((), name="text", dtype="string")
    places = keras.layers.StringLookup(vocabulary=words, num_oov_indices=0, output_mode="one_hot")
    encoder = keras.Model(text, places(text))
    model = RetrievalModel(encoder, NestedIndex.build(np.eye(8), [8]), SearchPlan((8,), k=1))
    assert model.retrieve(many(words)).ids[:, 0].tolist() == list(range(8))
    assert model.embed(many([b"w3", "w1"])).argmax(axis=1).tolist() == [3, 1]


class TestStructures:
    """Text and numbers together, as Keras models take them: a dict, or a list in order."""

    WORDS = np.array([f"w{n % 7} w{n % 11}" for n in range(60)])
    NUMBERS = np.arange(60, dtype="float32")[:, None] / 60

    def model(self, structure):
        keras.utils.set_random_seed(1)
        text = keras.Input((), name="text", dtype="string")
        number = keras.Input((1,), name="number")
        words = keras.layers.TextVectorization(output_sequence_length=2)
        words.adapt(self.WORDS)
        vectors = keras.layers.Flatten()(keras.layers.Embedding(20, 6)(words(text)))
        joined = keras.layers.Concatenate()([vectors, number])
        inputs = {"text": text, "number": number} if structure is dict else [text, number]
        encoder = keras.Model(inputs, keras.layers.Dense(16, activation="tanh")(joined))
        model = RetrievalModel(encoder, indexed(np.eye(16)), SearchPlan((16,), k=1), batch_size=25)
        model.index = indexed(model.embed(self.inputs(structure)))
        return model

    def inputs(self, structure, part=slice(None)):
        text, number = self.WORDS[part], self.NUMBERS[part]
        return {"text": text, "number": number} if structure is dict else [text, number]

    @pytest.mark.parametrize("structure", [dict, list])
    def test_several_inputs(self, structure, tmp_path):
        model, inputs = self.model(structure), self.inputs(structure)
        found = model.retrieve(inputs)
        assert found.indices[:, 0].tolist() == list(range(60))
        for _ in range(2):
            assert_same(model.retrieve_to_disk(inputs, tmp_path / "a", chunk_queries=40), found)
        if structure is dict:
            changed = self.inputs(structure) | {"text": self.WORDS[::-1]}
            with pytest.raises(ValueError, match="the first 60 of `queries` differ"):
                model.retrieve_to_disk(changed, tmp_path / "a")

    def test_batches(self, tmp_path):
        model = self.model(dict)
        parts = [slice(0, 7), slice(7, 50), slice(50, 60)]
        batches = ((self.inputs(dict, part), np.zeros(3)) for part in parts)  # x, and y ignored
        found = model.retrieve_to_disk(batches, tmp_path / "a", chunk_queries=20)
        assert_same(found, model.retrieve(self.inputs(dict)))


class TestToDisk:
    def test_inputs_answered_before_are_not_encoded_again(self, model, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            count_encoded(model, patch, stop_at=45)
            model.retrieve_to_disk(ASKED, tmp_path / "a", chunk_queries=20)
        with monkeypatch.context() as patch:
            seen = count_encoded(model, patch)
            found = model.retrieve_to_disk(ASKED, tmp_path / "a", chunk_queries=20)
            assert sum(seen) == 10
            model.retrieve_to_disk(iter(np.split(ASKED, 5)), tmp_path / "a")
            assert sum(seen) == 10
        assert all(isinstance(part, np.memmap) for part in found)
        assert_same(found, model.retrieve(ASKED))

    def test_another_encoder_is_refused(self, model, tmp_path):
        model.retrieve_to_disk(ASKED, tmp_path / "a")
        other = RetrievalModel(dense_encoder(seed=1), model.index, PLAN)
        with pytest.raises(ValueError, match=r"differs in: queries\.encoder \("):
            other.retrieve_to_disk(ASKED, tmp_path / "a")
        other.encoder.set_weights(model.encoder.get_weights())
        assert_same(other.retrieve_to_disk(ASKED, tmp_path / "a"), model.retrieve(ASKED))

    @pytest.mark.parametrize("inputs", [ASKED[:0], iter([])], ids=["array", "batches"])
    def test_no_inputs(self, model, tmp_path, inputs):
        found = model.retrieve_to_disk(inputs, tmp_path / "a")
        assert [part.shape for part in found] == [(0, 5)] * 3

    def test_batches_of_other_shapes_are_refused(self, model, tmp_path):
        with pytest.raises(ValueError, match=r"same shapes, \[\(6,\)\] .* Received \[\(5,\)\]"):
            model.retrieve_to_disk(iter([ASKED[:3], ASKED[:3, :5]]), tmp_path / "a")

    def test_an_encoder_that_is_not_built_is_refused(self, model, tmp_path):
        other = RetrievalModel(keras.Sequential([keras.layers.Dense(16)]), model.index, PLAN)
        with pytest.raises(ValueError, match="must be built, since its weights tell"):
            other.retrieve_to_disk(ASKED, tmp_path / "a")
        other.embed(ASKED)
        assert other.retrieve_to_disk(ASKED, tmp_path / "a").ids.shape == (50, 5)

    def test_a_chunk_size_of_zero_is_refused(self, model, tmp_path):
        with pytest.raises(ValueError, match="`chunk_queries` must be at least 1. Received 0"):
            model.retrieve_to_disk(ASKED, tmp_path / "a", chunk_queries=0)
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"encoder": lambda x: x}, "`encoder` must be a Keras layer or model"),
        ({"index": None}, "`index` must be a NestedIndex .* types NoneType and SearchPlan"),
        ({"plan": 5}, "`plan` a SearchPlan. Received types NestedIndex and int"),
        ({"plan": SearchPlan((5,))}, r"Received \[5\] beside them"),
        ({"batch_size": 0}, "`batch_size` must be at least 1. Received 0"),
        ({"index": NestedIndex.build(np.eye(4), [2, 4]), "plan": SearchPlan((4,))}, r"\(batch, 4"),
    ],
)
def test_bad_arguments(model, change, text):
    given = {"encoder": model.encoder, "index": model.index, "plan": PLAN}
    with pytest.raises(ValueError, match=text):
        RetrievalModel(**(given | change))


class Answers(keras.layers.Layer):
    """Gives whatever `made` makes of the inputs."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def call(self, inputs):
        return self.made(inputs)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda x: x, r"must give embeddings \(50, 16\).* shape is \(50, 6\)"),
        (lambda x: keras.ops.zeros((50, 2, 16)), r"shape is \(50, 2, 16\)"),
        (lambda x: keras.ops.zeros((3, 16)), r"shape is \(3, 16\)"),
        (lambda x: {"embedding": x}, r"must give one tensor \(batch, 16\). Received dict"),
    ],
)
def test_bad_encoders(model, made, text):
    with pytest.raises(ValueError, match=text):
        RetrievalModel(Answers(made), model.index, PLAN).retrieve(ASKED)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (3.0, r"with a batch axis, .* Received the shapes \[\(\)\]"),
        ({"a": ASKED, "b": ASKED[:4]}, r"one common batch axis. .* \[\(50, 6\), \(4, 6\)\]"),
        ({}, r"Received the shapes \[\]"),
    ],
)
def test_bad_inputs(model, inputs, text):
    with pytest.raises(ValueError, match=text):
        model.retrieve(inputs)
