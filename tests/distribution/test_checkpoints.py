import contextlib
import json
import os

import keras
import numpy as np
import pytest

from mrl_keras import AdaLoss, MatryoshkaDense, MatryoshkaLoss
from mrl_keras.distribution import Checkpoints
from tests.support.remote import Stopped, new_folder, stop_writes

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


def adapting_model():
    model = keras.Sequential([keras.Input((4,)), MatryoshkaDense(1, [2, 4])])
    model.compile("adam", MatryoshkaLoss("mse", AdaLoss([2, 4])))
    return model


def test_weights_that_adapt_come_back(saved):
    model, other = fit(adapting_model()), adapting_model()
    path = saved.save(model, 3)
    with np.load(path) as file:
        kept = {name for name in file.files if name.startswith("loss/")}
    assert kept == {"loss/adaloss/weights", "loss/adaloss/mean", "loss/adaloss/steps"}
    assert saved.restore(other) == 3
    one, two = (of.loss.relative_importance.variables for of in (model, other))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert np.ptp(one[0].numpy()) > 0
    bare = keras.models.clone_model(model)  # not compiled: the weights of its loss are left out
    assert saved.restore(bare) == 3


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
    assert Checkpoints(saved.directory, {**CONFIG, "init_from": ""}).restore(model) == 3


def test_another_model_is_refused_and_stays_as_it_was(saved):
    saved.save(small_model(), 3)
    other = small_model(units=5)
    other.optimizer.build(other.trainable_variables)
    before = values(other)
    text = r"of another model: of other shapes are model/dense/kernel \(\(4, 3\) there, \(4, 5\) "
    with pytest.raises(ValueError, match=text):
        saved.restore(other)
    for one, two in zip(before, values(other), strict=True):
        np.testing.assert_array_equal(one, two)


def towers(*names):
    """A model of equal layers with these names, side by side, whose weights differ."""
    inputs = keras.Input((4,))
    layers = [keras.layers.Dense(4, name=name) for name in names]
    model = keras.Model(inputs, keras.layers.add([layer(inputs) for layer in layers]))
    model.compile("adam", "mse")
    return model


def test_equal_variables_that_change_places_load_rightly(saved):
    one, two = towers("left", "right"), towers("right", "left")
    x = np.linspace(-1, 1, 32, dtype="float32").reshape(-1, 4)
    one.fit(x, x, verbose=0)
    saved.save(one, 1)
    assert saved.restore(two) == 1
    for name in ("left", "right"):
        for a, b in zip(one.get_layer(name).weights, two.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert not np.array_equal(one.get_weights()[0], two.get_weights()[0])
    moments = {v.path.split("/")[-1]: v.numpy() for v in one.optimizer.variables}
    for v in two.optimizer.variables:  # Adam's moments are those of the variables they belong to
        np.testing.assert_array_equal(v.numpy(), moments[v.path.split("/")[-1]])


def test_what_a_checkpoint_lacks_is_named(saved):
    saved.save(towers("left", "right"), 3)
    text = (
        "it lacks model/up/kernel, model/up/bias, optimizer/up/kernel/momentums, .* and 1 more; "
        "it has, and the model lacks model/right/kernel, model/right/bias"
    )
    with pytest.raises(ValueError, match=text):
        saved.restore(towers("left", "up"))


def by_order(path, model):
    """Rewrites a checkpoint as earlier versions wrote it."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    about = json.loads(arrays.pop("about").tobytes())
    keys = iter([f"model.{i}" for i in range(len(model.variables))])
    slots = iter([f"optimizer.{i}" for i in range(len(model.optimizer.variables))])
    renamed = {key: next(keys if key.startswith("model") else slots) for key in arrays}
    about["dtypes"] = {renamed[key]: dtype for key, dtype in about["dtypes"].items()}
    text = np.frombuffer(json.dumps(about).encode(), "uint8")
    np.savez(path, about=text, **{renamed[key]: value for key, value in arrays.items()})


def test_files_of_earlier_versions_are_read_by_order_with_a_line(saved, capsys):
    model, other = fit(small_model()), small_model()
    by_order(saved.save(model, 3), model)
    assert saved.restore(other) == 3
    assert "step-000000003.npz has no names of variables: it is read by their order" in (
        capsys.readouterr().out
    )
    for one, two in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(saved.model_arrays(), model.variables, strict=True):
        np.testing.assert_array_equal(one, two.numpy())
    with pytest.raises(
        ValueError, match=r"of another model: .* model.0 \(\(4, 3\) there, \(4, 5\)"
    ):
        saved.restore(small_model(units=5))
    saved.save(other, 6)
    assert list(saved.model_arrays())[:2] == ["dense/kernel", "dense/bias"]


def test_remains_of_a_killed_write_are_removed(saved):
    model = small_model()
    saved.save(model, 3)
    remains = os.path.join(saved.directory, ".tmp-abc-step-000000006.npz")
    other = os.path.join(saved.directory, "notes.txt")
    for path in (remains, other):
        with open(path, "w") as file:
            file.write("half")
    assert saved.restore(small_model()) == 3
    saved.save(model, 9)
    assert saved.steps() == [3, 9]
    assert sorted(os.listdir(saved.directory))[0] == "notes.txt"


def test_remote_checkpoints_are_whole_or_absent(monkeypatch):
    folder = new_folder()
    saved, model = Checkpoints(folder, CONFIG), fit(small_model())
    saved.save(model, 3)
    for at in range(4):
        with monkeypatch.context() as patch, contextlib.suppress(Stopped):
            stop_writes(patch, at, for_good=True)
            saved.save(model, 6 + at)
        other = small_model()
        assert saved.restore(other) == saved.steps()[-1] >= 3
        for one, two in zip(values(model), values(other), strict=True):
            np.testing.assert_array_equal(one, two)
    saved.save(model, 20)
    assert saved.steps()[-1] == 20
    assert len(saved.steps()) == 2


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
