"""Times of the input pipeline and of the training step of the CIFAR-10 run.

    python recipes/benchmarks/input_pipeline.py --output input_pipeline.csv

Times one batch of `recipes/configs/cifar10_resnet.py`, one after the other in one process:

- pipeline: reading the next augmented batch, and nothing else;
- step: one training step on a batch in memory;
- both: one training step on the next batch of the pipeline, as in training.

Prints images a second and the ratios to the training step. The images are random numbers of
CIFAR-10's shape and count, since the time does not depend on what they show. Reading 50,000
images into memory happens once, before, and is not timed.
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

from mrl_keras import MatryoshkaLoss, NestingDims, SmoothedSparseCategoricalCrossentropy
from mrl_keras.data import LabelledImages, array_batches
from mrl_keras.models import image_classifier
from mrl_keras.models.backbones.small_resnet import small_resnet
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_medians


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--batch", type=int, default=128, help="images in a step")
    add("--examples", type=int, default=50_000, help="images of the training split")
    tiny = {"batch": 16, "examples": 64, "repeats": 3}
    parser.add_measuring("input_pipeline.csv", repeats=41, tiny=tiny)
    return parser.parse_args(arguments)


def make_model():
    """The network, head and optimizer of the recipe."""
    keras.utils.set_random_seed(0)
    backbone = small_resnet((32, 32, 3), 64, stem_strides=2)
    model = image_classifier(backbone, 10, NestingDims.halving(64, 2))
    loss = MatryoshkaLoss(SmoothedSparseCategoricalCrossentropy(0.0))
    model.compile(keras.optimizers.AdamW(4e-3, weight_decay=0.05), loss, jit_compile=False)
    return model


def main(options):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.examples, 32, 32, 3)).astype("uint8")
    data = LabelledImages(images, rng.integers(0, 10, options.examples))
    model = make_model()
    batches = iter(array_batches(data, options.batch))
    more = iter(array_batches(data, options.batch))
    batch = next(batches)
    systems = {
        "pipeline": lambda: next(batches),
        "step": lambda: model.train_on_batch(*batch),
        "both": lambda: model.train_on_batch(*next(more)),
    }
    medians = interleaved_medians(systems, options.repeats)
    rows = [
        {
            "system": name,
            "milliseconds": 1e3 * seconds,
            "images_per_second": options.batch / seconds,
            "ratio_to_step": seconds / medians["step"],
            "batch": options.batch,
            "examples": options.examples,
        }
        for name, seconds in medians.items()
    ]
    for row in rows:
        print(
            f"{row['system']:10}{row['milliseconds']:10.2f} ms{row['images_per_second']:12.0f} "
            f"images/s{row['ratio_to_step']:8.3f} x step"
        )
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
