"""Evaluates a trained run: python recipes/evaluate.py --workdir=runs/cifar10

Prints every figure and writes results.csv (name, value, step) into the work directory.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import csv

from absl import flags
from training import Run, restored, run_main

from mrl_keras.files import atomic_file

FLAGS = flags.FLAGS


def evaluate_run(run):
    """Evaluates the newest checkpoint of a run; {name: value}."""
    task, model = restored(run)
    step, found = run.checkpoints.steps()[-1], {}
    for name, value in task.evaluate(model):
        found[name] = float(value)
        print(f"{name:40} {value:10.4f}", flush=True)
    with atomic_file(run.path("results.csv")) as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "value", "step"])
        writer.writerows([name, value, step] for name, value in found.items())
    return found


def main(options):
    evaluate_run(Run.open(options.workdir))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    run_main(main, FLAGS)
