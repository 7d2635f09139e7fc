import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.distribution import fit_distributed
from mrl_keras.distribution.fit import distribute_batches


class Two:
    """A strategy's numbers, without its devices."""

    num_replicas_in_sync = 2


def test_a_batch_that_replicas_cannot_share():
    with pytest.raises(ValueError, match="must be a multiple of the 2 replicas. Received 5"):
        distribute_batches(Two(), None, 5)


def test_one_device_trains_as_fit_does():
    def model():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,), name="x")
        made = keras.Model({"x": inputs}, keras.layers.Dense(2)(inputs), name="small")
        made.compile("sgd", "mse", metrics=["mae"])
        return made

    rows = {"x": np.ones((8, 4), "float32")}, np.zeros((8, 2), "float32")
    data = tf.data.Dataset.from_tensor_slices(rows).repeat()
    options = {"steps_per_epoch": 2, "epochs": 2, "shuffle": False, "verbose": 0}
    plain, other = model(), model()
    shards = []

    def make_batches(count, shard):
        shards.append(shard)
        return data.batch(count)

    one = plain.fit(data.batch(4), **options).history
    two = fit_distributed(other, make_batches, 4, **options).history
    assert one == two
    assert shards == [(0, 1)]
    assert type(other) is type(plain)
    np.testing.assert_array_equal(plain.get_weights()[0], other.get_weights()[0])
