"""Small seeded models and indexes that the export tests share."""

import functools

import keras
import numpy as np

from mrl_keras import MatryoshkaDense
from mrl_keras.cascade import CascadePolicy
from mrl_keras.retrieval import IndexOptions, NestedIndex, ScannParameters, SearchPlan

DIMS = (4, 8, 16, 32)
FEATURES, CLASSES, ROWS = 6, 5, 800
PLAN = SearchPlan((8, 16, 32), (60, 20), k=7, leaves=6)


def encoder(seed=0):
    """Raw inputs (batch, 6) called "features" -> (batch, 32)."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,), name="features")
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(DIMS[-1])(hidden))


def classifier(seed=0):
    layer = MatryoshkaDense(CLASSES, DIMS, kernel_initializer=keras.initializers.GlorotNormal(seed))
    layer.build((None, DIMS[-1]))
    return layer


def vectors(count=ROWS, seed=0, width=DIMS[-1]):
    """Clustered rows whose variance falls with the dim, so that prefixes mean something."""
    random = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(width))
    centres = random.standard_normal((count // 20 + 1, width)) * scale
    noise = random.standard_normal((count, width)) * scale
    return (centres[random.integers(0, len(centres), count)] + 0.5 * noise).astype("float32")


def queries(count=40, seed=0):
    return vectors(seed=seed)[:count] + 0.1 * vectors(count, seed + 1000)


@functools.cache
def index(
    seed=0, scann=True, storage="float32", metric="cosine", ids=True, rows=ROWS, reorder_dim=None
):
    """An index over `vectors`, with string ids by default, and a ScaNN tree of 25 leaves."""
    return NestedIndex.build(
        vectors(rows, seed),
        DIMS,
        ids=[f"doc-{seed}-{row}" for row in range(rows)] if ids else None,
        options=IndexOptions(
            metric=metric,
            storage=storage,
            shortlist_dim=8 if scann else None,
            scann=ScannParameters(25, 6, reorder_dim=reorder_dim) if scann else None,
        ),
    )


def cascade_parts(efficient):
    """An encoder of "raw" (batch, 6), and a head at 4, 8 and 16 dims."""
    keras.utils.set_random_seed(3)
    raw = keras.Sequential([keras.Input((6,), name="raw"), keras.layers.Dense(16)])
    head = MatryoshkaDense(5, [4, 8, 16], efficient=efficient)
    head.build((None, 16))
    for kernel in head.kernels:
        kernel.assign(keras.random.normal(kernel.shape, seed=1))
    return raw, head


def halving_policy(logits):
    """The policy that half of the examples pass at each prefix."""
    temperatures = [0.5, 1.0, 2.0]
    scaled = logits / np.reshape(temperatures, (3, 1))
    confidence = np.exp(scaled - np.logaddexp.reduce(scaled, -1, keepdims=True)).max(-1)
    return CascadePolicy([4, 8, 16], np.median(confidence[:, :2], axis=0), temperatures)
