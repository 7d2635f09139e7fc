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
from mrl_keras.variables import loss_variables, model_variables, optimizer_variables

_NAME = re.compile(r"step-(\d{9})\.npz")
_REMAINS = re.compile(r"\.tmp-.*-step-\d{9}\.npz")  # names of `atomic_file`


class Checkpoints:
    """The checkpoints of one run in a folder.

    A checkpoint is one .npz file of the variables of the model (seed generators included), of its
    optimizer and of weights that adapt in its loss, by name (`mrl_keras.variables`), and the step,
    from which the input goes on. It is written under a temporary name, flushed to disk and renamed,
    or uploaded as one object; only then the oldest checkpoints are removed. Nothing is pickled.
    Training stands still meanwhile, so that a kill never costs more than the steps since the
    checkpoint before.

    Files of earlier versions have no names: they are restored by order, and a line says so.

    `tf.train.CheckpointManager` and Orbax were measured beside it (recipes/results/README.md).
    Asynchronous writing would let training go on sooner, and a kill meanwhile cost more steps.
    Both would need these names, the check of configuration and model before a variable changes,
    and the removal of what a kill leaves half-written all the same, and write on every worker.

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
        for name in filter(_REMAINS.fullmatch, list_names(self.directory)):
            remove(join(self.directory, name))  # of a process that was killed while it wrote
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
        if _is_by_order(saved):
            print(f"{path} has no names of variables: it is read by their order", flush=True)
            variables = _by_order(variables)
        wanted = {key: tuple(variable.shape) for key, variable in variables.items()}
        if getattr(model, "optimizer", None) is None:
            saved = {key: value for key, value in saved.items() if key.startswith("model")}
        mistakes = _differences({key: value.shape for key, value in saved.items()}, wanted)
        if mistakes:
            raise ValueError(
                f"The checkpoint {path} is of another model: {mistakes}. Train in another work "
                "directory, or go back to that model's code."
            )
        for key, variable in variables.items():
            variable.assign(saved[key])
        return about["step"]

    def model_arrays(self):
        """The variables of the model in the newest checkpoint.

        Returns:
            A dict of arrays by the names of `mrl_keras.variables.model_variables`, in the model's
            order; of a file of an earlier version, which has no names, a list.

        Raises:
            ValueError: no checkpoint, or a damaged one.
        """
        steps = self.steps()
        if not steps:
            raise ValueError(f"There is no checkpoint in {self.directory}.")
        _, saved = self._read(steps[-1])
        if _is_by_order(saved):
            return [saved[key] for key in _by_order(saved) if key.startswith("model.")]
        return {
            key.removeprefix("model/"): value
            for key, value in saved.items()
            if key.startswith("model/")
        }

    def _read(self, step):
        """(about, {key: array}) of a checkpoint."""
        path, steps = self.path(step), self.steps()
        try:
            # np.load leaves a damaged file open when it opened it itself.
            with open_file(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                saved = {key: file[key] for key in file.files}
            about = json.loads(saved.pop("about").tobytes())
        except (PermissionError, FileNotFoundError):
            raise
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
    """The first value that differs, as "key is A there and B here", or "".

    An empty str is as good as none: what a config of an earlier version did not have is off.
    """
    for name, there, here in differences(saved, wanted, "absent"):
        if (there, here) == ("absent", ""):
            continue
        return f"{name} is {there!r} there and {here!r} here"
    return ""


def _variables(model):
    """{name: variable} of a model and its optimizer."""
    found = model_variables(model)
    names = {id(variable): name for name, variable in found.items()}
    found = {f"model/{name}": variable for name, variable in found.items()}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        slots = optimizer_variables(optimizer, names)
        found |= {f"optimizer/{name}": variable for name, variable in slots.items()}
        found |= {f"loss/{name}": variable for name, variable in loss_variables(model).items()}
    return found


def _is_by_order(saved):
    """Whether a file is of an earlier version, with the keys model.0, model.1, ..."""
    return "model.0" in saved


def _by_order(named):
    """The same values by the keys of earlier versions: model.0, ..., optimizer.0, ..."""
    counts, found = {}, {}
    for name, value in named.items():
        kind = re.split("[/.]", name)[0]
        found[f"{kind}.{counts.setdefault(kind, 0)}"] = value
        counts[kind] += 1
    return found


def _differences(there, here):
    """How the shapes of a checkpoint differ from a model's, as text, or ""."""
    groups = {
        "it lacks": [k for k in here if k not in there],
        "it has, and the model lacks": [k for k in there if k not in here],
        "of other shapes are": [
            f"{k} ({there[k]} there, {here[k]} here)"
            for k in here
            if k in there and there[k] != here[k]
        ],
    }
    return "; ".join(f"{what} {_some(names)}" for what, names in groups.items() if names)


def _some(names, most=5):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _array(variable):
    return keras.ops.convert_to_tensor(variable.value).numpy()


def _flush_directory(directory):
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
