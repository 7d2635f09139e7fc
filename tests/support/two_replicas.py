"""Trains MRL and MRL-E heads: see `replica_runs`."""

import sys

import keras
import numpy as np

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, per_prefix
from tests.support.replica_runs import save_runs

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


if __name__ == "__main__":
    save_runs(trained, sys.argv[1])
