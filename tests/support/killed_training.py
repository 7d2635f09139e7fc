"""A run that is killed again and again, and one that is not; `python -m` in a process of its own.

TensorFlow is imported once: each trainer is a fork, made before TensorFlow runs anything. What
happened is printed as JSON, one line for each kill; a test judges it.
"""

import io
import json
import os
import pathlib
import signal
import sys
import time

import keras
import numpy as np

from recipes.common.training import train
from tests.support.small_run import small_config

KILLS = 20
EVERY = 10
STEPS = 2 * KILLS * EVERY
"""More than pass before the last kill, each of which comes after one checkpoint on average."""


class Progress(keras.callbacks.Callback):
    """Appends the number of each step that was trained to a file, by one write each."""

    def __init__(self, path):
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def on_train_batch_end(self, batch, logs=None):
        os.write(self._file, b"%d\n" % int(self.model.optimizer.iterations))


def write_slowly(file, savez=np.savez, **arrays):
    """`np.savez` that rests in the middle, so that kills meet half-written files."""
    whole = io.BytesIO()
    savez(whole, **arrays)
    half = len(whole.getvalue()) // 2
    file.write(whole.getvalue()[:half])
    file.flush()
    time.sleep(0.05)
    file.write(whole.getvalue()[half:])


def start(folder):
    """The id of a new process that trains in `folder`, which writes there what it prints."""
    (folder / "progress").unlink(missing_ok=True)
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(folder / "output", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        np.savez = write_slowly
        config = small_config(STEPS, EVERY)
        train(config, folder, verbose=0, callbacks=[Progress(folder / "progress")])
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.stdout.flush()
        os._exit(code)


def steps_in(folder):
    """The steps that this start has trained so far."""
    path = folder / "progress"
    return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def newest(folder):
    """The step of the newest checkpoint, 0 without one, and whether one is being written."""
    names = os.listdir(folder / "checkpoints") if (folder / "checkpoints").exists() else []
    steps = [int(name[5:14]) for name in names if name.startswith("step-")]
    return max(steps, default=0), any(name.startswith(".tmp-") for name in names)


def wait(ready, process):
    while not ready():
        if os.waitpid(process, os.WNOHANG)[0]:
            raise SystemExit(f"the process ended by itself, see {sys.argv[1]}")
        time.sleep(0.001)


def main(folder, seed):
    rng = np.random.default_rng(seed)
    killed, whole = folder / "killed", folder / "whole"
    killed.mkdir(parents=True), whole.mkdir()
    for kill in range(KILLS):
        number = (signal.SIGTERM, signal.SIGKILL)[kill % 2]
        process = start(killed)
        steps, writing = int(rng.integers(1, 2 * EVERY)), bool(kill % 4 == 3)
        wait(lambda steps=steps: len(steps_in(killed)) >= steps, process)
        if writing:
            wait(lambda: newest(killed)[1], process)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(process, number)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        step, remains = newest(killed)
        trained = steps_in(killed)
        print(
            json.dumps(
                {
                    "signal": number.name,
                    "code": code,
                    "first": trained[0],
                    "last": trained[-1],
                    "checkpoint": step,
                    "remains": remains,
                }
            ),
            flush=True,
        )
    for one in (killed, whole):
        code = os.waitstatus_to_exitcode(os.waitpid(start(one), 0)[1])
        if code:
            raise SystemExit((one / "output").read_text()[-3000:])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
