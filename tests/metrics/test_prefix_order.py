import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, PrefixOrder, per_prefix
from mrl_keras.models import sentence_pairs

DIMS = [4, 8, 16]
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((8, 16)).astype("float32"), RNG.integers(0, 3, 8)


def compiled(metrics):
    inputs = keras.Input((16,))
    model = keras.Model(inputs, MatryoshkaDense(3, DIMS)(inputs))
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=MatryoshkaLoss(inner), metrics=metrics)
    return model


class Seen(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(list(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(list(logs))


def test_logs_have_the_order_of_the_dims(capsys):
    model = compiled(per_prefix("sparse_categorical_accuracy", DIMS))
    stem = "sparse_categorical_accuracy"
    own = ["loss", *(f"{stem}_d{dim}" for dim in DIMS)]
    plain = model.fit(X, Y, verbose=0).history
    assert sorted(plain) == sorted(own)
    assert list(plain) != own, "Keras no longer sorts as words"
    seen = Seen()
    history = model.fit(
        X, Y, validation_data=(X, Y), callbacks=[PrefixOrder(), seen], verbose=2
    ).history
    assert list(history) == own + [f"val_{name}" for name in own]
    assert seen.epochs == [list(history)]
    assert seen.batches == [own]
    shown = capsys.readouterr().out
    places = [shown.index(f" {stem}_d{dim}:") for dim in DIMS]
    assert places == sorted(places)


@pytest.mark.slow
def test_keras_asks_none_of_our_classes_about_accuracy():
    """The guide says what to write: Keras compares labels with all prefixes at once, and fails."""
    with pytest.raises(ValueError, match="Name the one you want"):
        per_prefix("accuracy", DIMS)
    # Each backend has its own error of the shapes.
    known = "Dimensions must be equal|[Ii]ncompatible shapes|must match the size"
    with pytest.raises(Exception, match=known):
        compiled(["accuracy"]).fit(X, Y, verbose=0)
    compiled(per_prefix("sparse_categorical_accuracy", DIMS)).fit(X, Y, verbose=0)


@pytest.mark.slow
def test_keras_wants_a_target_for_every_output_in_a_dict():
    """With metrics Keras looks up each output among the targets, also one without any."""
    words = {"words": keras.Input((16,), name="words")}
    pairs = sentence_pairs(keras.Model(words, keras.layers.Dense(16)(words["words"])), DIMS)
    data = {"first_words": X, "second_words": X}
    losses = {"cosine": MatryoshkaLoss("mean_squared_error"), "similarity": None}
    metrics = per_prefix("mean_squared_error", DIMS)
    pairs.compile("sgd", loss=losses, metrics={"cosine": metrics})
    with pytest.raises(KeyError, match="similarity"):
        pairs.fit(data, {"cosine": Y.astype("float32")}, verbose=0)
    one = keras.Model(pairs.input, pairs.output["cosine"])  # as the guide picks it
    one.compile("sgd", loss=losses["cosine"], metrics=metrics)
    one.fit(data, Y.astype("float32"), verbose=0)
