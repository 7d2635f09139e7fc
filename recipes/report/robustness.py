"""Accuracy of a trained run on other sets of images, beside the clean run on the same classes.

    python recipes/report/robustness.py --workdir=runs/mrl --sets=imagenet_v2,imagenet_r,imagenet_a

Each of `--sets` is an image classification set of TensorFlow Datasets, read from its `--split` in
the way the run's own evaluation split is. Classes are matched by the names of their labels: the
ImageNet sets of TFDS all use WordNet ids. A set with names of its own, as ObjectNet has, needs
`--renamed=FILE`, a JSON file {SET: {its name: the run's name, or a list of such}}; images of other
classes are left out. Writes robustness.csv (set, dim, shifted, clean, examples) into the work
directory: Table 17.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np
from absl import flags

from mrl_keras.data import (
    class_names,
    explain_image_errors,
    image_set,
)
from mrl_keras.evaluation import class_mapping, collect, robustness_accuracy
from mrl_keras.files import read_json, write_csv
from recipes.common.config_flags import define_workdir, run_main
from recipes.common.run import Run
from recipes.common.training import load_trained


def measure(run, names, split="test", renamed=None):
    """{set: {dim: `RobustnessRow`}} and {set: examples} of the newest checkpoint of a run.

    Args:
        run: `Run` of an image classification task on a TFDS set, with a head of prefixes.
        names: names of TFDS sets.
        split: their split. Default "test".
        renamed: {set: {class name there: class name here, or several}}. Default None.

    Raises:
        ValueError: a run on made images, an evaluation split that is missing, or what
            `class_mapping` and `robustness_accuracy` refuse.
    """
    task, model = load_trained(run)
    if task.source.builder is None:
        raise ValueError("The run must be on a set of TFDS, which names its classes.")
    model.compile(jit_compile=run.config.jit_compile)
    own = class_names(task.source.builder)
    clean = task.collect(model, ["logits", "labels"])
    sets, examples = [], {}
    for name in names:
        builder = image_set(name, run.config.data.data_dir or None)
        mapping = class_mapping(class_names(builder), own, (renamed or {}).get(name))
        with explain_image_errors(name):
            logits, labels = collect(model.predict_on_batch, task.batches_of(name, split))
        kept = np.isin(labels, list(mapping))
        sets.append((name, logits[kept], labels[kept], mapping))
        examples[name] = int(kept.sum())
    clean = clean["logits"], clean["labels"]
    return robustness_accuracy(np.asarray, clean, sets, task.dims), examples


def main(options):
    renamed = read_json(options.renamed) if options.renamed else None
    run = Run.open(options.workdir)
    found, examples = measure(run, options.sets, options.split, renamed)
    lines = []
    for name, rows in found.items():
        for dim, row in rows.items():
            values = {"shifted": row.shifted, "clean": row.clean, "examples": examples[name]}
            lines.append({"set": name, "dim": dim, **values})
            print(f"{name:24} {dim:6} {100 * row.shifted:8.2f} {100 * row.clean:8.2f}")
    write_csv(run.path("robustness.csv"), lines)


def define_flags(values):
    define_workdir(values)
    flags.DEFINE_list("sets", None, "names of TFDS sets, with commas", values, required=True)
    flags.DEFINE_string("split", "test", "the split of each set", values)
    flags.DEFINE_string("renamed", None, "JSON file of class names that differ", values)


if __name__ == "__main__":
    run_main(main, define_flags)
