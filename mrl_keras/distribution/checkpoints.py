"""Atomic checkpoints tied to one run's config."""

import json
import os
import re
import zipfile

import keras
import ml_dtypes
import numpy as np

from mrl_keras.checks import differences, whole_number
from mrl_keras.files import as_path, atomic_file, is_remote, join, list_names, open_file, remove

_NAME = re.compile(r"step-(\d{9})\.npz")


class Checkpoints:
    """The checkpoints of one run in a folder.

    A checkpoint holds the variables of the model (seed generators included) and of its optimizer,
    and the step, from which the input goes on. It is written under a temporary name, flushed to
    disk and renamed; only then the oldest checkpoints are removed. Nothing is pickled.

    Args:
        directory: the folder; the first save makes it.
        config: dict that JSON can hold, the run's configuration; a checkpoint of another
            configuration is refused.
        keep: int, how many of the newest stay. Default 2.

    Raises:
        ValueError: `keep` below 1.

    Example:

    >>> import tempfile, keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> checkpoints = Checkpoints(tempfile.mkdtemp(), {"seed": 0})
    >>> checkpoints.restore(model)
    0
    >>> _ = checkpoints.save(model, 10)
    >>> checkpoints.restore(model)
    10
    """

    def __init__(self, directory, config, keep=2):
        self.directory = as_path(directory, "`directory`")
        self.config = json.loads(json.dumps(config))
        self.keep = whole_number(keep, "`keep`")

    def steps(self):
        """The steps of all checkpoints in the folder, ascending."""
        found = (_NAME.fullmatch(name) for name in list_names(self.directory))
        return sorted(int(match[1]) for match in found if match)

    def path(self, step):
        """The path of the checkpoint of `step`."""
        return join(self.directory, f"step-{step:09d}.npz")

    def save(self, model, step, write=True):
        """Write the checkpoint of `step`, and remove the oldest beyond `keep`.

        Args:
            model: compiled `keras.Model`.
            step: int, batches trained so far.
            write: bool, False on workers other than the chief. They must call this too, because
                all workers take part in reading some variables. Default True.

        Returns:
            The path.

        Raises:
            OSError: the file can't be written, such as on a full disk. The older ones stay.
        """
        arrays = {key: _array(variable) for key, variable in _variables(model).items()}
        path = self.path(step)
        if not write:
            return path
        dtypes = {key: value.dtype.name for key, value in arrays.items()}
        about = json.dumps({"step": step, "config": self.config, "dtypes": dtypes})
        plain = {
            key: value.view("uint16") if value.dtype == ml_dtypes.bfloat16 else value
            for key, value in arrays.items()
        }
        try:
            with atomic_file(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, about=np.frombuffer(about.encode(), "uint8"), **plain)
                file.flush()
                os.fsync(file.fileno())
            if not is_remote(self.directory):
                _flush_directory(self.directory)
        except OSError as error:
            newest = f"step {self.steps()[-1]}" if self.steps() else "the beginning"
            raise OSError(
                f"The checkpoint {path} can't be written: {error.strerror or error}. Make room "
                f"and start again with the same work directory: it goes on from {newest}."
            ) from error
        for old in self.steps()[: -self.keep]:
            remove(self.path(old))
        return path

    def restore(self, model):
        """Set `model` and its optimizer to the newest checkpoint.

        Args:
            model: `keras.Model`, built. The optimizer of a compiled model is restored too.

        Returns:
            int, the step; 0 if the folder holds no checkpoint.

        Raises:
            ValueError: the checkpoint is of another configuration or model, or its file is
                damaged. The model is then unchanged.
        """
        steps = self.steps()
        if not steps:
            return 0
        path = self.path(steps[-1])
        about, saved = self._read(steps[-1])
        difference = config_difference(about["config"], self.config)
        if difference:
            raise ValueError(
                f"The checkpoint {path} is of another configuration: {difference}. Train in "
                "another work directory, or go back to that configuration."
            )
        variables = _variables(model)
        for key, variable in variables.items():
            if key not in saved or saved[key].shape != tuple(variable.shape):
                found = saved[key].shape if key in saved else "nothing"
                raise ValueError(
                    f"The checkpoint {path} is of another model: for {key} ({variable.path}) of "
                    f"shape {tuple(variable.shape)} it has {found}."
                )
        for key, variable in variables.items():
            variable.assign(saved[key])
        return about["step"]

    def model_arrays(self):
        """The variables of the model in the newest checkpoint, in the model's order.

        Raises:
            ValueError: no checkpoint, or a damaged one.
        """
        steps = self.steps()
        if not steps:
            raise ValueError(f"There is no checkpoint in {self.directory}.")
        _, saved = self._read(steps[-1])
        names = [key for key in saved if key.startswith("model.")]
        return [saved[key] for key in sorted(names, key=lambda key: int(key.split(".")[1]))]

    def _read(self, step):
        """(about, {key: array}) of a checkpoint."""
        path, steps = self.path(step), self.steps()
        try:
            # np.load leaves a damaged file open when it opened it itself.
            with open_file(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                saved = {key: file[key] for key in file.files}
            about = json.loads(saved.pop("about").tobytes())
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"The checkpoint {path} is damaged ({type(error).__name__}). Remove it to go on "
                f"from {'step ' + str(steps[-2]) if steps[1:] else 'the beginning'}."
            ) from error
        for key, dtype in about["dtypes"].items():
            if dtype == "bfloat16":
                saved[key] = saved[key].view(ml_dtypes.bfloat16)
        return about, saved


def config_difference(saved, wanted):
    """The first value that differs, as "key is A there and B here", or ""."""
    for name, there, here in differences(saved, wanted, "absent"):
        return f"{name} is {there!r} there and {here!r} here"
    return ""


def _variables(model):
    metrics = {id(variable) for variable in model.metrics_variables}
    found = {
        f"model.{i}": variable
        for i, variable in enumerate(v for v in model.variables if id(v) not in metrics)
    }
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        found |= {f"optimizer.{i}": variable for i, variable in enumerate(optimizer.variables)}
    return found


def _array(variable):
    return keras.ops.convert_to_tensor(variable.value).numpy()


def _flush_directory(directory):
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
