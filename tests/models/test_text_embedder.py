"""Text embedders: pooling, pairs of sentences, both objectives, errors."""

import keras
import numpy as np
import pytest

from mrl_keras import CoSENT, MatryoshkaLoss, SymmetricContrastive
from mrl_keras.models import sentence_pairs, text_embedder
from mrl_keras.models.pooling import MaskedMean
from tests.support.contracts import check_config_round_trip

RNG = np.random.default_rng(0)
SIZES = {"vocab_size": 30, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "inner_dim": 32}


def tokens(rows, lengths, prefix=""):
    mask = np.arange(6) < np.asarray(lengths)[:, None]
    words = np.where(mask, RNG.integers(5, 30, (rows, 6)), 0).astype("int32")
    named = zip(("word_ids", "mask", "type_ids"), (words, mask, 0 * words), strict=True)
    return {f"{prefix}input_{name}": value.astype("int32") for name, value in named}


def test_masked_mean():
    sequence = RNG.standard_normal((3, 5, 4)).astype("float32")
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    layer = check_config_round_trip(MaskedMean, {"name": "pooling"})
    found = np.asarray(layer([sequence, mask]))
    np.testing.assert_allclose(found[0], sequence[0].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found[1], sequence[1, :2].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(found[2], 0.0)


def test_poolings():
    """The mean reads no padding; "cls" is the first vector, as in the dual encoder's tower."""
    keras.utils.set_random_seed(0)
    x = tokens(4, [6, 4, 3, 2])
    model = text_embedder(6, **SIZES)
    bert = model.get_layer("bert")
    sequence = np.asarray(bert(x)["sequence_output"])
    expected = [row[:n].mean(axis=0) for row, n in zip(sequence, [6, 4, 3, 2], strict=True)]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    other = {**x, "input_word_ids": np.where(x["input_mask"], x["input_word_ids"], 7)}
    np.testing.assert_allclose(model.predict(other, verbose=0), expected, atol=1e-5)
    first = text_embedder(6, pooling="cls", **SIZES)
    found = first.get_layer("bert")(x)["sequence_output"][:, 0]
    np.testing.assert_allclose(first.predict(x, verbose=0), found, atol=1e-5)
    assert text_embedder(6, width=8, pooling="cls", **SIZES).output_shape == (None, 8)
    with pytest.raises(ValueError, match="`pooling` must be one of .* Received 'max'"):
        text_embedder(6, pooling="max", **SIZES)


def test_outputs_are_cosines_of_all_pairs_and_of_each_pair():
    words = {"words": keras.Input((4,), name="words")}
    embedder = keras.Model(words, keras.layers.Dense(8)(words["words"]))
    model = sentence_pairs(embedder, [2, 8], temperature=0.1)
    one, two = (RNG.standard_normal((5, 4)).astype("float32") for _ in range(2))
    outputs = model({"first_words": one, "second_words": two})
    one, two = (np.asarray(model.get_layer("embedder")({"words": x})) for x in (one, two))
    check_cosines(outputs, one, two)


def check_cosines(outputs, one, two):
    for p, dim in enumerate((2, 8)):
        rows, others = (
            e[:, :dim] / np.linalg.norm(e[:, :dim], axis=1, keepdims=True) for e in (one, two)
        )
        found = np.asarray(outputs["similarity"])[:, p]
        np.testing.assert_allclose(found, rows @ others.T / 0.1, atol=1e-4)
        found = np.asarray(outputs["cosine"])[:, p, 0]
        np.testing.assert_allclose(found, np.sum(rows * others, 1), atol=1e-5)


@pytest.mark.slow
def test_pairs_train_compiled_by_both_objectives_and_survive_a_file(tmp_path):
    keras.utils.set_random_seed(0)
    model = sentence_pairs(text_embedder(6, width=8, **SIZES), [2, 8], temperature=0.1)
    losses = {
        "similarity": MatryoshkaLoss(SymmetricContrastive("gathered")),
        "cosine": MatryoshkaLoss(CoSENT()),
    }
    model.compile("adam", loss=losses, jit_compile=True)
    x = tokens(8, [6, 5, 4, 3] * 2, "first_") | tokens(8, [6, 5, 4, 3] * 2, "second_")
    y = {"similarity": np.zeros(8), "cosine": np.arange(8.0)}
    before = [weight.numpy() for weight in model.trainable_variables]
    history = model.fit(x, y, epochs=12, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 0.5
    after = [weight.numpy() for weight in model.trainable_variables]
    # A key's bias adds the same number to all of a query's scores: softmax does not see it.
    changes = zip(before, after, model.trainable_variables, strict=True)
    assert all((a != b).any() or "key" in w.name for a, b, w in changes)

    outputs = model.predict(x, verbose=0)
    embedder = model.get_layer("embedder")
    one, two = (
        embedder.predict({n: x[f"{side}_{n}"] for n in embedder.input}, verbose=0)
        for side in ("first", "second")
    )
    check_cosines(outputs, one, two)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    again = loaded.predict(x, verbose=0)["cosine"]
    np.testing.assert_allclose(again, outputs["cosine"], atol=1e-5)


def test_errors():
    words = keras.Input((4,), name="words")
    alone = keras.Model(words, keras.layers.Dense(8)(words))
    with pytest.raises(ValueError, match="of a dict of inputs that ends in an embedding"):
        sentence_pairs(alone, [2, 8])
    with pytest.raises(ValueError, match="must end at the embedding width 8"):
        named = keras.Model({"words": words}, keras.layers.Dense(8)(words))
        sentence_pairs(named, [2, 4])
