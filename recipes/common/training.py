"""From a config to a trained model in a work directory, resumable at every checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import keras
import ml_collections
import psutil
import tensorflow as tf

from mrl_keras.checks import whole_number
from mrl_keras.data import Sampling, explain_image_errors
from mrl_keras.distribution import (
    Checkpoints,
    distributed,
    global_batches,
    is_chief,
    strategy,
)
from mrl_keras.files import atomic_file
from recipes.common.finetuning import initialise, unfreeze
from recipes.common.optimizers import optimizer
from recipes.tasks import task

PRECISIONS = ("float32", "mixed_bfloat16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Run:
    """A work directory: the resolved config, checkpoints, logs, results."""

    workdir: str
    config: ml_collections.ConfigDict

    @classmethod
    def open(cls, workdir) -> Run:
        """The run of a work directory that `train` made.

        Raises:
            ValueError: no config there.
        """
        path = os.path.join(workdir, "config.json")
        if not os.path.exists(path):
            raise ValueError(f"{workdir} holds no config.json; train there first (train.py).")
        with open(path) as file:
            return cls(os.fspath(workdir), ml_collections.ConfigDict(json.load(file)))

    @property
    def checkpoints(self) -> Checkpoints:
        folder = os.path.join(self.workdir, "checkpoints")
        return Checkpoints(folder, self.config.to_dict())

    def path(self, name) -> str:
        return os.path.join(self.workdir, name)

    def cost(self) -> dict[str, float]:
        """CPU and wall seconds that training has taken so far."""
        path = self.path("cost.json")
        if not os.path.exists(path):
            return {"cpu_seconds": 0.0, "wall_seconds": 0.0}
        with open(path) as file:
            return json.load(file)

    def write_json(self, name, content):
        with atomic_file(self.path(name)) as temporary, open(temporary, "w") as file:
            json.dump(content, file, indent=2, sort_keys=True)
            file.write("\n")


def prepared(config, workdir=None):
    """Checks what every config has, and sets seeds and precision; gives the config's task.

    `workdir` is where a task keeps what it makes beside the checkpoints, such as a vocabulary.
    """
    if config.precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}. Received {config.precision!r}.")
    for name in ("batch_size", "steps", "checkpoint_every"):
        whole_number(config.get(name), f"`{name}`")
    if config.steps % config.checkpoint_every:
        raise ValueError(
            f"`checkpoint_every` must divide `steps`. Received {config.checkpoint_every} and "
            f"{config.steps}."
        )
    if config.jit_compile not in (True, False, "auto"):
        raise ValueError(
            f'`jit_compile` must be True, False or "auto". Received {config.jit_compile!r}.'
        )
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)
    return task(config, workdir)


def compiled(config, the_task):
    """The task's model, with the parts frozen that the config freezes, compiled."""
    model = the_task.model()
    unfreeze(config, model)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True  # statistics of the whole batch, where replicas share it
    weighted = getattr(the_task, "weighted_metrics", None)
    model.compile(
        optimizer=optimizer(config, model.trainable_variables),
        loss=the_task.loss(),
        metrics=the_task.metrics(),
        weighted_metrics=weighted() if weighted else None,
        jit_compile=config.jit_compile,
    )
    return model


def train(config, workdir, strategy_name="one_device", tpu=None, verbose="auto"):
    """Trains by a config, or goes on where an earlier run in the work directory stopped.

    Returns:
        The trained, compiled model.

    Raises:
        ValueError: values of the config that are out of range, or a work directory with
            checkpoints of another config.
    """
    scheme = strategy(strategy_name, tpu)
    run, chief = Run(os.fspath(workdir), config), is_chief(scheme)
    with scheme.scope():
        the_task = prepared(config, run.workdir)
        model = compiled(config, the_task)
        start = run.checkpoints.restore(model)
        if not start:
            initialise(config, model, Run.open)
    if chief:
        run.write_json("config.json", config.to_dict())
    if start >= config.steps:
        print(f"{workdir} is trained: {start} steps", flush=True)
        return model
    if start:
        print(f"Going on after step {start}", flush=True)

    def batches(rows, shard):
        return the_task.train_data(rows, Sampling(config.seed, *shard, start))

    logs = run.path("logs") if chief else run.path(f"logs_worker{scheme.cluster_resolver.task_id}")
    with distributed(model), explain_image_errors(str(config.data.get("name", "the data set"))):
        model.fit(
            global_batches(scheme, config.batch_size, batches),
            steps_per_epoch=config.checkpoint_every,
            initial_epoch=start // config.checkpoint_every,
            epochs=config.steps // config.checkpoint_every,
            validation_data=the_task.validation_data(config.batch_size),
            callbacks=[
                _Save(run.checkpoints, config.checkpoint_every, chief),
                _Throughput(config.batch_size),
                *([_Cost(run)] if chief else []),
                keras.callbacks.TensorBoard(logs, write_graph=False),
            ],
            verbose=verbose if chief else 0,
        )
    return model


def restored(run: Run):
    """(task, uncompiled model) of a run, with the weights of its newest checkpoint.

    Raises:
        ValueError: no checkpoint.
    """
    the_task = prepared(run.config, run.workdir)
    model = the_task.model()
    if not run.checkpoints.restore(model):
        raise ValueError(f"{run.workdir} holds no checkpoint; train there first (train.py).")
    return the_task, model


class _Save(keras.callbacks.Callback):
    """A checkpoint after every epoch, which is `checkpoint_every` steps."""

    def __init__(self, checkpoints, every, chief):
        super().__init__()
        self._checkpoints, self._every, self._chief = checkpoints, every, chief

    def on_epoch_end(self, epoch, logs=None):
        self._checkpoints.save(self.model, (epoch + 1) * self._every, write=self._chief)


class _Throughput(keras.callbacks.Callback):
    """Adds examples a second of the epoch to its logs; the first step, which compiles, left out."""

    def __init__(self, batch_size):
        super().__init__()
        self._rows, self._since, self._steps = batch_size, None, 0

    def on_epoch_begin(self, epoch, logs=None):
        self._since = None

    def on_train_batch_end(self, batch, logs=None):
        if self._since is None:
            self._since, self._steps = time.perf_counter(), 0
        else:
            self._steps += 1
            self._spent = time.perf_counter() - self._since

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and self._steps:
            logs["examples_per_second"] = round(self._steps * self._rows / self._spent, 1)


class _Cost(keras.callbacks.Callback):
    """What a run has cost so far, in cost.json: CPU and wall seconds of the process (start and
    reading included), added up over the restarts, written after every epoch."""

    def __init__(self, run):
        super().__init__()
        self._run, self._before = run, run.cost()

    def on_epoch_end(self, epoch, logs=None):
        since_start = {
            "cpu_seconds": time.process_time(),
            "wall_seconds": time.time() - psutil.Process().create_time(),
        }
        cost = {key: round(self._before[key] + value, 1) for key, value in since_start.items()}
        self._run.write_json("cost.json", cost)


def run_main(main, flags):
    """Runs a script: what its user can repair ends it with one clear line, not with a traceback."""
    from absl import app

    def guarded(arguments):
        if len(arguments) > 1:
            raise app.UsageError(f"Unknown arguments: {arguments[1:]}.")
        try:
            main(flags)
        except (ValueError, ImportError, OSError) as error:
            raise SystemExit(f"\nerror: {error}") from error  # a progress bar's line is not ended
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            raise SystemExit(
                "\nerror: another worker was lost "
                f"({error.message.splitlines()[0][:200]}). Start all workers again with the same "
                "--workdir: they go on from the newest checkpoint."
            ) from error

    def parsed(arguments):
        try:
            return app.parse_flags_with_usage(arguments)
        except (AttributeError, KeyError) as error:  # of ml_collections, for a name it lacks
            name = str(error).strip("\"'").splitlines()[0]
            raise SystemExit(
                f"error: {name!r} is no name in this config. Its file in recipes/configs/, and the "
                "*_defaults.py there, have them all."
            ) from error
        except (ValueError, TypeError, OSError) as error:
            raise SystemExit(f"error: {error}") from error

    app.run(guarded, flags_parser=parsed)
