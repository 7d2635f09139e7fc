"""Small trainings that Keras's every backend can do, on data that can be learned."""

import keras
import numpy as np

import mrl_keras
from mrl_keras.models import image_classifier, masked_lm, sentence_pairs

DIMS = [2, 4, 8]
CLASSES, PIECES, LENGTH = 3, 20, 6


def labelled(rows=96):
    """Clouds of points (rows, 5) around one centre for each class, and the classes."""
    random = np.random.default_rng(0)
    labels = np.arange(rows) % CLASSES
    centres = 2.0 * random.standard_normal((CLASSES, 5))
    return (centres[labels] + random.standard_normal((rows, 5))).astype("float32"), labels


def classifier(efficient=False):
    """A compiled classifier of `labelled`."""
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    backbone = keras.Model(inputs, keras.layers.Dense(DIMS[-1])(hidden))
    model = image_classifier(backbone, CLASSES, DIMS, efficient=efficient)
    model.compile(
        keras.optimizers.Adam(0.02),
        loss=mrl_keras.MatryoshkaLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        metrics=mrl_keras.per_prefix("sparse_categorical_accuracy", DIMS),
    )
    return model


def pairs(rows=64):
    """Points and the same points, changed a little, as the inputs of `pair_model`."""
    random = np.random.default_rng(1)
    first = random.standard_normal((rows, 6)).astype("float32")
    second = first + 0.1 * random.standard_normal((rows, 6)).astype("float32")
    return {"first_x": first, "second_x": second}


def pair_model():
    """A compiled contrastive model of `pairs`, whose negatives are those of the batch."""
    x = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(16, activation="tanh")(x)
    whole = sentence_pairs(keras.Model({"x": x}, keras.layers.Dense(DIMS[-1])(hidden)), DIMS, 0.2)
    model = keras.Model(whole.input, whole.output["similarity"])
    model.compile(
        keras.optimizers.Adam(0.02),
        loss=mrl_keras.MatryoshkaLoss(mrl_keras.SymmetricContrastive("gathered")),
        metrics=mrl_keras.per_prefix(mrl_keras.InBatchAccuracy(), DIMS),
    )
    return model


def masked_tokens(rows=64):
    """Rows that count upwards modulo the pieces, with one hidden token each: (x, y, weights)."""
    random = np.random.default_rng(2)
    first = random.integers(1, PIECES, rows)
    words = 1 + (first[:, None] + np.arange(LENGTH)) % (PIECES - 1)
    places = random.integers(1, LENGTH, (rows, 1))
    labels = np.take_along_axis(words, places, axis=1).astype("int32")
    np.put_along_axis(words, places, 0, axis=1)
    inputs = {
        "input_word_ids": words.astype("int32"),
        "input_mask": np.ones_like(words, "int32"),
        "input_type_ids": np.zeros_like(words, "int32"),
        "masked_lm_positions": places.astype("int32"),
        "masked_lm_ids": labels,
    }
    return inputs, labels, np.ones(labels.shape, "float32")


def masked_model():
    """A compiled masked language model of `masked_tokens`."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    embedding = keras.layers.Embedding(PIECES, DIMS[-1], name="table")
    hidden = keras.layers.Conv1D(16, 3, padding="same", activation="relu")(embedding(tokens))
    encoder = keras.Model({"tokens": tokens}, keras.layers.Dense(DIMS[-1])(hidden))
    names = {"input_word_ids": "tokens"}
    model = masked_lm(encoder, DIMS, LENGTH, 1, embedding=embedding, names=names)
    model.compile(
        keras.optimizers.Adam(0.02),
        loss=mrl_keras.MatryoshkaLoss(mrl_keras.MaskedLMCrossentropy()),
        weighted_metrics=mrl_keras.per_prefix(mrl_keras.MaskedLMAccuracy(), DIMS),
    )
    return model
