import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.data import Sampling
from mrl_keras.data.sampling import shuffle_indices, uniform
from tests.data.test_augmentation import seeds_of


class TestSampling:
    def test_values_are_plain_ints_and_do_not_change(self):
        sampling = Sampling(np.int64(3), np.int32(1), 2, 5)
        assert dataclasses.astuple(sampling) == (3, 1, 2, 5)
        assert sampling.at(9) == Sampling(3, 1, 2, start_step=9)
        with pytest.raises(dataclasses.FrozenInstanceError):
            sampling.seed = 4

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"seed": 0.5}, "`seed` must be an int"),
            ({"start_step": -1}, "`start_step` must be at least 0"),
            ({"shard_index": -1}, "`shard_index` must be at least 0"),
            ({"shard_count": 0}, "`shard_count` must be at least 1"),
            ({"shard_index": 2, "shard_count": 2}, "must be below the count 2 .*Received 2"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Sampling(**arguments)


def test_uniform_numbers_are_even_and_independent():
    count = 20_000
    draws = [uniform(seeds_of(count), draw).numpy() for draw in range(3)]
    draws.append(uniform(seeds_of(count, epoch=1), 0).numpy())
    draws.append(uniform(seeds_of(count, seed=4), 0).numpy())
    draws.append(np.roll(draws[0], 1))
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(count)
    for draw in draws:
        assert 0.0 <= draw.min() <= draw.max() < 1.0
        counts = np.histogram(draw, 10, (0, 1))[0]
        assert ((counts - count / 10) ** 2 / (count / 10)).sum() < 40  # chi squared, 9 degrees


@pytest.mark.parametrize("count", [1, 2, 7, 5000])
def test_shuffle_indices_is_a_permutation_and_each_seed_has_its_own(count):
    indices = tf.range(count, dtype=tf.int64)
    orders = [
        shuffle_indices(indices, tf.constant([[seed, epoch]] * count, tf.int64), count).numpy()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
    if count == 5000:
        correlation = np.corrcoef([*orders, np.arange(count), np.roll(orders[0], 1)])
        assert np.abs(correlation - np.eye(5)).max() < 5 / np.sqrt(count)
