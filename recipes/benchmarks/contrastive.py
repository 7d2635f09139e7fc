"""Step time of the nested symmetric contrastive loss beside a loop over the prefixes.

    python recipes/benchmarks/contrastive.py --output contrastive.csv

Times forward and backward, from the embeddings of a batch of pairs to the gradients of both
sides, for

- loop: for each prefix normalise both sides, multiply, and take two sparse softmax
  crossentropies, of the logits and of their transpose;
- nested: MatryoshkaSimilarity and MatryoshkaLoss(SymmetricContrastive()), where each
  dimension's product is computed once and both softmaxes share one exponential;
- products only: the loop's two crossentropies on the nested products;
- exponential only: the shared exponential on the loop's products;

each as a plain tf.function and compiled with XLA, in turns in one process. All must give the
same loss and gradients. Columns of the CSV: system, mode (graph or XLA), milliseconds (median
of one step), speedup (the loop's median in the same mode over this one), target (of speedup),
the sizes and the temperature, and those of the machine.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import MatryoshkaLoss, NestingDims
from mrl_keras.layers import MatryoshkaSimilarity
from mrl_keras.losses import SymmetricContrastive
from mrl_keras.losses.symmetric_contrastive import symmetric_contrastive
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_medians

TARGET = 1.5
MODES = {"graph": False, "XLA": True}


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--batch", type=int, default=1024, help="pairs in a step")
    add("--width", type=int, default=768, help="embedding width d")
    add("--smallest_dim", type=int, default=12, help="smallest prefix; the others double it")
    add("--temperature", type=float, default=0.05, help="divides the cosines")
    tiny = {"batch": 16, "width": 48, "repeats": 3}
    parser.add_measuring("contrastive.csv", repeats=21, tiny=tiny)
    return parser.parse_args(arguments)


def two_crossentropies(labels, logits):
    """The symmetric loss as it is usually written, (n,)."""
    labels = tf.cast(labels, tf.int32)
    crossentropy = tf.nn.sparse_softmax_cross_entropy_with_logits
    return (crossentropy(labels, logits) + crossentropy(labels, tf.transpose(logits))) / 2


def over_the_loop(loss, labels, dims, temperature):
    """The summed loss of all prefixes, each normalised and multiplied from scratch."""

    def total(query, document):
        value = 0.0
        for m in dims:
            rows, columns = (tf.math.l2_normalize(x[:, :m], axis=1) for x in (query, document))
            logits = tf.matmul(rows, columns, transpose_b=True) / temperature
            value += tf.reduce_mean(loss(labels, logits))
        return value

    return total


def over_nested_products(loss, labels, dims, temperature):
    """The summed loss of all prefixes, by this package's layer."""
    similarity = MatryoshkaSimilarity(dims, temperature=temperature)
    return lambda query, document: loss(labels, similarity([query, document]))


def make_steps(options):
    """From names to functions without arguments: one forward and backward pass each."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shape = (options.batch, options.width)
    query = rng.standard_normal(shape)
    document = query + rng.standard_normal(shape)
    sides = [tf.Variable(side.astype("float32")) for side in (query, document)]
    dims = NestingDims.halving(options.width, options.smallest_dim)
    given = (tf.range(options.batch), dims, options.temperature)
    functions = {
        "loop": over_the_loop(two_crossentropies, *given),
        "nested": over_nested_products(MatryoshkaLoss(SymmetricContrastive()), *given),
        "products only": over_nested_products(MatryoshkaLoss(two_crossentropies), *given),
        "exponential only": over_the_loop(symmetric_contrastive, *given),
    }
    return {name: _step(function, sides) for name, function in functions.items()}


def _step(function, sides):
    def step():
        with tf.GradientTape() as tape:
            value = function(*(tf.convert_to_tensor(side) for side in sides))
        return value, *tape.gradient(value, sides)

    return step


def check_agreement(systems):
    """Raises a RuntimeError unless all systems give the loss and gradients of the first."""
    expected = None
    for name, step in systems.items():
        found = [result.numpy() for result in step()]
        expected = expected or found
        for ours, theirs in zip(found, expected, strict=True):
            error = np.abs(ours - theirs).max() / np.abs(theirs).max()
            if not error < 1e-4:
                raise RuntimeError(f"{name} differs from the loop by {error:.2g} of the largest.")


def main(options):
    steps = make_steps(options)
    systems = {
        (name, mode): tf.function(step, jit_compile=jit_compile)
        for name, step in steps.items()
        for mode, jit_compile in MODES.items()
    }
    check_agreement(systems)
    medians = interleaved_medians(systems, options.repeats)
    rows = [
        {
            "system": name,
            "mode": mode,
            "milliseconds": 1e3 * seconds,
            "speedup": medians["loop", mode] / seconds,
            "target": TARGET if name == "nested" else "",
            "batch": options.batch,
            "width": options.width,
            "smallest_dim": options.smallest_dim,
            "temperature": options.temperature,
        }
        for (name, mode), seconds in medians.items()
    ]
    for row in rows:
        print(
            f"{row['system']:18}{row['mode']:7}{row['milliseconds']:9.2f} ms   "
            f"{row['speedup']:5.2f} times as fast as the loop"
        )
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
