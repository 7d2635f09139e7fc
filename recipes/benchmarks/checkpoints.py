"""Saving and restoring a checkpoint: how long training stands still, bytes, seconds to restart.

    pip install orbax-checkpoint  # to measure it too
    python recipes/benchmarks/checkpoints.py --output checkpoints.csv

Of ResNet50 with momentum SGD and of BERT-Base with AdamW (the models of `step_cost.py`), each after
one training step, saves and restores model and optimizer by

- npz: `mrl_keras.distribution.Checkpoints`, which `train.py` uses; on disk when training goes on;
- npz in the background: variables are copied, and a thread writes;
- CheckpointManager: `tf.train.CheckpointManager` over the same names, as it is and asynchronously
  (`CheckpointOptions(enable_async=True)`); restored through its reader, checked first;
- Orbax: its `Checkpointer` and `AsyncCheckpointer`, where it is installed.

One system after the other in one process, round by round; the first two rounds, which compile and
allocate, are not counted. Each restore must give the values that were saved, bit for bit. Only npz
is flushed to the disk itself (fsync); the others leave that to the operating system.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import time

import keras
import numpy as np

from recipes.benchmarks import step_cost
from recipes.benchmarks.parts.checkpoint_systems import make_systems
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements

MODELS = {"resnet50": "ResNet50, momentum SGD", "bert": "BERT-Base, AdamW"}
WARM_UP = 2
MEASURED = "stands_still", "written", "restored"


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), help="what to save")
    parser.add_measuring("checkpoints.csv", repeats=4, tiny={"repeats": 1})
    return parser.parse_args(arguments)


def trained_model(name, tiny):
    """A model after one training step, so that its optimizer has its variables."""
    sizes = ["--images=1", "--pixels=32", "--sequences=1", "--length=8", "--positions=2"]
    options = step_cost.parse_arguments([*sizes, *(["--tiny"] if tiny else [])])
    step = step_cost.STEPS[name]("MRL-E", False, options)
    step.model.train_on_batch(*step.batch)
    return step.model


def measure(name, options, folder):
    """Rows of one model."""
    model = trained_model(name, options.tiny)
    variables = [*model.variables, *model.optimizer.variables]
    values = [v.numpy() for v in variables]
    systems = make_systems(model, folder)
    seconds = {system: {what: [] for what in MEASURED} for system in systems}
    sizes = {}
    for turn in range(-WARM_UP, options.repeats):
        for system, way in systems.items():
            before = _bytes(folder)
            stood = _seconds(lambda way=way, turn=turn: way.save(turn + WARM_UP))
            written = stood + _seconds(way.wait)
            if turn == -WARM_UP:
                sizes[system] = _bytes(folder) - before
            for variable in variables:
                variable.assign(keras.ops.zeros_like(variable))
            restored = _seconds(lambda way=way, turn=turn: way.restore(turn + WARM_UP))
            for variable, value in zip(variables, values, strict=True):
                if not np.array_equal(variable.numpy(), value):
                    raise ValueError(f"{system} restores other values of {variable.path}.")
            if turn >= 0:
                for what, found in zip(MEASURED, (stood, written, restored), strict=True):
                    seconds[system][what].append(found)
    return [
        {
            "model": MODELS[name],
            "system": system,
            "library": way.library,
            **{
                f"{what}_{kind}": round(float(statistic(seconds[system][what])), 3)
                for what in MEASURED
                for kind, statistic in (("median", np.median), ("least", min), ("most", max))
            },
            "bytes": sizes[system],
            "variables": len(variables),
            "repeats": options.repeats,
        }
        for system, way in systems.items()
    ]


def _seconds(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _bytes(folder):
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)


def main(options):
    rows = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, options, folder)
        keras.backend.clear_session()
        for row in rows:
            if row["model"] == MODELS[name]:
                times = (f"{row[f'{what}_median']:9.2f} s {what}" for what in MEASURED)
                print(f"{row['model']:24}{row['system']:24}{''.join(times)}", flush=True)
        write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
