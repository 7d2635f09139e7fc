"""Whole runs of train.py, evaluate.py and export.py."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from tests.support.recipe_runs import (
    RECIPES,
    RESNET,
    SGD,
    SMALL,
    VIT,
    assert_weights,
    finish,
    lengths,
    run,
    run_here,
    start,
    wait_for_checkpoint,
    weights,
)

WITHOUT_DROPOUT = "--config.model.dropout=0.0", "--config.model.attention_dropout=0.0"
SHORT = *SMALL, *lengths(40, 10)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run_here("train.py", *SHORT, f"--workdir={folder}")


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


def test_a_stopped_run_goes_on_bit_for_bit(uninterrupted, tmp_path):
    folder, _ = uninterrupted
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "step-000000040.npz").unlink()
    output = run_here("train.py", *SHORT, f"--workdir={tmp_path}", "--evaluate=False")
    assert "Going on after step 30" in output
    assert_weights(weights(folder), weights(tmp_path))


def test_a_trained_run_is_left_alone(uninterrupted):
    folder, _ = uninterrupted
    before = weights(folder)
    output = run_here("train.py", *SHORT, f"--workdir={folder}", "--evaluate=False")
    assert "is trained: 40 steps" in output
    assert_weights(before, weights(folder))


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_for_bit(tmp_path):
    long = *SMALL, *lengths(400, 10), "--evaluate=False"
    run_here("train.py", *long, f"--workdir={tmp_path / 'whole'}")
    arguments = *long, f"--workdir={tmp_path / 'killed'}"
    process = start("train.py", *arguments)
    wait_for_checkpoint(tmp_path / "killed", [process])
    os.kill(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert "Going on after step" in run("train.py", *arguments)
    assert_weights(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_evaluate_reads_the_work_directory(uninterrupted):
    folder, _ = uninterrupted
    before = (folder / "results.csv").read_text()
    run_here("evaluate.py", f"--workdir={folder}")
    assert (folder / "results.csv").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config.head=mlr"], "`head` must be one of"),
        (["--config.steps=7", "--config.checkpoint_every=2"], "`checkpoint_every` must divide"),
        (["--config.optimizer.name=sdg"], "`optimizer.name` must be one of"),
        (["--config.precision=float8"], "`precision` must be one of"),
        (["--config.data.name=cifra10"], "No image classification set is named 'cifra10'"),
        (["--strategy=multi_worker"], "The strategy 'multi_worker' reads the environment"),
    ],
)
def test_a_wrong_value_is_one_clear_line(arguments, text, tmp_path):
    with pytest.raises(SystemExit, match=f"^\nerror: {text}"):
        run_here("train.py", RESNET, f"--workdir={tmp_path}", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_work_directory_of_another_config(uninterrupted):
    folder, _ = uninterrupted
    before = weights(folder)
    with pytest.raises(SystemExit, match="another configuration: seed is 0 there and 5 here"):
        run_here("train.py", *SHORT, f"--workdir={folder}", "--config.seed=5")
    assert_weights(before, weights(folder))


def scripts():
    """Those that a user starts."""
    files = (path for path in RECIPES.rglob("*.py") if path.parent.name != "parts")
    return [path for path in files if '__name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("path", scripts(), ids=lambda path: str(path.relative_to(RECIPES)))
def test_a_script_started_as_a_file_finds_the_repository(path):
    levels = len(path.relative_to(RECIPES).parts)
    found = re.findall(
        r"^if not __package__:.*\n    sys\.path\[0\] = .*\.parents\[(\d)\]\)$",
        path.read_text(),
        re.MULTILINE,
    )
    assert found == [str(levels)]


def test_scripts_alone_are_at_the_root_of_the_recipes():
    names = {path.name for path in RECIPES.glob("*.py")} - {"__init__.py"}
    assert names == {path.name for path in scripts() if path.parent == RECIPES}


AT_EXIT = """
import atexit, json, os, sys

@atexit.register
def write():
    from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES
    sys.modules.pop("__mp_main__", None)  # multiprocessing's other name of the object __main__
    modules = dict(sys.modules).items()
    files = {name: module.__file__ for name, module in modules if getattr(module, "__file__", None)}
    names = GLOBAL_CUSTOM_NAMES.items()  # with the stand-ins of classes that came later
    classes = [name for one, name in names if not hasattr(one, "stands_in")]
    with open(os.environ["LOADED"], "w") as file:
        json.dump({"files": files, "classes": classes}, file)
"""


@pytest.mark.slow
def test_a_file_and_a_module_load_each_module_once(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(AT_EXIT)
    root, processes = RECIPES.parent, {}
    for script, paths in {"train.py": [tmp_path], "recipes.train": [tmp_path, root]}.items():
        processes[script] = start(
            script, *SMALL, *lengths(4, 4),
            f"--workdir={tmp_path / script}", cwd=tmp_path,
            LOADED=str(tmp_path / f"{script}.json"), PYTHONPATH=os.pathsep.join(map(str, paths)),
        )  # fmt: skip
    for process in processes.values():
        code, output = finish(process)
        assert code == 0, output[-3000:]
    for script in processes:
        loaded = json.loads((tmp_path / f"{script}.json").read_text())
        ours = str(RECIPES), str(root / "mrl_keras")  # an environment may lie in the checkout
        files = {name: file for name, file in loaded["files"].items() if file.startswith(ours)}
        assert files["recipes.tasks.image_classification"].startswith(str(RECIPES))
        assert len(files) > 30
        assert len(set(files.values())) == len(files)
        # ml_collections loads the config's file, which nothing else imports, by a name of its own.
        names = [name for name in files if not name.startswith(("recipes.", "mrl_keras"))]
        assert {"__main__", "recipes"} >= {name for name in names if "config" not in name}
        assert len(set(loaded["classes"])) == len(loaded["classes"])
    assert_weights(*(weights(tmp_path / script) for script in processes))


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


def finish_all(processes, code=0):
    """What processes print, which must end with a status."""
    found = [finish(process) for process in processes]
    assert [one for one, _ in found] == [code] * len(found), [text[-3000:] for _, text in found]
    return [text for _, text in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "steps", "importance"),
    [(VIT, 20, "adaloss"), (RESNET, 4, "")],
    ids=["ViT, weights that adapt", "ResNet, synchronised batch norm"],
)
def test_two_workers_equal_one_process(config, steps, importance, tmp_path):
    arguments = *lengths(steps, steps), *SGD, f"--config.relative_importance={importance}"
    both = workers(config, tmp_path / "two", *arguments)
    run("train.py", config, f"--workdir={tmp_path / 'one'}", "--evaluate=False", *arguments)
    finish_all(both)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert_weights(one, two, rtol=1e-4, atol=2e-5)
    # The weights of the losses are among them, and did adapt.
    adapted = [value for name, value in two.items() if name.endswith("adaloss/weights")]
    assert len(adapted) == bool(importance)
    assert all(np.ptp(value) > 1e-3 for value in adapted)


@pytest.mark.slow
def test_masked_lm_on_two_workers_equals_one_process(tmp_path):
    # Dropout draws other masks on each replica; XLA has no collectives on CPU.
    config = f"--config={RECIPES}/configs/wikitext2_mlm.py:tiny"
    arguments = (
        *lengths(8, 8),
        *SGD,
        "--config.jit_compile=False",
        *WITHOUT_DROPOUT,
    )
    run("train.py", config, f"--workdir={tmp_path / 'one'}", "--evaluate=False", *arguments)
    finish_all(workers(config, tmp_path / "two", *arguments))
    assert_weights(weights(tmp_path / "one"), weights(tmp_path / "two"), rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_sigterm_at_one_worker_stops_both_after_the_same_step(tmp_path):
    arguments = *lengths(400, 40), *SGD
    both = workers(VIT, tmp_path / "stopped", *arguments)
    wait_for_checkpoint(tmp_path / "stopped", both)
    both[1].terminate()
    outputs = finish_all(both, code=75)
    (step,) = {int(re.search(r"Stopped by SIGTERM after step (\d+)", o)[1]) for o in outputs}
    assert (tmp_path / "stopped" / "checkpoints" / f"step-{step:09d}.npz").exists()
    for folder, goes_on in (("stopped", True), ("whole", False)):
        for output in finish_all(workers(VIT, tmp_path / folder, *arguments)):
            assert (f"Going on after step {step}" in output) == goes_on
    assert_weights(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


@pytest.mark.slow
def test_a_lost_worker_stops_the_other_and_a_restart_goes_on_bit_for_bit(tmp_path):
    arguments = *lengths(200, 20), *SGD
    both = workers(VIT, tmp_path / "lost", *arguments)
    wait_for_checkpoint(tmp_path / "lost", both)
    both[1].kill()
    since = time.monotonic()
    code, output = finish(both[0], timeout=90)
    assert time.monotonic() - since < 60
    assert code == 75
    assert "another worker was lost" in output, output[-3000:]
    finish(both[1])
    for folder, goes_on in (("lost", True), ("whole", False)):
        for output in finish_all(workers(VIT, tmp_path / folder, *arguments)):
            assert ("Going on after step" in output) == goes_on
    assert (tmp_path / "lost" / "checkpoints" / "step-000000200.npz").exists()
    assert_weights(weights(tmp_path / "whole"), weights(tmp_path / "lost"))
