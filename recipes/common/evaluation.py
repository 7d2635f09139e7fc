"""Evaluating a trained run: the values of its evaluators, printed and written to results.csv."""

import csv
import fnmatch
import io

from mrl_keras.files import exists, read_text, write_csv
from recipes.common.training import load_trained


def evaluate_run(run):
    """Evaluates the newest checkpoint of a run by the evaluators of its config; {name: value}.

    A task without evaluators is not evaluated, and nothing is written.

    Raises:
        ValueError: no checkpoint.
    """
    task, model = load_trained(run)
    if not task.evaluators():
        print("`config.evaluators` lists none: nothing to evaluate", flush=True)
        return {}
    step, found = run.checkpoints.steps()[-1], {}
    for name, value in task.evaluate(model):
        found[name] = float(value)
        print(f"{name:40} {value:10.4f}", flush=True)
    for evaluator in task.evaluators():
        main = fnmatch.filter(found, evaluator.primary_metric)
        if main:
            print(f"primary: {main[0]} {found[main[0]]:.4f} to {main[-1]} {found[main[-1]]:.4f}")
    rows = [{"name": name, "value": value, "step": step} for name, value in found.items()]
    write_csv(run.path("results.csv"), rows)
    return found


def read_results(run):
    """{name: value} of results.csv, or `None` where it lacks the newest checkpoint's."""
    path, steps = run.path("results.csv"), run.checkpoints.steps()
    if not steps or not exists(path):
        return None
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    if any(int(row["step"]) != steps[-1] for row in rows):
        return None
    return {row["name"]: float(row["value"]) for row in rows}
