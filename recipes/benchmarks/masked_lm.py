"""Step time and memory of the nested masked language model head beside the full width alone.

    python recipes/benchmarks/masked_lm.py --output masked_lm.csv

Times forward and backward of head and loss (gradients of the encoder's output, the tied
table and the head's weights) for

- full: the full width alone, its logits kept, and SparseCategoricalCrossentropy;
- full in blocks: the full width alone, scored by MaskedLMHead with the labels;
- nested: every prefix, scored by MaskedLMHead with the labels;
- nested, logits kept: every prefix's logits and MatryoshkaLoss;

each as a plain tf.function and compiled with XLA, one after the other in one process, and
prints the medians as ratios to the full width alone in the same mode. Peak memory is that of
a few steps in a process of its own, over what the process held before; it includes what
building or compiling the step takes.
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

from mrl_keras import MaskedLMCrossentropy, MaskedLMHead, MatryoshkaLoss, NestingDims
from recipes.benchmarks.parts.memory import peak_in_own_process, print_peak_over
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_medians

SYSTEMS = ("full", "full in blocks", "nested", "nested, logits kept")
MODES = ("XLA", "graph")
MEMORY_TARGETS = {"nested": 1.3}
SIZES = ("batch", "positions", "length", "vocabulary", "width", "smallest_dim", "block_size")


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--batch", type=int, default=32, help="sequences in a step")
    add("--positions", type=int, default=20, help="masked positions of a sequence")
    add("--length", type=int, default=128, help="tokens of a sequence")
    add("--vocabulary", type=int, default=30_522, help="entries of the embedding table")
    add("--width", type=int, default=768, help="embedding width d")
    add("--smallest_dim", type=int, default=12, help="smallest prefix; the others double it")
    add("--block_size", type=int, default=2048, help="vocabulary entries scored together")
    add("--memory_of", choices=SYSTEMS, help=argparse.SUPPRESS)
    add("--mode", choices=MODES, default="XLA", help=argparse.SUPPRESS)
    tiny = {"batch": 2, "positions": 3, "length": 8, "repeats": 2}
    tiny |= {"vocabulary": 50, "width": 48, "block_size": 16}
    parser.add_measuring("masked_lm.csv", repeats=11, tiny=tiny)
    return parser.parse_args(arguments)


def make_step(name, mode, options):
    """A function without arguments: one forward and backward pass."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    scored = name in ("full in blocks", "nested")
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = MatryoshkaLoss(MaskedLMCrossentropy() if scored else crossentropy)
    dims = NestingDims.halving(options.width, options.smallest_dim)
    embedding = keras.layers.Embedding(options.vocabulary, options.width)
    head = MaskedLMHead(
        embedding,
        dims if name.startswith("nested") else [options.width],
        block_size=options.block_size,
    )
    hidden = (options.batch, options.length, options.width)
    picked = (options.batch, options.positions)
    head.build([hidden, picked])
    x = tf.Variable(rng.standard_normal(hidden).astype("float32"))
    positions = tf.constant(rng.integers(0, options.length, picked).astype("int32"))
    labels = tf.constant(rng.integers(0, options.vocabulary, picked).astype("int32"))
    sources = [x, *(weight.value for weight in head.trainable_weights)]

    def step():
        with tf.GradientTape() as tape:
            inputs = [tf.convert_to_tensor(x), positions]
            value = loss(labels, head([*inputs, labels] if scored else inputs))
        return value, tape.gradient(value, sources)

    return tf.function(step, jit_compile=mode == "XLA")


def main(options):
    if options.memory_of:
        print_peak_over(make_step(options.memory_of, options.mode, options))
        return
    sizes, rows = {key: getattr(options, key) for key in SIZES}, []
    for mode in MODES:
        measured = SYSTEMS[:1] if options.tiny else SYSTEMS
        memory = {
            name: peak_in_own_process(__file__, {**sizes, "memory_of": name, "mode": mode})
            for name in measured
        }
        systems = {name: make_step(name, mode, options) for name in SYSTEMS}
        medians = interleaved_medians(systems, options.repeats)
        rows += [
            {
                "system": name,
                "mode": mode,
                "milliseconds": 1e3 * medians[name],
                "time_ratio": medians[name] / medians["full"],
                "peak_mib": memory[name] / 2**20 if name in memory else "",
                "memory_ratio": memory[name] / memory["full"] if name in memory else "",
                "memory_target": MEMORY_TARGETS.get(name, "") if mode == "XLA" else "",
                **sizes,
            }
            for name in SYSTEMS
        ]
    for row in rows:
        print(
            f"{row['system']:20}{row['mode']:6}{row['milliseconds']:9.2f} ms "
            f"{row['time_ratio']:6.2f} x full {row['peak_mib']:8.6} MiB "
            f"{row['memory_ratio']:6.4} x full"
        )
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
