"""Exports a trained run: recipes/export.py --workdir=runs/cifar10 --output=saved_models/cifar10

Writes a SavedModel into the next free version of the output folder; nothing is overwritten.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from absl import flags

from recipes.common.training import Run, restored, run_main

FLAGS = flags.FLAGS


def main(options):
    task, model = restored(Run.open(options.workdir))
    print(f"Exported {task.export(model, options.output)}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    flags.DEFINE_string("output", None, "folder of the exported versions", required=True)
    run_main(main, FLAGS)
