import os

import keras
import numpy as np
import pytest

from mrl_keras.distribution import Checkpoints

CONFIG = {"seed": 1, "optimizer": {"name": "adam", "learning_rate": 0.1}}


def small_model(units=3):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dropout(0.5)]
        + [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    return model


def fit(model, steps=3):
    x = np.linspace(-1, 1, 4 * 8 * steps, dtype="float32").reshape(-1, 4)
    model.fit(x, x[:, :1], batch_size=8, shuffle=False, verbose=0)
    return model


def values(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


@pytest.fixture
def saved(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", CONFIG)


def test_everything_that_training_changes_comes_back(saved):
    model = fit(small_model())
    saved.save(model, 3)
    other = small_model()
    assert saved.restore(other) == 3
    for one, two in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(one, two)
    fit(model), fit(other)  # dropout's random state and Adam's slots came back too
    for one, two in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_newest_are_kept(saved):
    model = small_model()
    for step in (5, 10, 15):
        saved.save(model, step)
    assert saved.steps() == [10, 15]
    assert saved.restore(model) == 15


def test_nothing_is_restored_where_nothing_was_saved(saved):
    model = small_model()
    before = values(model)
    assert saved.restore(model) == 0
    for one, two in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_model_without_optimizer_takes_the_weights_alone(saved):
    model = fit(small_model())
    saved.save(model, 3)
    bare = keras.models.clone_model(model)
    assert saved.restore(bare) == 3
    np.testing.assert_array_equal(bare.get_weights()[0], model.get_weights()[0])


def test_a_checkpoint_of_another_config_is_refused(saved, tmp_path):
    model = small_model()
    saved.save(model, 3)
    other = {**CONFIG, "optimizer": {"name": "adam", "learning_rate": 0.2}, "steps": 5}
    text = r"another configuration: optimizer.learning_rate is 0.1 there and 0.2 here"
    with pytest.raises(ValueError, match=text):
        Checkpoints(saved.directory, other).restore(model)
    with pytest.raises(ValueError, match="steps is 'absent' there and 5 here"):
        Checkpoints(saved.directory, {**CONFIG, "steps": 5}).restore(model)


def test_another_model_is_refused_and_stays_as_it_was(saved):
    saved.save(small_model(), 3)
    other = small_model(units=5)
    other.optimizer.build(other.trainable_variables)
    before = values(other)
    with pytest.raises(ValueError, match=r"of another model: for model.0 .* of shape \(4, 5\)"):
        saved.restore(other)
    for one, two in zip(before, values(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_damaged_file_is_named(saved):
    model = small_model()
    saved.save(model, 3)
    with open(saved.path(3), "r+b") as file:
        file.truncate(os.path.getsize(saved.path(3)) // 2)
    with pytest.raises(ValueError, match=r"step-000000003.npz is damaged .* Remove it"):
        saved.restore(model)


def test_a_write_that_fails_leaves_the_one_before(saved, monkeypatch):
    model = small_model()
    saved.save(model, 3)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(np, "savez", full)
        saved.save(model, 6)
    assert saved.steps() == [3]
    assert os.listdir(saved.directory) == ["step-000000003.npz"]


def test_bfloat16_variables_come_back_exactly(tmp_path):
    def half():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype="bfloat16")])
        model.compile("sgd", "mse")
        return model

    one, two = half(), half()
    saved = Checkpoints(tmp_path, CONFIG)
    saved.save(one, 1)
    saved.restore(two)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(np.asarray(a, "float32"), np.asarray(b, "float32"))
