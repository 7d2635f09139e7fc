"""Trains a dual encoder: see `replica_runs`."""

import sys

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import (
    GatheredBatch,
    InBatchAccuracy,
    MatryoshkaLoss,
    SymmetricContrastive,
    per_prefix,
)
from mrl_keras.metrics.in_batch_accuracy import own_is_nearest
from mrl_keras.models import dual_encoder
from tests.support.replica_runs import save_runs

DIMS = [2, 4, 8]
PAIRS, BATCH = 32, 16
# Name, a temperature for each prefix, and images whose logits are alive together.
MODELS = (("False", False, None), ("True", True, None), ("chunks", True, 3))


def tower(name, width):
    inputs = keras.Input((width,), name=name)
    hidden = keras.layers.Dense(16, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(DIMS[-1])(hidden))


def made_model(per_prefix_temperature, chunk_size=None):
    """Compiled; with `chunk_size` from scores, of the same loss and metrics."""
    positives = "gathered" if chunk_size is None else "scores"
    keras.utils.set_random_seed(1)
    model = dual_encoder(
        tower("image", 6),
        tower("text", 5),
        DIMS,
        0.2,
        per_prefix=per_prefix_temperature,
        chunk_size=chunk_size,
    )
    model.compile(
        keras.optimizers.SGD(0.5),
        loss=MatryoshkaLoss(SymmetricContrastive(positives), [2.0, 1.0, 0.5]),
        metrics=per_prefix(
            [InBatchAccuracy(scores=chunk_size is not None), SymmetricContrastive(positives)], DIMS
        ),
    )
    return model


def pairs():
    rng = np.random.default_rng(0)
    shapes = {"image": (PAIRS, 6), "text": (PAIRS, 5)}
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def uneven_batches(strategy):
    """What pairs of an uneven batch give each, and whether uneven last batches are trained on."""
    results = {}
    for first in (3, 5):  # the other replica has 2 rows, or none
        queries, documents = np.random.default_rng(0).standard_normal((2, 5, 8)).astype("float32")
        parts = (
            [slice(0, first), slice(first, 5)] if strategy.num_replicas_in_sync == 2 else [slice(5)]
        )

        def step(queries, documents):
            # As from `fit`: the number of rows is not static.
            ends = [tf.raw_ops.PlaceholderWithDefault(input=x, shape=(None, 8))
                    for x in (queries, documents)]  # fmt: skip
            logits = tf.matmul(ends[0], GatheredBatch()(ends[1]), transpose_b=True)
            zeros, loss = ends[0][:, 0], SymmetricContrastive("gathered", reduction=None)
            return loss(zeros, logits), own_is_nearest(zeros, logits)

        given = (
            strategy.experimental_distribute_values_from_function(
                lambda context, q=queries, d=documents, p=parts: tuple(
                    tf.constant(x[p[context.replica_id_in_sync_group]]) for x in (q, d)
                )
            )
            if len(parts) == 2
            else (queries, documents)
        )
        found = tf.function(lambda g=given, s=step: strategy.run(s, args=g))()
        for name, values in zip(("loss", "top1"), found, strict=True):
            values = strategy.experimental_local_results(values)
            results[f"uneven/{first}/{name}"] = np.concatenate([np.asarray(v) for v in values])
    for rows in (7, 5):  # batches of 4: the last has 3 rows, or 1
        with strategy.scope():
            model = made_model(False)
        data = {name: values[:rows] for name, values in pairs().items()}
        loss = model.fit(data, np.zeros(rows), 4, shuffle=False, verbose=0).history["loss"][0]
        results[f"finite/{rows}"] = np.isfinite(loss)
    return results


def trained(strategy):
    """Histories and final weights of training under a strategy, a dict of arrays."""
    results = uneven_batches(strategy)
    for run, own, chunk_size in MODELS:
        with strategy.scope():
            model = made_model(own, chunk_size)
        x, zeros = pairs(), np.zeros(PAIRS)
        history = model.fit(x, zeros, BATCH, epochs=4, shuffle=False, verbose=0).history
        for name, values in history.items():
            results[f"{run}/{name}"] = np.array(values)
        for i, weight in enumerate(model.weights):
            results[f"{run}/{i}/{weight.name}"] = weight.numpy()
    return results


if __name__ == "__main__":
    save_runs(trained, sys.argv[1])
