"""What a recipe trains: one task per module, picked by the config's `task`.

A module `recipes/tasks/NAME.py`, or any module by its dotted name, has a class `Task`, a subclass
of `recipes.tasks.task.Task`, which is the protocol.
"""

from __future__ import annotations

import importlib
import pathlib

from recipes.tasks.task import Task

__all__ = ["Task", "make_task", "task_names"]


def task_names() -> list[str]:
    """The tasks of this folder."""
    paths = pathlib.Path(__file__).parent.glob("[a-z]*.py")
    return sorted(path.stem for path in paths if path.stem != "task")


def make_task(config, workdir=None) -> Task:
    """The task that `config.task` names, made from `config`.

    Args:
        config: `ml_collections.ConfigDict`; its `task` is a module of this folder, or the dotted
            name of a module elsewhere that has a class `Task`.
        workdir: folder of the run, for tasks that keep files there. Default None, none.

    Raises:
        ValueError: no such task, or a class that is not a complete `Task`; and what the task says
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
    if not isinstance(made, type) or not issubclass(made, Task):
        raise ValueError(f"{module_name}.Task must be a subclass of recipes.tasks.Task.")
    if made.__abstractmethods__:
        lacking = ", ".join(sorted(made.__abstractmethods__))
        raise ValueError(f"The class {module_name}.Task lacks {lacking}.")
    return made(config, workdir)
