"""Trains with a codebook: see `replica_runs`."""

import sys

import keras
import numpy as np

from mrl_keras import PrefixCodebook
from mrl_keras.variables import model_variables
from tests.support.replica_runs import save_runs


def trained(strategy):
    """Histories, the codebook's variables and final weights, a dict of arrays."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 8)).astype("float32")
    keras.utils.set_random_seed(1)
    with strategy.scope():
        inputs = keras.Input((8,))
        outputs = PrefixCodebook(4, 2, decay=0.8, name="leaves")(keras.layers.Dense(6)(inputs))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
    history = model.fit(x, x[:, :6], 16, epochs=3, shuffle=False, verbose=0).history
    results = {name: np.array(values) for name, values in history.items()}
    for name, variable in model_variables(model).items():
        results[name] = np.array(variable.value)
    return results


if __name__ == "__main__":
    save_runs(trained, sys.argv[1])
