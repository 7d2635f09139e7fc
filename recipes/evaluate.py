"""Evaluates a trained run.

    python recipes/evaluate.py --workdir=runs/cifar10

Prints every figure and writes results.csv (name, value, step) into the work directory.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from recipes.common.config_flags import define_workdir, run_main
from recipes.common.evaluation import evaluate_run
from recipes.common.run import Run


def main(options):
    evaluate_run(Run.open(options.workdir))


if __name__ == "__main__":
    run_main(main, define_workdir)
