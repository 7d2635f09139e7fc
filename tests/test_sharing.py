"""A copy of a model shares the layers that the model shares."""

import json

import keras
import numpy as np
import pytest

from mrl_keras import MaskedLMHead, MatryoshkaDense
from tests.support.contracts import as_numpy, save_and_load

DIMS = [2, 4]


@keras.saving.register_keras_serializable(package="tests_sharing")
class Encoder(keras.Model):
    """An encoder of its own class, whose token embedding is an attribute."""

    def __init__(self, embedding_name=None, **kwargs):
        super().__init__(**kwargs)
        self.embedding_name = embedding_name
        self.token_embedding = keras.layers.Embedding(20, 4, name=embedding_name)
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(self.token_embedding(x))

    def get_config(self):
        return {**super().get_config(), "embedding_name": self.embedding_name}


@keras.saving.register_keras_serializable(package="tests_sharing")
class TableEncoder(keras.layers.Layer):
    """An encoder that has the table itself, as a head's owner."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = keras.layers.Embedding(20, 4)

    @property
    def embeddings(self):
        return self.table.embeddings

    def build(self, shape):
        self.table.build(shape)

    def call(self, x):
        return self.table(x)

    def compute_output_shape(self, shape):
        return (*shape, 4)


def functional():
    tokens = keras.Input((8,), dtype="int32")
    embedding = keras.layers.Embedding(20, 4, name="tokens")
    return tokens, keras.layers.Dense(4)(embedding(tokens)), embedding


def nested():
    tokens, hidden, embedding = functional()
    outer = keras.Input((8,), dtype="int32")
    return outer, keras.Model(tokens, hidden, name="encoder")(outer), embedding


def subclassed(name="token_embedding"):
    tokens, encoder = keras.Input((8,), dtype="int32"), Encoder(name)
    return tokens, encoder(tokens), encoder.token_embedding


def subclassed_without_names():
    return subclassed(None)


def owner():
    tokens, encoder = keras.Input((8,), dtype="int32"), TableEncoder()
    return tokens, encoder(tokens), encoder


def masked_lm(parts):
    tokens, hidden, embedding = parts()
    positions = keras.Input((3,), dtype="int32", name="positions")
    labels = keras.Input((3,), dtype="int32", name="labels")
    scores = MaskedLMHead(embedding, DIMS)([hidden, positions, labels])
    return keras.Model([tokens, positions, labels], scores)


def from_config(model):
    return type(model).from_config(json.loads(json.dumps(model.get_config())))


COPIES = {
    "clone_model": keras.models.clone_model,
    "from_config": from_config,
    "from_json": lambda model: keras.models.model_from_json(model.to_json()),
    "keras": save_and_load,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("parts", [functional, nested, subclassed, subclassed_without_names, owner])
def test_a_copied_head_is_tied_to_the_copied_table(parts, how):
    model = masked_lm(parts)
    copy = COPIES[how](model)
    assert len(copy.weights) == len(model.weights)
    assert len(copy.trainable_weights) == len(model.trainable_weights)
    if how != "keras":
        assert not {id(one) for one in copy.weights} & {id(one) for one in model.weights}
        copy.set_weights(model.get_weights())
    data = [np.arange(n).reshape(1, n) for n in (8, 3, 3)]
    np.testing.assert_allclose(as_numpy(copy(data)), as_numpy(model(data)), rtol=1e-5)
    head = copy.layers[-1]
    head.embedding.embeddings.assign(head.embedding.embeddings * 0.5)
    model.layers[-1].embedding.embeddings.assign(model.layers[-1].embedding.embeddings * 0.5)
    np.testing.assert_allclose(as_numpy(copy(data)), as_numpy(model(data)), rtol=1e-5)
    again = keras.models.clone_model(copy)
    assert len(again.weights) == len(model.weights)


def test_tables_that_cannot_be_told_apart_are_refused():
    tokens = keras.Input((8,), dtype="int32")
    tables = [keras.layers.Embedding(20, 4, name="tokens") for _ in range(2)]
    encoders = []
    for table in tables:
        inner = keras.Input((8,), dtype="int32")
        encoders.append(keras.Model(inner, table(inner)))
    hidden = encoders[0](tokens) + encoders[1](tokens)
    positions = keras.Input((3,), dtype="int32")
    head = MaskedLMHead(tables[0], DIMS)
    model = keras.Model([tokens, positions], head([hidden, positions]))
    with pytest.raises(ValueError, match=r"has 2 of this class, name and config"):
        keras.models.clone_model(model)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the cascade needs it")
@pytest.mark.parametrize("both", [None, "before", "zeta"])  # an output beside the cascade's
@pytest.mark.parametrize("how", COPIES)
def test_a_copied_cascade_shares_its_head(how, both):
    from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy

    inputs = keras.Input((4,))
    embedding = keras.layers.Dense(4)(inputs)
    head = MatryoshkaDense(3, DIMS)
    logits = head(embedding)
    answers = AdaptiveClassifier(head, CascadePolicy(DIMS, [0.5]))(embedding)
    model = keras.Model(inputs, {both: logits, **answers} if both else answers)
    copy = COPIES[how](model)
    assert len(copy.weights) == len(model.weights)
    copy.set_weights(model.get_weights())
    x = np.random.default_rng(0).standard_normal((6, 4)).astype("float32")
    for name, value in model(x).items():
        np.testing.assert_allclose(as_numpy(copy(x)[name]), as_numpy(value), rtol=1e-5)
