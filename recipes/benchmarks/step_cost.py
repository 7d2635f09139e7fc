"""Time of a whole training step with an MRL or MRL-E head beside the full width alone (FF).

    python recipes/benchmarks/step_cost.py --output step_cost.csv

Times `train_on_batch` (forward, backward, optimizer, accuracy of each trained prefix) of

- resnet50: the paper's ResNet50 on images of 224 pixels, SGD with momentum, 1,000 classes; FF at
  the full width, MRL and MRL-E with 9 prefixes of 2048;
- bert: BERT-Base as a masked language model, AdamW, vocabulary 30,522; FF is the full width alone
  with its logits kept, MRL-E (the paper ties the weights) 7 prefixes of 768 through MaskedLMHead
  with the labels;

each in float32 as a plain graph and compiled with XLA (Keras's default), one after the other in
one process, and prints the medians as ratios to FF of the same mode.
"""

from __future__ import annotations

import os
import pathlib
import sys
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import (
    MaskedLMAccuracy,
    MaskedLMCrossentropy,
    MaskedLMHead,
    MatryoshkaLoss,
    NestingDims,
    per_prefix,
)
from mrl_keras.models import GardenBert, image_classifier, resnet
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_medians

SYSTEMS = {"resnet50": ("FF", "MRL", "MRL-E"), "bert": ("FF", "MRL-E")}
MODES = ("XLA", "graph")
TARGET = 1.03


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=tuple(SYSTEMS), default=list(SYSTEMS), help="what to time")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="how to run it")
    add("--images", type=int, default=16, help="images in a step of resnet50")
    add("--pixels", type=int, default=224, help="height and width of an image")
    add("--classes", type=int, default=1000, help="classes of resnet50")
    add("--sequences", type=int, default=32, help="sequences in a step of bert")
    add("--length", type=int, default=128, help="tokens of a sequence")
    add("--positions", type=int, default=20, help="masked positions of a sequence")
    add("--warm_up", type=int, default=2, help="steps of each system before the timed ones")
    tiny = {"images": 2, "pixels": 32, "classes": 4, "sequences": 2, "length": 8, "positions": 3}
    tiny |= {"repeats": 1, "warm_up": 1, "modes": ["graph"]}
    parser.add_measuring("step_cost.csv", repeats=9, tiny=tiny)
    return parser.parse_args(arguments)


class Step(NamedTuple):
    """A function without arguments, which trains a compiled model on a batch."""

    model: keras.Model
    batch: tuple

    def __call__(self):
        return self.model.train_on_batch(*self.batch)


def resnet50_step(system, jit_compile, options):
    """One training step of an image classifier."""
    sizes = {"blocks": (1, 1), "filters": (2, 4)} if options.tiny else {}
    backbone = resnet((options.pixels, options.pixels, 3), **sizes)
    width = backbone.output_shape[-1]
    dims = NestingDims([width] if system == "FF" else NestingDims.halving(width, 8))
    model = image_classifier(backbone, options.classes, dims, efficient=system == "MRL-E")
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        MatryoshkaLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        metrics=per_prefix(keras.metrics.SparseCategoricalAccuracy(name="top1"), dims),
        jit_compile=jit_compile,
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, *backbone.input_shape[1:]))
    batch = (
        tf.constant(images, tf.float32),
        tf.constant(rng.integers(0, options.classes, options.images)),
    )
    return Step(model, batch)


def bert_step(system, jit_compile, options):
    """One training step of a masked language model."""
    tiny = {"vocab_size": 50, "hidden_size": 24, "num_layers": 1, "num_heads": 2, "inner_dim": 32}
    bert = GardenBert(pooler=False, **(tiny if options.tiny else {}))
    lengths = {"input_word_ids": options.length, "input_mask": options.length}
    lengths |= {"input_type_ids": options.length}
    lengths |= {"positions": options.positions, "labels": options.positions}
    inputs = {n: keras.Input((size,), dtype="int32", name=n) for n, size in lengths.items()}
    hidden = bert({name: inputs[name] for name in list(lengths)[:3]})["sequence_output"]
    width = bert.hidden_size
    if system == "FF":
        head, read = MaskedLMHead(bert, [width]), [hidden, inputs["positions"]]
        inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalAccuracy(name="top1")
    else:
        head = MaskedLMHead(bert, NestingDims.halving(width, 6 if options.tiny else 12))
        read = [hidden, inputs["positions"], inputs["labels"]]
        inner, metric = MaskedLMCrossentropy(), MaskedLMAccuracy(name="top1")
    model = keras.Model(inputs, head(read))
    model.compile(
        keras.optimizers.AdamW(1e-4),
        MatryoshkaLoss(inner),
        metrics=per_prefix(metric, head.nesting_dims),
        jit_compile=jit_compile,
    )
    rng = np.random.default_rng(0)
    tops = {"input_word_ids": bert.vocab_size, "labels": bert.vocab_size}
    tops |= {"input_mask": 1, "input_type_ids": 1, "positions": options.length}
    batch = {
        name: tf.constant(rng.integers(0, tops[name], (options.sequences, size)), tf.int32)
        for name, size in lengths.items()
    }
    batch["input_mask"] = tf.ones_like(batch["input_mask"])
    return Step(model, (batch, batch["labels"]))


STEPS = {"resnet50": resnet50_step, "bert": bert_step}


def measure(name, mode, options):
    """Rows of one model in one mode."""
    systems = {}
    for system in SYSTEMS[name]:
        keras.utils.set_random_seed(0)
        systems[system] = STEPS[name](system, mode == "XLA", options)
    medians = interleaved_medians(systems, options.repeats, options.warm_up)
    return [
        {
            "model": name,
            "system": system,
            "mode": mode,
            "milliseconds": 1e3 * medians[system],
            "ratio_to_ff": medians[system] / medians["FF"],
            "target": "" if system == "FF" else TARGET,
            "repeats": options.repeats,
            "batch": options.images if name == "resnet50" else options.sequences,
            "pixels": options.pixels if name == "resnet50" else "",
            "length": options.length if name == "bert" else "",
            "positions": options.positions if name == "bert" else "",
        }
        for system in SYSTEMS[name]
    ]


def main(options):
    rows = []
    for mode in options.modes:
        for name in options.models:
            rows += measure(name, mode, options)
            keras.backend.clear_session()
            for row in rows[-len(SYSTEMS[name]) :]:
                print(
                    f"{row['model']:10}{row['system']:7}{row['mode']:6}"
                    f"{row['milliseconds']:12.1f} ms{row['ratio_to_ff']:8.3f} x FF",
                    flush=True,
                )
            write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
