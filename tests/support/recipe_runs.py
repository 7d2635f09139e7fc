"""Runs of the recipes' scripts on tiny configurations, in this process or in one of their own."""

import contextlib
import importlib
import io
import os
import pathlib
import subprocess
import sys
import time
from unittest import mock

import keras
import numpy as np

from recipes.common.config_flags import run_main

RECIPES = pathlib.Path(__file__).parents[2] / "recipes"
RESNET, VIT = (f"--config={RECIPES}/configs/cifar10_{name}.py:tiny" for name in ("resnet", "vit"))
SGD = (
    "--config.optimizer.name=sgd",
    "--config.optimizer.weight_decay=0.0",
    "--config.optimizer.learning_rate=0.05",
)
# One stage and M = 2, 4, 8: a graph of few variables is traced in less time.
SMALL = RESNET, *SGD, "--config.model.options.filters=(8,)", "--config.embedding_width=8"


def start(script, *arguments, cwd=None, **variables):
    """A process of a script: "train.py" as a file, "recipes.train" as a module."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    command = [str(RECIPES / script)] if script.endswith(".py") else ["-m", script]
    return subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=cwd,
    )  # fmt: skip


def finish(process, timeout=600):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def run(script, *arguments, **options):
    """What a script prints in a process of its own, which must succeed."""
    code, output = finish(start(script, *arguments, **options))
    assert code == 0, output[-3000:]
    return output


def run_here(script, *arguments):
    """What a script prints, run in this process by its `main`; SystemExit where it fails."""
    module = importlib.import_module(f"recipes.{script.removesuffix('.py')}")
    define_flags = getattr(module, "define_flags", None) or module.define_workdir
    policy, output = keras.config.dtype_policy(), io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
            contextlib.redirect_stdout(output),
        ):
            run_main(module.main, define_flags)
    finally:
        keras.config.set_dtype_policy(policy)
    return output.getvalue()


def lengths(steps, every):
    return f"--config.steps={steps}", f"--config.checkpoint_every={every}"


def weights(workdir):
    """{name: value} of the newest checkpoint."""
    path = sorted((workdir / "checkpoints").glob("step-*.npz"))[-1]
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files if name != "about"}


def assert_weights(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name, value in one.items():
        if tolerance and "seed" not in name:
            np.testing.assert_allclose(two[name], value, err_msg=name, **tolerance)
        elif not tolerance:
            np.testing.assert_array_equal(two[name], value, err_msg=name)


def wait_for_checkpoint(workdir, processes, seconds=600):
    for _ in range(10 * seconds):
        if list((workdir / "checkpoints").glob("step-*.npz")):
            return
        for process in processes:
            assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.1)
    raise AssertionError("no checkpoint came")
