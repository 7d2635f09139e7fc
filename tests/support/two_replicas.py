"""Trains one model with 1 replica and with 2 CPU replicas and writes what came out.

Run as a process of its own, since devices are split before TensorFlow starts:
`python -m tests.support.two_replicas OUTPUT.npz`
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, per_prefix

DIMS = [2, 4, 8]


def trained(strategy):
    """Histories and final weights of training under a strategy, a dict of arrays."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 8)).astype("float32")
    labels = rng.integers(0, 5, 32)
    sample_weight = rng.random(32).astype("float32")
    results = {}
    for efficient in (False, True):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            head = MatryoshkaDense(5, DIMS, efficient=efficient, kernel_regularizer="l2")
            model = keras.Sequential([keras.Input((8,)), head])
            inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            loss = MatryoshkaLoss(inner, relative_importance=[2.0, 1.0, 0.5])
            metrics = per_prefix(["sparse_categorical_accuracy", loss], DIMS)
            model.compile("sgd", loss=loss, metrics=metrics)
        history = model.fit(
            x, labels, 16, epochs=3, shuffle=False, verbose=0, sample_weight=sample_weight
        ).history
        for name, values in history.items():
            results[f"{efficient}/{name}"] = np.array(values)
        for weight in model.weights:
            results[f"{efficient}/{weight.name}"] = weight.numpy()
    return results


def main(path):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {1: trained(tf.distribute.get_strategy()), 2: trained(two)}
    np.savez(path, **{f"{n}/{name}": x for n, one in found.items() for name, x in one.items()})


if __name__ == "__main__":
    main(sys.argv[1])
