"""What a user can get wrong is one clear line, and costs no checkpoint."""

import importlib
import resource

import pytest

from mrl_keras.distribution import Checkpoints
from recipes.common import training
from tests.data import test_image_pipeline as images
from tests.support.recipe_runs import (
    RESNET,
    finish,
    lengths,
    run,
    run_here,
    start,
    wait_for_checkpoint,
    weights,
)

damaged, streamed = images.damaged, images.streamed


def streaming(builder, **data):
    """The tiny CIFAR-10 config over a set that is read while training, two images a step."""
    config = importlib.import_module("recipes.configs.cifar10_resnet").get_config("tiny")
    config.update({"batch_size": 2, "steps": 2, "checkpoint_every": 1})
    config.optimizer = {"name": "sgd", "learning_rate": 0.05}
    config.embedding_width, config.model.options.filters = 8, (8,)
    config.data.update(
        {
            "name": builder.info.full_name.rsplit("/", 1)[0],
            "data_dir": builder._data_dir_root,
            "in_memory": False,
            "augment": "random_resized_crop",
            "resolution": (16, 16),
            "eval_resolution": 16,
            "eval_split": "",
            "shuffle_buffer": 1,
            **data,
        }
    )
    return config


@pytest.mark.slow
def test_damaged_data_met_while_training_costs_no_checkpoint(damaged, tmp_path):
    kind, builder = damaged
    wanted = "Label out of range 0 to 3: 7 in .*record 2" if kind == "label" else "Corrupt image"
    with pytest.raises(ValueError, match=wanted) as raised:
        training.train(streaming(builder), tmp_path, verbose=0)
    assert "\n" not in str(raised.value)
    assert Checkpoints(tmp_path / "checkpoints", {}).steps() == [1]  # of the two images before it


def test_an_empty_split(streamed, tmp_path):
    config = streaming(streamed, train_split="empty")
    with pytest.raises(ValueError, match="The split 'empty' of 'streamed_images' .* is empty"):
        training.train(config, tmp_path, verbose=0)


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    arguments = RESNET, *lengths(200, 20), f"--workdir={tmp_path}", "--evaluate=False"
    process = start("train.py", *arguments)
    wait_for_checkpoint(tmp_path, [process])
    # From now on no file may grow beyond 32 KiB; a checkpoint is larger.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**15, 2**15))
    code, output = finish(process)
    assert code == 1
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "can't be written: File too large. Make room and start again" in line
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.suffix for path in kept] == [".npz"] * len(kept)
    assert f"goes on from step {int(kept[-1].stem[5:])}." in line
    before = weights(tmp_path)
    output = run("train.py", *arguments)
    assert f"Going on after step {int(kept[-1].stem[5:])}" in output
    assert before.keys() == weights(tmp_path).keys()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config.steps=ten"], "--config.steps=ten"),
        (["--config.unknown=1"], "'unknown' is no name in this config"),
        (["--config.optimizer.learning_rate=high"], "learning_rate=high"),
        (["--step=1"], "Unknown command line flag 'step'"),
        (["steps=1"], r"unknown arguments: \['steps=1'\]"),
        (["--config=nowhere.py"], "nowhere.py"),
        (["--logical_cpus=0"], "--logical_cpus=0"),
    ],
)
def test_wrong_flags(arguments, text, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: .*{text}") as raised:
        run_here("train.py", RESNET, f"--workdir={tmp_path}", *arguments)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_flags_that_are_missing():
    with pytest.raises(SystemExit, match="^error: .*--workdir must have a value"):
        run_here("train.py", RESNET)
    assert "--workdir: folder of the run" in run_here("train.py", "--help")


@pytest.mark.slow
def test_a_batch_that_the_replicas_cannot_share(tmp_path):
    arguments = "--strategy=mirrored", "--logical_cpus=3"
    code, output = finish(start("train.py", RESNET, f"--workdir={tmp_path}", *arguments))
    assert code == 1
    assert "error: `batch_size` is the global batch, and must be a multiple of the 3" in output
    assert "Traceback" not in output
    assert not (tmp_path / "checkpoints").exists()
