"""Whole runs of train.py, evaluate.py and export.py in processes of their own."""

import csv
import json
import os
import signal
import socket
import time

import pytest

from tests.support.recipe_runs import (
    RESNET,
    SGD,
    VIT,
    assert_weights,
    finish,
    lengths,
    run,
    start,
    wait_for_checkpoint,
    weights,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    output = run("train.py", RESNET, *lengths(40, 10), f"--workdir={folder}")
    return folder, output


def test_a_run_writes_config_checkpoints_logs_and_results(uninterrupted):
    folder, output = uninterrupted
    config = json.loads((folder / "config.json").read_text())
    assert (config["steps"], config["task"]) == (40, "image_classification")
    steps = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert steps == ["step-000000030.npz", "step-000000040.npz"]
    assert list((folder / "logs" / "train").iterdir())
    assert "examples_per_second" in output
    cost = json.loads((folder / "cost.json").read_text())
    assert cost["cpu_seconds"] > 0
    assert cost["wall_seconds"] > 0
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"40"}
    assert {"top1/linear/8", "top1/1nn/8"} <= {row["name"] for row in rows}
    assert all(0.0 <= float(row["value"]) <= 1.0 for row in rows)


def test_a_killed_run_goes_on_bit_for_bit(uninterrupted, tmp_path):
    arguments = RESNET, *lengths(40, 10), f"--workdir={tmp_path}"
    process = start("train.py", *arguments, "--evaluate=False")
    wait_for_checkpoint(tmp_path, [process])
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert "Going on after step" in run("train.py", *arguments, "--evaluate=False")
    assert_weights(weights(uninterrupted[0]), weights(tmp_path))
    assert "is trained: 40 steps" in run("train.py", *arguments, "--evaluate=False")


def test_evaluate_and_export_read_the_work_directory(uninterrupted, tmp_path):
    folder, _ = uninterrupted
    before = (folder / "results.csv").read_text()
    run("evaluate.py", f"--workdir={folder}")
    assert (folder / "results.csv").read_text() == before
    for version in ("1", "2"):
        output = run("export.py", f"--workdir={folder}", f"--output={tmp_path}")
        assert f"Exported {tmp_path}/{version}" in output
    assert (tmp_path / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config.unknown=1"], "unknown"),
        (["--config.head=mlr"], "error: `head` must be one of"),
        (["--config.steps=7", "--config.checkpoint_every=2"], "error: `checkpoint_every` must div"),
        (["--config.optimizer.name=sdg"], "error: `optimizer.name` must be one of"),
        (["--config.precision=float8"], "error: `precision` must be one of"),
        (["--config.data.name=cifra10"], "error: No image classification set is named 'cifra10'"),
        (["--strategy=multi_worker"], "error: The strategy 'multi_worker' reads the environment"),
    ],
)
def test_one_clear_line(arguments, text, tmp_path):
    code, output = finish(start("train.py", RESNET, f"--workdir={tmp_path}", *arguments))
    assert code != 0
    assert text in output
    if text.startswith("error"):
        assert "Traceback" not in output


def test_a_work_directory_of_another_config(uninterrupted):
    folder, _ = uninterrupted
    before = weights(folder)
    arguments = *lengths(40, 10), f"--workdir={folder}", "--config.seed=5"
    code, output = finish(start("train.py", RESNET, *arguments))
    assert code != 0
    assert "is of another configuration: seed is 0 there and 5 here" in output
    assert_weights(before, weights(folder))


def workers(config, folder, *arguments):
    """Two worker processes on this machine."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        start(
            "train.py", config, f"--workdir={folder}", "--strategy=multi_worker", *arguments,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "steps"), [(VIT, 20), (RESNET, 4)], ids=["ViT", "ResNet, synchronised batch norm"]
)
def test_two_workers_equal_one_process(config, steps, tmp_path):
    arguments = *lengths(steps, steps), *SGD
    both = workers(config, tmp_path / "two", *arguments)
    run("train.py", config, f"--workdir={tmp_path / 'one'}", "--evaluate=False", *arguments)
    for process in both:
        code, output = finish(process)
        assert code == 0, output[-3000:]
    assert_weights(weights(tmp_path / "one"), weights(tmp_path / "two"), rtol=1e-4, atol=2e-5)


def test_a_lost_worker_stops_the_other_and_a_restart_goes_on_bit_for_bit(tmp_path):
    arguments = *lengths(200, 20), *SGD
    both = workers(VIT, tmp_path / "lost", *arguments)
    wait_for_checkpoint(tmp_path / "lost", both)
    both[1].kill()
    since = time.monotonic()
    code, output = finish(both[0], timeout=90)
    assert time.monotonic() - since < 60
    assert code != 0
    assert "another worker was lost" in output, output[-3000:]
    finish(both[1])
    for folder, goes_on in (("lost", True), ("whole", False)):
        for process in workers(VIT, tmp_path / folder, *arguments):
            code, output = finish(process)
            assert code == 0, output[-3000:]
            assert ("Going on after step" in output) == goes_on
    assert (tmp_path / "lost" / "checkpoints" / "step-000000200.npz").exists()
    assert_weights(weights(tmp_path / "whole"), weights(tmp_path / "lost"))
