"""From a config to a trained model in a work directory, resumable from every step."""

from __future__ import annotations

import time

import keras
import psutil

from mrl_keras.checks import whole_number
from mrl_keras.data import Sampling
from mrl_keras.distribution import (
    Interrupted,
    Interruption,
    fit_distributed,
    is_chief,
    make_strategy,
)
from mrl_keras.files import write_json
from mrl_keras.losses import PrefixWeighting
from recipes.common.finetuning import freeze_parts, load_initial_weights
from recipes.common.optimizers import optimizer
from recipes.common.run import Run
from recipes.common.task import make_task

PRECISIONS = ("float32", "mixed_bfloat16", "bfloat16")


def check_config(config):
    """Checks the values that every config has.

    Raises:
        ValueError: a value out of range.
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


def set_up_task(config, workdir=None):
    """Checks a config, sets the precision and seeds of this process, and makes the config's task.

    Args:
        config: `ml_collections.ConfigDict`.
        workdir: folder of the run, where a task keeps files such as a vocabulary. Default None:
            nothing is kept.

    Raises:
        ValueError: a value out of range.
    """
    check_config(config)
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)
    return make_task(config, workdir)


def build_compiled_model(config, the_task):
    """The task's model, compiled, without the parts that the config freezes."""
    model = the_task.build_model()
    freeze_parts(config, model)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True  # statistics of the whole batch, where replicas share it
    loss = the_task.loss()
    weighting = getattr(loss, "relative_importance", None)
    adapting = [weighting] if isinstance(weighting, PrefixWeighting) else []  # logs its weights
    model.compile(
        optimizer=optimizer(config, model.trainable_variables),
        loss=loss,
        metrics=[*(the_task.metrics() or ()), *adapting] or None,
        weighted_metrics=the_task.weighted_metrics(),
        jit_compile=config.jit_compile,
    )
    return model


def load_trained(run: Run):
    """Loads the newest checkpoint of a run: (task, uncompiled model).

    Sets the precision and seeds of this process to the run's.

    Raises:
        ValueError: the run has no checkpoint.
    """
    the_task = set_up_task(run.config, run.workdir)
    model = the_task.build_model()
    if not run.checkpoints.restore(model):
        raise ValueError(f"{run.workdir} holds no checkpoint; train there first (train.py).")
    return the_task, model


def train(config, workdir, strategy_name="one_device", tpu=None, verbose="auto", callbacks=()):
    """Trains by a config, or goes on where an earlier run in the work directory stopped.

    Args:
        config: `ml_collections.ConfigDict`.
        workdir: folder of the run.
        strategy_name, tpu: of `mrl_keras.distribution.make_strategy`. Default one device.
        verbose: of `keras.Model.fit`. Default "auto".
        callbacks: further `keras.callbacks.Callback`s. Default none.

    Returns:
        The trained, compiled model.

    Raises:
        ValueError: values of the config that are out of range, or a work directory with
            checkpoints of another config.
        Interrupted: SIGTERM came, and a checkpoint of the last step is written.
    """
    strategy = make_strategy(strategy_name, tpu)
    run, chief = Run(workdir, config), is_chief(strategy)
    with Interruption(strategy) as interruption:
        with strategy.scope():
            the_task = set_up_task(config, run.workdir)
            model = build_compiled_model(config, the_task)
            start = run.checkpoints.restore(model)
            if not start:
                load_initial_weights(the_task, model)
        if chief:
            write_json(run.path("config.json"), config.to_dict())
        if start >= config.steps:
            print(f"{workdir} is trained: {start} steps", flush=True)
            return model
        if start:
            print(f"Going on after step {start}", flush=True)
        cost = _Cost(run, chief)
        save = _Save(run.checkpoints, config.checkpoint_every, chief, interruption, start)
        logs = "logs" if chief else f"logs_worker{strategy.cluster_resolver.task_id}"
        verbose = verbose if chief else 0
        watching = [_Throughput(config.batch_size), save, cost, *callbacks]
        try:
            with the_task.explain_errors():
                _fit_from(start, model, the_task, run.path(logs), watching, verbose)
        except Interrupted as stopped:
            cost.write()
            print(
                f"\nStopped by SIGTERM after step {stopped.step}, of which there is a checkpoint. "
                "The same command goes on from there.",
                flush=True,
            )
            raise
    return model


def epochs_from(start, config):
    """The calls of `fit` that train from a step to the end: (first step, steps, epochs) of each.

    An epoch is `checkpoint_every` steps. A run that was stopped within one first finishes it.
    """
    every = config.checkpoint_every
    begun = start % every
    if begun:
        yield start, every - begun, start // every + 1
        start += every - begun
    if start < config.steps:
        yield start, every, config.steps // every


def _fit_from(start, model, the_task, logs, callbacks, verbose):
    """`fit` from a step to the config's last one, on as many replicas as the model has."""
    config = the_task.config
    options = {
        "validation_data": the_task.validation_data(config.batch_size),
        "shuffle": False,  # the task shuffles
        "verbose": verbose,
    }
    for first, steps, epochs in epochs_from(start, config):

        def make_batches(rows, shard, first=first):
            return the_task.train_data(rows, Sampling(config.seed, *shard, first))

        options |= {
            "steps_per_epoch": steps,
            "initial_epoch": first // config.checkpoint_every,
            "epochs": epochs,
            "callbacks": [*callbacks, keras.callbacks.TensorBoard(logs, write_graph=False)],
        }
        if model.distribute_strategy.num_replicas_in_sync == 1:
            model.fit(make_batches(config.batch_size, (0, 1)), **options)
        else:
            fit_distributed(model, make_batches, config.batch_size, **options)


class _Save(keras.callbacks.Callback):
    """Saves a checkpoint every so many steps, and before an interruption, which it raises."""

    def __init__(self, checkpoints, every, chief, interruption, start):
        super().__init__()
        self._checkpoints, self._every, self._chief = checkpoints, every, chief
        self._interruption, self._step = interruption, start

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        interrupted = self._interruption.requested()
        if interrupted or not self._step % self._every:
            self._checkpoints.save(self.model, self._step, write=self._chief)
        if interrupted:
            raise Interrupted(self._step)

    def on_test_batch_end(self, batch, logs=None):
        if self._interruption.requested():  # the epoch's last step is saved
            raise Interrupted(self._step)


class _Throughput(keras.callbacks.Callback):
    """Adds examples a second to an epoch's logs, without its first step, which compiles."""

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
    """Writes cost.json after every epoch: CPU and wall seconds of the process since its start,
    added to those of the processes before it."""

    def __init__(self, run, chief):
        super().__init__()
        self._run, self._chief, self._before = run, chief, run.cost()

    def on_epoch_end(self, epoch, logs=None):
        self.write()

    def write(self):
        since_start = {
            "cpu_seconds": time.process_time(),
            "wall_seconds": time.time() - psutil.Process().create_time(),
        }
        cost = {key: round(self._before[key] + value, 1) for key, value in since_start.items()}
        if self._chief:
            write_json(self._run.path("cost.json"), cost)
