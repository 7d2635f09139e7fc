"""Step time and memory of the MRL and MRL-E heads beside one plain dense layer.

    python recipes/benchmarks/head.py --output head.csv

Times forward and backward of head and loss (gradients of input and weights) for

- plain: keras.layers.Dense and SparseCategoricalCrossentropy;
- MRL-E and MRL: MatryoshkaDense and MatryoshkaLoss;
- recomputed MRL-E: the same function with every prefix multiplied from scratch;

each as a plain tf.function and compiled with XLA, in turns in one process, and prints the medians
as ratios to the plain head of the same mode, by the clock and by the processor time of all threads,
which other programs disturb least. Peak memory is that of a few compiled steps in a process of its
own, over what the process held before; it includes compilation.

Columns of the CSV: head, mode, milliseconds (median of a step), ratio_to_plain, processor_ratio
(median over the rounds) with its quartiles, target of the ratios, peak_mib, the sizes, and those of
the machine.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, NestingDims
from recipes.benchmarks.parts.memory import peak_in_own_process, print_peak_over
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_times

HEADS = ("plain", "MRL-E", "MRL", "recomputed MRL-E")
# Sums of m over M = 8 ... 2048 against 2048: what the arithmetic alone allows for MRL.
TARGETS = {
    ("MRL-E", "XLA"): 1.30,
    ("MRL", "XLA"): 2.05,
    ("MRL-E", "graph"): 1.5,
    ("MRL", "graph"): 2.3,
}
SIZES = ("batch", "width", "smallest_dim", "classes")


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--batch", type=int, default=256, help="examples in a step")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--smallest_dim", type=int, default=8, help="smallest prefix; the others double it")
    add("--classes", type=int, default=1000, help="units of the head")
    add("--memory_of", choices=HEADS, help=argparse.SUPPRESS)
    tiny = {"batch": 16, "width": 64, "classes": 10, "repeats": 3}
    parser.add_measuring("head.csv", repeats=41, tiny=tiny)
    return parser.parse_args(arguments)


class RecomputedDense(keras.layers.Layer):
    """MRL-E as its definition reads: x[..., :m] @ W[:m] for every prefix, from scratch."""

    def __init__(self, units, nesting_dims):
        super().__init__()
        self.units, self.nesting_dims = units, NestingDims(nesting_dims)

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units))
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, inputs):
        kernel = keras.ops.convert_to_tensor(self.kernel)
        logits = [keras.ops.matmul(inputs[..., :m], kernel[:m]) for m in self.nesting_dims]
        return keras.ops.stack(logits, axis=-2) + self.bias


def make_step(name, options):
    """A function without arguments: one forward and backward pass."""
    keras.utils.set_random_seed(0)
    dims = NestingDims.halving(options.width, options.smallest_dim)
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = inner if name == "plain" else MatryoshkaLoss(inner)
    layer = {
        "plain": lambda: keras.layers.Dense(options.classes),
        "MRL": lambda: MatryoshkaDense(options.classes, dims),
        "MRL-E": lambda: MatryoshkaDense(options.classes, dims, efficient=True),
        "recomputed MRL-E": lambda: RecomputedDense(options.classes, dims),
    }[name]()
    layer.build((None, options.width))
    rng = np.random.default_rng(0)
    x = tf.Variable(rng.standard_normal((options.batch, options.width)).astype("float32"))
    labels = tf.constant(rng.integers(0, options.classes, options.batch))
    sources = [x, *(weight.value for weight in layer.trainable_weights)]

    def step():
        with tf.GradientTape() as tape:
            value = loss(labels, layer(tf.convert_to_tensor(x)))
        return value, tape.gradient(value, sources)

    return step


def main(options):
    if options.memory_of:
        print_peak_over(tf.function(make_step(options.memory_of, options), jit_compile=True))
        return
    sizes = {key: getattr(options, key) for key in SIZES}
    systems = {}
    for name in HEADS:
        systems[name, "XLA"] = tf.function(make_step(name, options), jit_compile=True)
        systems[name, "graph"] = tf.function(make_step(name, options))
    times = interleaved_times(systems, options.repeats)
    measured = HEADS[:1] if options.tiny else HEADS
    memory = {
        (name, "XLA"): peak_in_own_process(__file__, {**sizes, "memory_of": name})
        for name in measured
    }
    rows = []
    for name, mode in systems:
        seconds, plain = times[name, mode], times["plain", mode]
        low, middle, high = np.quantile(seconds[:, 1] / plain[:, 1], (0.25, 0.5, 0.75))
        median = np.median(seconds[:, 0])
        rows.append(
            {
                "head": name,
                "mode": mode,
                "milliseconds": 1e3 * median,
                "ratio_to_plain": median / np.median(plain[:, 0]),
                "processor_ratio": middle,
                "processor_ratio_quartiles": f"{low:.3f} to {high:.3f}",
                "target": TARGETS.get((name, mode), ""),
                "peak_mib": memory[name, mode] / 2**20 if (name, mode) in memory else "",
                **sizes,
            }
        )
    for row in rows:
        peak = f"{row['peak_mib']:8.0f} MiB" if row["peak_mib"] != "" else ""
        print(
            f"{row['head']:18}{row['mode']:7}{row['milliseconds']:9.2f} ms "
            f"{row['ratio_to_plain']:6.2f} x plain, processor {row['processor_ratio']:.2f} x "
            f"({row['processor_ratio_quartiles']}){peak}"
        )
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
