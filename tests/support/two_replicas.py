"""Trains one model with 1 replica or with 2 CPU replicas and writes what came out.

Run as a process of its own, since devices are split before TensorFlow starts:
`python -m tests.support.two_replicas REPLICAS OUTPUT.npz`
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, per_prefix

DIMS = [2, 4, 8]


def main(replicas, path):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    devices = [f"CPU:{i}" for i in range(replicas)]
    strategy = (
        tf.distribute.MirroredStrategy(devices) if replicas > 1 else tf.distribute.get_strategy()
    )
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
    np.savez(path, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
