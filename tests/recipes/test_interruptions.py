"""Runs that are stopped at random moments: nothing is lost that need not be, and the end is the
same bit for bit."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from mrl_keras.distribution import Checkpoints, Interrupted
from mrl_keras.files import join, open_file
from recipes.common.training import epochs_from, train
from tests.support.recipe_runs import assert_weights, weights
from tests.support.remote import Stopped, new_folder, stop_writes
from tests.support.small_run import small_config


@pytest.mark.slow
def test_twenty_kills_lose_nothing_that_need_not_be_lost(tmp_path):
    from tests.support import killed_training

    command = [sys.executable, "-m", "tests.support.killed_training", str(tmp_path), "7"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    kills = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert len(kills) == killed_training.KILLS
    before = 0
    for kill in kills:
        assert kill["first"] == before + 1
        if kill["signal"] == "SIGTERM":
            assert kill["code"] == 75
            # The step that the signal met is saved before it is counted; in the validation after
            # a checkpoint, there is nothing to save.
            saved = kill["checkpoint"] - kill["last"]
            assert saved == 1 or (saved == 0 and not kill["last"] % killed_training.EVERY)
        else:
            assert kill["code"] == -signal.SIGKILL
            assert kill["checkpoint"] >= kill["last"] - killed_training.EVERY
        before = kill["checkpoint"]
    assert sum(kill["remains"] for kill in kills) >= 3  # killed while a checkpoint was written
    assert any(kill["checkpoint"] % killed_training.EVERY for kill in kills)
    names = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert len(names) == 2
    assert_weights(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


class Steps(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(int(self.model.optimizer.iterations))


def remote_weights(folder):
    checkpoints = Checkpoints(join(folder, "checkpoints"), {})
    with open_file(checkpoints.path(checkpoints.steps()[-1]), "rb") as file, np.load(file) as saved:
        return {name: saved[name] for name in saved.files if name != "about"}


@pytest.mark.slow
def test_remote_writes_that_stop_lose_nothing_that_need_not_be_lost(tmp_path, monkeypatch):
    config, rng, folder = small_config(60, 10), np.random.default_rng(3), new_folder()
    train(config, tmp_path, verbose=0)
    checkpoints = Checkpoints(join(folder, "checkpoints"), {})
    stops, before = 0, 0
    for _ in range(30):
        steps = Steps()
        with monkeypatch.context() as patch:
            stop_writes(patch, int(rng.integers(0, 16)), for_good=True)
            with contextlib.suppress(Stopped):
                train(config, folder, verbose=0, callbacks=[steps])
                break
        stops += 1
        newest = checkpoints.steps()[-1] if checkpoints.steps() else 0
        if steps.seen:
            assert steps.seen[0] == before + 1
            assert newest >= steps.seen[-1] + 1 - config.checkpoint_every
        before = newest
    assert stops >= 5
    assert_weights(weights(tmp_path), remote_weights(folder))


class Kill(keras.callbacks.Callback):
    """Sends this process SIGTERM after a step, or in the validation after it."""

    def __init__(self, step, validating=False):
        super().__init__()
        self._step, self._validating = step, validating

    def on_train_batch_end(self, batch, logs=None):
        if not self._validating and int(self.model.optimizer.iterations) == self._step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_test_begin(self, logs=None):
        if self._validating and int(self.model.optimizer.iterations) == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_sigterm_saves_the_next_step_and_the_status_says_start_again(tmp_path, capsys):
    config = small_config(20, 10)
    train(config, tmp_path / "whole", verbose=0)
    before = signal.getsignal(signal.SIGTERM)
    for kill, saved in ((Kill(3), 4), (Kill(9), 10), (Kill(20, validating=True), 20)):
        with pytest.raises(Interrupted) as stopped:
            train(config, tmp_path / "stopped", verbose=0, callbacks=[kill])
        assert (stopped.value.code, stopped.value.step) == (75, saved)
        assert f"Stopped by SIGTERM after step {saved}" in capsys.readouterr().out
        assert Checkpoints(tmp_path / "stopped" / "checkpoints", {}).steps()[-1] == saved
        assert signal.getsignal(signal.SIGTERM) is before
    train(config, tmp_path / "stopped", verbose=0)
    assert "is trained: 20 steps" in capsys.readouterr().out
    assert_weights(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_a_run_that_stopped_within_an_epoch_finishes_it_first():
    config = small_config(40, 10)
    assert list(epochs_from(0, config)) == [(0, 10, 4)]
    assert list(epochs_from(20, config)) == [(20, 10, 4)]
    assert list(epochs_from(13, config)) == [(13, 7, 2), (20, 10, 4)]
    assert list(epochs_from(39, config)) == [(39, 1, 4)]
