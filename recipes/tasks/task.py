"""The protocol of a task: what a recipe trains, evaluates and exports."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence

import keras
import ml_collections
import tensorflow as tf

from mrl_keras.data import clear_image_errors
from mrl_keras.evaluation import EvaluationPass, Evaluator, Outputs, evaluate
from mrl_keras.export import export_saved_model
from recipes.common.evaluators import make_evaluators


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
    def train_data(
        self, batch_size: int, seed: int, shard: tuple[int, int] = (0, 1), start_step: int = 0
    ) -> tf.data.Dataset:
        """An endless dataset of (inputs, labels) or (inputs, labels, weights).

        Args:
            batch_size: int, rows of one batch of one worker.
            seed: int; the same seed gives the same batches, from any `start_step` on.
            shard: (index, count), the worker and how many there are. Default (0, 1).
            start_step: int, batches to leave out. Default 0.
        """

    def validation_data(self, batch_size: int) -> tf.data.Dataset | None:
        """A finite dataset like `train_data`'s, the same on every worker. Default None."""
        return None

    @abc.abstractmethod
    def build_model(self) -> keras.Model:
        """A new model, untrained and not compiled."""

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
        with self._clear_errors():
            return self.evaluation_pass(model).collect(names)

    def evaluate(self, model: keras.Model) -> Iterator[tuple[str, float]]:
        """Yields (name, value), such as ("top1/linear/8", 0.71), of `evaluators`.

        Raises:
            ValueError: no evaluator, or one that needs what `evaluation_pass` does not give.
        """
        with self._clear_errors():
            yield from evaluate(self.evaluation_pass(model), self.evaluators())

    @abc.abstractmethod
    def exported_parts(self, model: keras.Model) -> Mapping[str, object]:
        """The arguments of `export_saved_model` beside the directory: `encoder`, and where there
        are such `nesting_dims`, `classifier`, `index`, `plan`, `options`.

        Raises:
            ValueError: a model that is not to be exported.
        """

    def export(self, model: keras.Model, directory) -> str:
        """Writes `directory`/VERSION, a SavedModel of `exported_parts`; returns that folder."""
        return export_saved_model(directory, **self.exported_parts(model))

    def _clear_errors(self):
        return clear_image_errors(str((self.config.get("data") or {}).get("name", "the data set")))
