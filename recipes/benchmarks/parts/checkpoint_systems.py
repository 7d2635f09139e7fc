"""Ways to save and restore a model with its optimizer, all by the same names of variables."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import threading
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mrl_keras.distribution import Checkpoints
from mrl_keras.files import atomic_file, remove
from mrl_keras.variables import model_variables, optimizer_variables


@dataclasses.dataclass(frozen=True)
class System:
    """One way. `save(step)` returns when training may go on, `wait()` when the checkpoint is
    there, `restore(step)` when the variables have its values.

    Args:
        library: str, the package that writes and its version.
        save, wait, restore: the three functions.
    """

    library: str
    save: Callable[[int], object]
    wait: Callable[[], object]
    restore: Callable[[int], object]


def make_systems(model, folder):
    """{name: `System`} for a compiled, built model; each writes into its own part of a folder.

    Orbax is left out where it is not installed.
    """
    variables = model_variables(model)
    names = {id(v): name for name, v in variables.items()}
    slots = optimizer_variables(model.optimizer, names)
    variables = {
        **{f"model/{name}": v for name, v in variables.items()},
        **{f"optimizer/{name}": v for name, v in slots.items()},
    }
    systems = {
        "npz": _npz(model, os.path.join(folder, "npz")),
        "npz in the background": _background_npz(variables, os.path.join(folder, "background")),
        "CheckpointManager": _manager(variables, os.path.join(folder, "manager"), False),
        "CheckpointManager async": _manager(variables, os.path.join(folder, "async"), True),
    }
    try:
        import orbax.checkpoint
    except ImportError:
        return systems
    for name, kind in (
        ("Orbax", orbax.checkpoint.Checkpointer),
        ("Orbax async", orbax.checkpoint.AsyncCheckpointer),
    ):
        systems[name] = _orbax(variables, os.path.join(folder, name), kind)
    return systems


def _npz(model, folder):
    """What `train.py` does: training stands still until the file is on disk."""
    checkpoints = Checkpoints(folder, {}, keep=1)
    return System(
        _version("mrl_keras"),
        lambda step: checkpoints.save(model, step),
        lambda: None,
        lambda step: checkpoints.restore(model),
    )


def _background_npz(variables, folder):
    """Such a file, written by a thread once the variables are copied."""
    threads = []

    def path(step):
        return os.path.join(folder, f"{step}.npz")

    def write(step, arrays):
        with atomic_file(path(step)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        remove(path(step - 1))

    def wait():
        while threads:
            threads.pop().join()

    def save(step):
        wait()
        arrays = {name: v.numpy() for name, v in variables.items()}
        threads.append(threading.Thread(target=write, args=(step, arrays)))
        threads[0].start()

    def restore(step):
        with np.load(path(step)) as file:
            found = {name: file[name] for name in file.files}
        for name, variable in variables.items():
            variable.assign(found[name])

    return System(_version("numpy"), save, wait, restore)


def _manager(variables, folder, enable_async):
    checkpoint = tf.train.Checkpoint(**{name: v.value for name, v in variables.items()})
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1)
    options = tf.train.CheckpointOptions(enable_async=enable_async)

    def restore(step):
        # By a reader, as a checkpoint must be checked before any variable is changed.
        reader = tf.train.load_checkpoint(manager.latest_checkpoint)
        found = {name: reader.get_tensor(_key(name)) for name in variables}
        for name, variable in variables.items():
            variable.assign(found[name])

    return System(
        _version("tensorflow"),
        lambda step: manager.save(checkpoint_number=step, options=options),
        checkpoint.sync if enable_async else lambda: None,
        restore,
    )


def _orbax(variables, folder, kind):
    import orbax.checkpoint

    checkpointer = kind(orbax.checkpoint.StandardCheckpointHandler())

    def save(step):
        # Orbax takes no TensorFlow variables, and of NumPy arrays alone.
        tree = {name: np.asarray(v.numpy()) for name, v in variables.items()}
        saved = orbax.checkpoint.args.StandardSave(tree)
        checkpointer.save(os.path.join(folder, str(step)), args=saved)
        remove(os.path.join(folder, str(step - 1)))

    def restore(step):
        shapes = {name: np.zeros(v.shape, v.dtype) for name, v in variables.items()}
        wanted = orbax.checkpoint.args.StandardRestore(shapes)
        found = checkpointer.restore(os.path.join(folder, str(step)), args=wanted)
        for name, variable in variables.items():
            variable.assign(np.asarray(found[name]))

    wait = getattr(checkpointer, "wait_until_finished", lambda: None)
    return System(_version("orbax-checkpoint"), save, wait, restore)


def _key(name):
    """The key of an attribute in a TensorFlow checkpoint."""
    return name.replace(".", "..").replace("/", ".S") + "/.ATTRIBUTES/VARIABLE_VALUE"


def _version(package):
    return f"{package} {importlib.metadata.version(package)}"
