import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.distribution import (
    DistributedFit,
    batches_of_replicas,
    distribute_fit,
    is_chief,
    strategy,
)


def test_one_device_is_the_default_strategy():
    one = strategy("one_device")
    assert one is tf.distribute.get_strategy()
    assert is_chief(one)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("two_devices",), "`strategy` must be one of .* Received 'two_devices'"),
        (("mirrored", "my-tpu"), "`tpu` belongs to the strategy 'tpu'. Received 'my-tpu' with"),
    ],
)
def test_unknown_strategies(arguments, text):
    with pytest.raises(ValueError, match=text):
        strategy(*arguments)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'],
)
def test_a_bad_cluster(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="'multi_worker' reads TF_CONFIG, such as"):
        strategy("multi_worker")


def test_a_tpu_that_does_not_resolve(monkeypatch):
    def resolver(tpu):
        raise OSError(f"no route to {tpu}\nmore lines")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    with pytest.raises(ValueError, match=r"The TPU 'mine' does not resolve \(OSError: no route"):
        strategy("tpu", "mine")


class Two:
    """A strategy's numbers, without its devices."""

    num_replicas_in_sync = 2


def test_a_batch_that_replicas_cannot_share():
    with pytest.raises(ValueError, match="`batch_size` 5 can't be split evenly over 2 replicas"):
        batches_of_replicas(Two(), None, 5)


def test_the_mixin_changes_nothing_on_one_device():
    def model():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,), name="x")
        made = keras.Model({"x": inputs}, keras.layers.Dense(2)(inputs), name="small")
        made.compile("sgd", "mse", metrics=["mae"])
        return made

    x, y = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
    plain, mixed = model(), distribute_fit(model())
    assert isinstance(mixed, DistributedFit)
    assert distribute_fit(mixed) is mixed
    one, two = (m.fit({"x": x}, y, epochs=2, verbose=0).history for m in (plain, mixed))
    assert one == two
    np.testing.assert_array_equal(plain.get_weights()[0], mixed.get_weights()[0])
    assert mixed.get_config()["name"] == "small"
