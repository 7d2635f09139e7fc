"""Time of the cascade in the graph beside the full-width head and beside all prefixes.

    python recipes/benchmarks/cascade.py --output cascade.csv

For MRL and MRL-E heads over nested prefixes of random embeddings, a batch is answered by

- full width: the logits of the widest prefix, their softmax and its largest class;
- all prefixes: the same of every prefix, as a cascade without skipping would;
- cascade: `AdaptiveClassifier`, whose thresholds let a given share of the rows that reach a prefix
  leave there.

In turns in one process, plain tf.functions. Columns of the CSV: head, classes, leaving (the share),
mean_dim (of the answers), system, milliseconds (median of a batch), ratio_to_full_width, the sizes,
and those of the machine.
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

from mrl_keras import MatryoshkaDense, NestingDims
from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_medians


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--batch", type=int, default=256, help="rows of a batch")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--classes", type=int, nargs="+", default=[1000, 4000], help="numbers of classes")
    add("--leaving", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="shares that leave")
    tiny = {"batch": 16, "width": 32, "classes": [5], "repeats": 3}
    parser.add_measuring("cascade.csv", repeats=31, tiny=tiny)
    return parser.parse_args(arguments)


def policy_for(head, embeddings, dims, leaving):
    """Thresholds above which the share `leaving` of the rows that reach a prefix lies."""
    left, thresholds = np.arange(len(embeddings)), []
    for dim in dims[:-1]:
        logits = head.prefix_logits(tf.gather(embeddings[:, :dim], left), dim)
        confidence = tf.reduce_max(tf.nn.softmax(logits), axis=-1).numpy()
        thresholds.append(float(np.quantile(confidence, 1 - leaving)))
        left = left[confidence <= thresholds[-1]]
    return CascadePolicy(dims, thresholds)


def systems_of(head, embeddings, dims, adaptive):
    """{name: function without arguments}."""

    def answer(logits):
        return tf.argmax(logits, -1), tf.reduce_max(tf.nn.softmax(logits), axis=-1)

    functions = {
        "full width": lambda x: answer(head.prefix_logits(x, dims.width)),
        "all prefixes": lambda x: answer(head(x)),
        "cascade": adaptive,
    }
    compiled = {name: tf.function(function) for name, function in functions.items()}
    return {name: lambda f=function: f(embeddings) for name, function in compiled.items()}


def measure(efficient, classes, options):
    """Yields the rows of one head."""
    keras.utils.set_random_seed(0)
    dims = NestingDims.halving(options.width, max(8, options.width // 256))
    head = MatryoshkaDense(classes, dims, efficient=efficient)
    head.build((None, options.width))
    embeddings = tf.random.stateless_normal((options.batch, options.width), seed=(0, 1))
    for leaving in options.leaving:
        adaptive = AdaptiveClassifier(head, policy_for(head, embeddings, dims, leaving))
        mean_dim = float(np.mean(adaptive(embeddings)["dim"]))
        systems = systems_of(head, embeddings, dims, adaptive)
        medians = interleaved_medians(systems, options.repeats)
        for name, seconds in medians.items():
            yield {
                "head": "MRL-E" if efficient else "MRL",
                "classes": classes,
                "leaving": leaving,
                "mean_dim": round(mean_dim, 1),
                "system": name,
                "milliseconds": 1e3 * seconds,
                "ratio_to_full_width": seconds / medians["full width"],
                "batch": options.batch,
                "width": options.width,
            }


def main(options):
    rows = []
    for classes in options.classes:
        for efficient in (False, True):
            for row in measure(efficient, classes, options):
                rows.append(row)
                print(*(row[key] for key in list(row)[:7]))
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
