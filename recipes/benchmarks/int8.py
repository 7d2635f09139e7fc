"""What `quantize("int8")` costs a classifier at each prefix, on handwritten numbers 00 to 99.

    python recipes/benchmarks/int8.py --output results/int8.csv

A network of dense layers, all of which are quantised, is trained on pairs of digits, with MRL and
with MRL-E. Top-1 and 1-NN accuracy on the test pairs: of the float32 model, of the whole model
after `quantize`, and of a model that was cut to the prefix and then quantised. The bytes are those
of the weights of the cut model, before and after. Accuracies are means over the seeds; `points` is
the quantised model's top-1 less the float32 one's, with the least and most of the seeds.
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

import mrl_keras
from mrl_keras.data import load_images
from mrl_keras.evaluation import head_accuracy, knn_accuracy
from mrl_keras.models import cut, image_classifier
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--width", type=int, default=32, help="embedding width d")
    add("--smallest_dim", type=int, default=2, help="smallest trained dim; the others double it")
    add("--hidden", type=int, default=256, help="units of the two layers before the embedding")
    add("--epochs", type=int, default=15, help="for every model")
    add("--seeds", type=int, default=3, help="trainings of each head")
    tiny = {"hidden": 16, "epochs": 1, "seeds": 1, "width": 4}
    parser.add_measuring("runs/int8.csv", tiny=tiny)
    return parser.parse_args(arguments)


def trained(data, dims, efficient, seed, options):
    """A classifier of dense layers."""
    keras.utils.set_random_seed(seed)
    images = keras.Input(data.image_shape)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / data.max_value)(images))
    for _ in range(2):
        x = keras.layers.Dense(options.hidden, activation="relu")(x)
    backbone = keras.Model(images, keras.layers.Dense(dims.width, name="embedding")(x))
    model = image_classifier(backbone, len(data.class_names), dims, efficient)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = options.epochs * -(-len(data.train) // 64)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(
        keras.optimizers.AdamW(schedule), loss=mrl_keras.MatryoshkaLoss(loss), jit_compile=False
    )
    model.fit(data.train.images, data.train.labels, 64, options.epochs, verbose=0)
    return model


def quantised(model):
    """A copy of `model` whose dense layers are int8."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.quantize("int8")
    return copy


def accuracies(model, data, dims):
    """({dim: top-1}, {dim: 1-NN}) on the test pairs."""
    both = keras.Model(model.input, [model.output, model.get_layer("head").input])
    logits, test = outputs(both, data.test)
    _, train = outputs(both, data.train)
    labels = data.train.labels, data.test.labels
    return (
        head_accuracy(logits, labels[1], dims),
        knn_accuracy(train, labels[0], test, labels[1], dims),
    )


def measured(data, dims, efficient, seed, options):
    """{dim: columns} of one training."""
    model = trained(data, dims, efficient, seed, options)
    exact, near = accuracies(model, data, dims)
    int8, int8_near = accuracies(quantised(model), data, dims)
    rows = {}
    for dim in dims:
        small = cut(model, dim)
        smaller = quantised(small)
        logits = outputs(smaller, data.test)
        rows[dim] = {
            "top1": exact[dim],
            "int8_top1": int8[dim],
            "int8_cut_top1": float(np.mean(logits.argmax(axis=1) == data.test.labels)),
            "1nn": near[dim],
            "int8_1nn": int8_near[dim],
            "bytes": weight_bytes(small),
            "int8_bytes": weight_bytes(smaller),
        }
    return rows


def outputs(model, split):
    """A model's outputs for all images at once, as arrays; `predict` would trace each model."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(split.images))


def weight_bytes(model):
    """Bytes of a model's weights."""
    return sum(keras.ops.convert_to_numpy(weight.value).nbytes for weight in model.weights)


def main(options):
    data = load_images("digit_pairs")
    dims = mrl_keras.NestingDims.halving(options.width, options.smallest_dim)
    table = []
    for head, efficient in (("MRL", False), ("MRL-E", True)):
        runs = [measured(data, dims, efficient, seed, options) for seed in range(options.seeds)]
        for dim in dims:
            points = [100 * (run[dim]["int8_top1"] - run[dim]["top1"]) for run in runs]
            means = {name: np.mean([run[dim][name] for run in runs]) for name in runs[0][dim]}
            table.append(
                {"head": head, "dim": dim, "seeds": options.seeds, **means,
                 "points": np.mean(points), "points_least": min(points),
                 "points_most": max(points), "command": without_folders(options.command)}
            )  # fmt: skip
            print({key: table[-1][key] for key in list(table[-1])[:-1]}, flush=True)
    write_measurements(options.output, table)


if __name__ == "__main__":
    main(parse_arguments())
