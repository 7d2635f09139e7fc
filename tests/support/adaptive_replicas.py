"""Trains with weights that adapt: see `replica_runs`."""

import sys

import keras
import numpy as np

from mrl_keras import FAMO, AdaLoss, MatryoshkaDense, MatryoshkaLoss, SoftOptimalUncertainty
from tests.support.replica_runs import save_runs

DIMS = [2, 4, 8]


def trained(strategy):
    """Histories, variables of the weightings and final weights, a dict of arrays."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 8)).astype("float32")
    labels = rng.integers(0, 5, 32)
    sample_weight = rng.random(32).astype("float32")
    results = {}
    for cls in (AdaLoss, SoftOptimalUncertainty, FAMO):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = keras.Sequential([keras.Input((8,)), MatryoshkaDense(5, DIMS)])
            inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            weighting = cls(DIMS)
            # Of means over parts of different weight only this is that of one replica.
            loss = MatryoshkaLoss(inner, weighting, reduction="sum")
            model.compile("sgd", loss=loss, metrics=[weighting])
        history = model.fit(
            x, labels, 16, epochs=2, shuffle=False, verbose=0, sample_weight=sample_weight
        ).history
        for name in ("c_d2", "c_d4", "c_d8"):
            results[f"{cls.__name__}/{name}"] = np.array(history[name])
        for variable in weighting.variables:
            results[f"{cls.__name__}/{variable.name}"] = np.array(variable.value)
    return results


if __name__ == "__main__":
    save_runs(trained, sys.argv[1])
