"""Memory and time of contrastive training on large batches, encoded in chunks.

    python recipes/benchmarks/large_batch.py --output large_batch.csv

Trains a dual encoder, a small ResNet of images and a word tower, with the contrastive loss at every
prefix by `train_on_batch` in a plain graph:

- whole: a batch as it is;
- chunks: the same batch, the image tower in a `ChunkedEncoder`;
- large, in chunks: the large batch, likewise;
- large, logits too: the same, and the logits of all pairs in chunks as well (`ContrastiveScores`).

Peak memory is that of the first step in a process of its own, over what the process held before;
building the step is included. Columns of the CSV: system, batch, peak_mib, memory_ratio (to whole)
and its target, seconds of a step by the clock and of the processor (medians of steps in turns in
one process), time_ratio (of processor time for each example, to whole) and its target, the sizes,
and those of the machine.
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

from mrl_keras import MatryoshkaLoss, NestingDims, SymmetricContrastive
from mrl_keras.models import ChunkedEncoder, dual_encoder, small_resnet
from recipes.benchmarks.parts.memory import peak_in_own_process, print_peak_over
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import wall_and_processor

SYSTEMS = ("whole", "chunks", "large, in chunks", "large, logits too")
LARGE = SYSTEMS[2:]
MEMORY_TARGETS, TIME_TARGETS = dict.fromkeys(LARGE, 1.3), dict.fromkeys(SYSTEMS[1:], 1.25)
SIZES = (
    "batch",
    "large_batch",
    "chunk_size",
    "logits_chunk_size",
    "pixels",
    "width",
    "smallest_dim",
)
WORDS, VOCABULARY = 16, 10_000


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--batch", type=int, default=512, help="pairs that are encoded at once")
    add("--large_batch", type=int, default=4096, help="pairs of the large batch")
    add("--chunk_size", type=int, default=128, help="images that are encoded together")
    add("--logits_chunk_size", type=int, default=256, help="rows whose logits are alive together")
    add("--pixels", type=int, default=32, help="height and width of an image")
    add("--width", type=int, default=64, help="embedding width d")
    add("--smallest_dim", type=int, default=8, help="smallest prefix; the others double it")
    add("--memory_of", choices=SYSTEMS, help=argparse.SUPPRESS)
    tiny = {"batch": 4, "large_batch": 8, "chunk_size": 2, "logits_chunk_size": 3}
    tiny |= {"pixels": 8, "width": 16, "repeats": 1}
    parser.add_measuring("large_batch.csv", repeats=3, tiny=tiny)
    return parser.parse_args(arguments)


def batch_of(system, options):
    """Pairs in a step of `system`."""
    return options.large_batch if system in LARGE else options.batch


def make_step(system, options):
    """A function without arguments: one training step."""
    keras.utils.set_random_seed(0)
    shape = (options.pixels, options.pixels, 3)
    image = small_resnet(shape, options.width)
    words = keras.Input((WORDS,), dtype="int32", name="words")
    x = keras.layers.Embedding(VOCABULARY, options.width)(words)
    x = keras.layers.Dense(options.width)(keras.layers.GlobalAveragePooling1D()(x))
    if system != "whole":
        image = ChunkedEncoder(image, options.chunk_size)
    dims = NestingDims.halving(options.width, options.smallest_dim)
    scored = system == LARGE[1]
    logits_chunk = options.logits_chunk_size if scored else None
    model = dual_encoder(image, keras.Model(words, x), dims, chunk_size=logits_chunk)
    loss = MatryoshkaLoss(SymmetricContrastive("scores" if scored else "gathered"))
    model.compile(keras.optimizers.AdamW(1e-3), loss, jit_compile=False)
    rng, rows = np.random.default_rng(0), batch_of(system, options)
    batch = {
        "images": tf.constant(rng.integers(0, 256, (rows, *shape)), tf.float32),
        "words": tf.constant(rng.integers(0, VOCABULARY, (rows, WORDS)), tf.int32),
    }
    return lambda: model.train_on_batch(batch, np.zeros(rows))


def main(options):
    if options.memory_of:
        print_peak_over(make_step(options.memory_of, options), repeats=1)
        return
    sizes = {key: getattr(options, key) for key in SIZES}
    memory = {
        system: peak_in_own_process(__file__, {**sizes, "memory_of": system})
        for system in (SYSTEMS[:1] if options.tiny else SYSTEMS)
    }
    systems = {system: make_step(system, options) for system in SYSTEMS}
    times = wall_and_processor(systems, options.repeats)
    each = {system: times[system][1] / batch_of(system, options) for system in SYSTEMS}
    rows = [
        {
            "system": system,
            "batch": batch_of(system, options),
            "peak_mib": memory[system] / 2**20 if system in memory else "",
            "memory_ratio": memory[system] / memory["whole"] if system in memory else "",
            "memory_target": MEMORY_TARGETS.get(system, ""),
            "seconds": times[system][0],
            "processor_seconds": times[system][1],
            "time_ratio": each[system] / each["whole"],
            "time_target": TIME_TARGETS.get(system, ""),
            "repeats": options.repeats,
            **{key: sizes[key] for key in SIZES if key != "batch"},
        }
        for system in SYSTEMS
    ]
    for row in rows:
        print(
            f"{row['system']:18}{row['batch']:6} pairs {row['peak_mib']:8.6} MiB "
            f"{row['memory_ratio']:6.4} x whole {row['processor_seconds']:8.2f} processor s "
            f"{row['time_ratio']:6.2f} x whole for each pair"
        )
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
