"""Trains a dual encoder with 1 replica and with 2 CPU replicas and writes what came out.

Run as a process of its own, since devices are split before TensorFlow starts:
`python -m tests.support.global_contrastive OUTPUT.npz`
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import InBatchAccuracy, MatryoshkaLoss, SymmetricContrastive, per_prefix
from mrl_keras.models import dual_encoder

DIMS = [2, 4, 8]
PAIRS, BATCH = 32, 16


def tower(name, width):
    inputs = keras.Input((width,), name=name)
    hidden = keras.layers.Dense(16, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(DIMS[-1])(hidden))


def made_model(per_prefix_temperature):
    keras.utils.set_random_seed(1)
    model = dual_encoder(
        tower("image", 6), tower("text", 5), DIMS, 0.2, per_prefix=per_prefix_temperature
    )
    model.compile(
        keras.optimizers.SGD(0.5),
        loss=MatryoshkaLoss(SymmetricContrastive("gathered"), [2.0, 1.0, 0.5]),
        metrics=per_prefix([InBatchAccuracy(), SymmetricContrastive("gathered")], DIMS),
    )
    return model


def pairs():
    rng = np.random.default_rng(0)
    shapes = {"image": (PAIRS, 6), "text": (PAIRS, 5)}
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def trained(strategy):
    """Histories and final weights of training under a strategy, a dict of arrays."""
    results = {}
    for own in (False, True):
        with strategy.scope():
            model = made_model(own)
        x, zeros = pairs(), np.zeros(PAIRS)
        history = model.fit(x, zeros, BATCH, epochs=4, shuffle=False, verbose=0).history
        for name, values in history.items():
            results[f"{own}/{name}"] = np.array(values)
        for i, weight in enumerate(model.weights):
            results[f"{own}/{i}/{weight.name}"] = weight.numpy()
    return results


def main(path):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {1: trained(tf.distribute.get_strategy()), 2: trained(two)}
    np.savez(path, **{f"{n}/{name}": x for n, one in found.items() for name, x in one.items()})


if __name__ == "__main__":
    main(sys.argv[1])
