"""What a recipe trains: one task per module, picked by the config's `task`.

A module `recipes/tasks/NAME.py` has a class `Task`, made from the config:

    Task(config), or Task(config, workdir) of a task that keeps files beside the checkpoints, such
        as a vocabulary: it reads them where they are, else makes them; `workdir` may be None
        train_data(batch_size, sampling)
            an endless `tf.data.Dataset` of (inputs, labels), `batch_size` rows of one worker:
            `mrl_keras.data.Sampling` says which, and from which step on
        validation_data(batch_size)
            a finite dataset of (inputs, labels), the same on every worker, or None
        model()              the keras.Model, not compiled
        loss(), metrics()    for `model.compile`
        weighted_metrics()   metrics that take sample weights, of a task whose datasets give
            (inputs, labels, weights); other tasks lack it
        evaluate(model)      yields (name, value), such as ("top1/linear/8", 0.71)
        export(model, directory)
            writes a SavedModel, and returns the folder of its version
"""

from __future__ import annotations

import importlib
import inspect
import pathlib

METHODS = (
    "train_data",
    "validation_data",
    "model",
    "loss",
    "metrics",
    "evaluate",
    "export",
)


def task_names() -> list[str]:
    """The tasks of this folder."""
    return sorted(path.stem for path in pathlib.Path(__file__).parent.glob("[a-z]*.py"))


def task(config, workdir=None):
    """The task that `config.task` names, made from `config`.

    Args:
        config: `ml_collections.ConfigDict`; its `task` is a module of this folder, or the dotted
            name of a module elsewhere that has a class `Task`.
        workdir: folder of the run, for tasks that keep files there. Default None, none.

    Raises:
        ValueError: no such task, or a class without one of the methods; and what the task says
            about its own values.
    """
    name = config.get("task")
    if not isinstance(name, str) or (name not in task_names() and "." not in name):
        raise ValueError(
            f"`config.task` must be one of {', '.join(task_names())}, or the dotted name of a "
            f"module with a class `Task`. Received {name!r}."
        )
    module_name = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or ""):
            raise
        raise ValueError(
            f"`config.task` is {name!r}, but there is no module {error.name!r}. "
            "Is its folder on PYTHONPATH?"
        ) from error
    made = getattr(module, "Task", None)
    missing = [method for method in METHODS if not callable(getattr(made, method, None))]
    if missing:
        raise ValueError(f"The class {module_name}.Task lacks {', '.join(missing)}.")
    keeps_files = "workdir" in inspect.signature(made).parameters
    return made(config, workdir) if keeps_files else made(config)
