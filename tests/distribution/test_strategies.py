import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.distribution import (
    DistributedModel,
    distributed,
    gather,
    global_batches,
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
        (("two_devices",), "The strategy must be one of .* Received 'two_devices'"),
        (("mirrored", "my-tpu"), "A TPU is for the strategy 'tpu' only. Received 'my-tpu' with"),
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
    with pytest.raises(
        ValueError, match="'multi_worker' reads the environment variable TF_CONFIG, such as"
    ):
        strategy("multi_worker")


def test_a_tpu_that_does_not_resolve(monkeypatch):
    def resolver(tpu):
        raise OSError(f"no route to {tpu}\nmore lines")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    with pytest.raises(ValueError, match="The TPU 'mine' does not resolve: no route to mine Check"):
        strategy("tpu", "mine")


class Two:
    """A strategy's numbers, without its devices."""

    num_replicas_in_sync = 2


def test_a_batch_that_replicas_cannot_share():
    with pytest.raises(ValueError, match="must be a multiple of the 2 replicas. Received 5"):
        global_batches(Two(), 5, None)


def test_the_mixin_changes_nothing_on_one_device():
    def model():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,), name="x")
        made = keras.Model({"x": inputs}, keras.layers.Dense(2)(inputs), name="small")
        made.compile("sgd", "mse", metrics=["mae"])
        return made

    x, y = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
    plain, mixed = model(), model()
    kind = type(mixed)
    one = plain.fit({"x": x}, y, epochs=2, verbose=0).history
    with distributed(mixed):
        assert isinstance(mixed, DistributedModel)
        two = mixed.fit({"x": x}, y, epochs=2, verbose=0).history
    assert type(mixed) is kind
    assert one == two
    np.testing.assert_array_equal(plain.get_weights()[0], mixed.get_weights()[0])


def test_one_replica_gathers_its_own_rows():
    rows = tf.ones((2, 3))
    np.testing.assert_array_equal(gather(rows), rows)
