"""Runs of modules of this folder that train with 1 and with 2 replicas, in one new process."""

import subprocess
import sys

import numpy as np


def run_replicas(module, path):
    """{name: (value with 1 replica, value with 2)} of `tests.support.MODULE`."""
    command = [sys.executable, "-m", f"tests.support.{module}", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    with np.load(path, allow_pickle=False) as saved:
        names = {name[2:] for name in saved}
        return {name: (saved[f"1/{name}"], saved[f"2/{name}"]) for name in names}
