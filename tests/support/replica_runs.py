"""Training with 1 and with 2 replicas, in one new process.

A module of this folder has `trained(strategy)`, which gives a dict of arrays, and ends with
`save_runs(trained, sys.argv[1])`; `run_replicas` starts it. It needs a process of its own, since
devices are split before TensorFlow starts.
"""

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


def save_runs(trained, path):
    """Writes what `trained` gives with 1 replica and with 2 CPU replicas."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {1: trained(tf.distribute.get_strategy()), 2: trained(two)}
    np.savez(path, **{f"{n}/{name}": x for n, one in found.items() for name, x in one.items()})
