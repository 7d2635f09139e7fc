"""The protocol of a task: what a recipe trains, evaluates and exports; and tasks by name."""

from __future__ import annotations

import abc
import importlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import keras
import ml_collections
import tensorflow as tf

from mrl_keras.data import Sampling, explain_image_errors
from mrl_keras.evaluation import EvaluationPass, Evaluator, Outputs, evaluate
from recipes.common.corpus import Direction
from recipes.common.evaluators import make_evaluators

TASKS = pathlib.Path(__file__).resolve().parents[1] / "tasks"


class Task(abc.ABC):
    """Data, model, loss, metrics, evaluation and exported parts of one configuration.

    A module in `recipes/tasks/`, or anywhere under a dotted name, has a subclass called `Task`.
    Its methods may be called in any order, and more than once.

    Args:
        config: `ConfigDict`. All tasks read `seed` and `evaluators`, see
            `recipes/common/evaluators.py`; a task's module lists its own keys.
        workdir: folder of the run, for tasks that keep files beside the checkpoints, such as a
            vocabulary: they read them where they are, else make them. Default None, nothing is
            kept.

    Raises:
        ValueError: a value out of range, or a data set that is not there.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir=None):
        self.config, self.workdir = config, workdir
        self._evaluators = make_evaluators(config.get("evaluators") or {})

    @abc.abstractmethod
    def train_data(self, batch_size: int, sampling: Sampling) -> tf.data.Dataset:
        """An endless dataset of (inputs, labels) or (inputs, labels, weights).

        Args:
            batch_size: int, rows of one batch of one worker.
            sampling: `Sampling`, the seed, this worker among all, and the first step.
        """

    def validation_data(self, batch_size: int) -> tf.data.Dataset | None:
        """A finite dataset like `train_data`'s, the same on every worker. Default None."""
        return None

    @abc.abstractmethod
    def build_model(self) -> keras.Model:
        """A new model, untrained and not compiled."""

    def pretrained_parts(self, model: keras.Model) -> list[tuple[keras.layers.Layer, str | None]]:
        """The networks of a model that `config.init_from` may give weights, each with the name of
        its layer that keeps its own, or None. Default: all of the model but its head.
        """
        return [(model, "head")]

    @abc.abstractmethod
    def loss(self) -> keras.losses.Loss:
        """For `model.compile`."""

    def metrics(self) -> Sequence[keras.metrics.Metric] | None:
        """For `model.compile`. Default None."""
        return None

    def weighted_metrics(self) -> Sequence[keras.metrics.Metric] | None:
        """For `model.compile`: metrics that take the dataset's weights. Default None."""
        return None

    def evaluators(self) -> list[Evaluator]:
        """What `evaluate` measures: by default the evaluators of `config.evaluators`."""
        return list(self._evaluators)

    @abc.abstractmethod
    def evaluation_pass(self, model: keras.Model) -> EvaluationPass:
        """The arrays that an evaluation of a model can read, and how each is computed."""

    def collect(self, model: keras.Model, names: Sequence[str] | None = None) -> Outputs:
        """Computes arrays of `evaluation_pass`, with clear errors of damaged data.

        Args:
            model: what `build_model` made, with trained weights.
            names: which arrays. Default None, all.
        """
        with self.explain_errors():
            return self.evaluation_pass(model).collect(names)

    def evaluate(self, model: keras.Model) -> Iterator[tuple[str, float]]:
        """Yields (name, value), such as ("top1/linear/8", 0.71), of `evaluators`.

        Raises:
            ValueError: no evaluator, or one that needs what `evaluation_pass` does not give.
        """
        with self.explain_errors():
            yield from evaluate(self.evaluation_pass(model), self.evaluators())

    @abc.abstractmethod
    def exported_parts(self, model: keras.Model) -> Mapping[str, object]:
        """The arguments of `export_saved_model` that the model gives: `encoder`, and where there
        are such `nesting_dims`, `classifier`, `options`.

        Raises:
            ValueError: a model that is not to be exported.
        """

    def directions(self, model: keras.Model) -> Mapping[str, Direction]:
        """What can be retrieved with a model: {name: `Direction`}, the main one under "".

        Default none. An export indexes what each finds, see `recipes/common/exporting.py`.
        """
        return {}

    def class_names(self) -> Sequence[str]:
        """Names of the classes, by label, for a classifier's cascade. Default none."""
        return ()

    def explain_errors(self):
        """A context in which damaged data of the config's set is one clear error."""
        return explain_image_errors(
            str((self.config.get("data") or {}).get("name", "the data set"))
        )


def task_names() -> list[str]:
    """The tasks in `recipes/tasks/`."""
    return sorted(path.stem for path in TASKS.glob("[a-z]*.py"))


def task_module(config):
    """The module that `config.task` names.

    Args:
        config: `ml_collections.ConfigDict`; its `task` is a module of `recipes/tasks/`, or the
            dotted name of a module elsewhere.

    Raises:
        ValueError: no such task.
    """
    name = config.get("task")
    if not isinstance(name, str) or (name not in task_names() and "." not in name):
        raise ValueError(
            f"`config.task` must be one of {', '.join(task_names())}, or the dotted name of a "
            f"module with a class `Task`. Received {name!r}."
        )
    module_name = name if "." in name else f"recipes.tasks.{name}"
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or ""):
            raise
        raise ValueError(
            f"`config.task` is {name!r}, but there is no module {error.name!r}. "
            "Is its folder on PYTHONPATH?"
        ) from error


def make_task(config, workdir=None) -> Task:
    """The task that `config.task` names, made from `config`.

    Args:
        config: `ml_collections.ConfigDict`; its `task` is a module of `recipes/tasks/`, or the
            dotted name of a module elsewhere that has a class `Task`.
        workdir: folder of the run, for tasks that keep files there. Default None, none.

    Raises:
        ValueError: no such task, or a class that is not a complete `Task`; and what the task says
            about its own values.
    """
    module = task_module(config)
    made = getattr(module, "Task", None)
    if not isinstance(made, type) or not issubclass(made, Task):
        raise ValueError(f"{module.__name__}.Task must be a subclass of recipes.common.task.Task.")
    if made.__abstractmethods__:
        lacking = ", ".join(sorted(made.__abstractmethods__))
        raise ValueError(f"The class {module.__name__}.Task lacks {lacking}.")
    return made(config, workdir)
