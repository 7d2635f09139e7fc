"""Runs of the recipes' scripts in processes of their own, on tiny configurations."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np

RECIPES = pathlib.Path(__file__).parents[2] / "recipes"
RESNET, VIT = (f"--config={RECIPES}/configs/cifar10_{name}.py:tiny" for name in ("resnet", "vit"))
SGD = (
    "--config.optimizer.name=sgd",
    "--config.optimizer.weight_decay=0.0",
    "--config.optimizer.learning_rate=0.05",
)


def start(script, *arguments, **variables):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.Popen(
        [sys.executable, str(RECIPES / script), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def finish(process, timeout=600):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def run(script, *arguments, **variables):
    code, output = finish(start(script, *arguments, **variables))
    assert code == 0, output[-3000:]
    return output


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
