"""Trains a dual encoder: see `replica_runs`."""

import sys

import keras
import numpy as np

from mrl_keras import InBatchAccuracy, MatryoshkaLoss, SymmetricContrastive, per_prefix
from mrl_keras.models import dual_encoder
from tests.support.replica_runs import save_runs

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


if __name__ == "__main__":
    save_runs(trained, sys.argv[1])
