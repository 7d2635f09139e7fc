"""Exports a trained run.

    python recipes/export.py --workdir=runs/cifar10 --output=saved_models/cifar10

Writes a SavedModel into the next free version of the output folder; nothing is overwritten.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from recipes.common.config_flags import define_folder, define_workdir, run_main
from recipes.common.run import Run
from recipes.common.training import load_trained


def define_flags(values):
    define_workdir(values)
    define_folder(values, "output", "folder of the versions")


def main(options):
    task, model = load_trained(Run.open(options.workdir))
    print(f"Exported {task.export(model, options.output)}")


if __name__ == "__main__":
    run_main(main, define_flags)
