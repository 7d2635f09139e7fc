import pytest
import tensorflow as tf

from mrl_keras.distribution import is_chief, make_strategy


def test_one_device_is_the_default_strategy():
    one = make_strategy("one_device")
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
        make_strategy(*arguments)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'],
)
def test_a_bad_cluster(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(
        ValueError, match="'multi_worker' reads the environment variable TF_CONFIG, such as"
    ):
        make_strategy("multi_worker")


def test_a_tpu_that_does_not_resolve(monkeypatch):
    def resolver(tpu):
        raise OSError(f"no route to {tpu}\nmore lines")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    with pytest.raises(ValueError, match="The TPU 'mine' does not resolve: no route to mine Check"):
        make_strategy("tpu", "mine")
