"""Trains on one device of JAX, then on two: `python -m tests.support.data_parallel`.

The contrastive model's loss on two devices is that of one only where the negatives are those of the
whole batch.
XLA_FLAGS=--xla_force_host_platform_device_count=2 makes the two.
"""

import keras
import numpy as np

from tests.support import small_trainings as small
from tests.support.contracts import as_numpy

BATCH = 16


def train(make, *data):
    """(losses, weights) after two epochs, the weights as they lie on the devices."""
    keras.utils.set_random_seed(0)
    model = make()
    history = model.fit(*data, batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history
    return history, model.weights


def main():
    """Compare the trainings of all small models."""
    cases = {
        small.classifier: small.labelled(),
        small.pair_model: (small.pairs(), np.zeros(64)),
        small.masked_model: small.masked_tokens()[:2],
    }
    one = [train(make, *data) for make, data in cases.items()]
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    for (make, data), (history, weights) in zip(cases.items(), one, strict=True):
        found, spread = train(make, *data)
        assert all(len(weight.value.sharding.device_set) == 2 for weight in spread)
        for name, values in history.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)
        for mine, theirs in zip(spread, weights, strict=True):
            np.testing.assert_allclose(as_numpy(mine), as_numpy(theirs), atol=1e-4)


if __name__ == "__main__":
    main()
