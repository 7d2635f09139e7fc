"""Evaluating a trained run: every figure of its task, printed and written to results.csv."""

import csv

from mrl_keras.files import atomic_file
from recipes.common.training import load_trained


def evaluate_run(run):
    """Evaluates the newest checkpoint of a run; {name: value}."""
    task, model = load_trained(run)
    step, found = run.checkpoints.steps()[-1], {}
    for name, value in task.evaluate(model):
        found[name] = float(value)
        print(f"{name:40} {value:10.4f}", flush=True)
    with atomic_file(run.path("results.csv")) as path, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "value", "step"])
        writer.writerows([name, value, step] for name, value in found.items())
    return found
