"""Finetuning by config: whole runs that start from another run's weights."""

import importlib
import os
import signal

import keras
import numpy as np
import pytest

from recipes.common.finetuning import freeze_parts, load_initial_weights
from recipes.common.task import make_task
from tests.support.recipe_runs import (
    RECIPES,
    SGD,
    assert_weights,
    finish,
    lengths,
    run,
    run_here,
    start,
    wait_for_checkpoint,
    weights,
)

TINY = f"--config={RECIPES}/configs/cifar10_finetune.py:tiny"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    resnet = f"--config={RECIPES}/configs/cifar10_resnet.py:tiny"
    head = "--config.head=ff", "--config.ff_dim=16"
    run_here("train.py", resnet, *head, *SGD, f"--workdir={folder}", "--evaluate=False")
    return folder


@pytest.mark.slow
def test_the_named_parts_alone_are_trained_and_a_second_start_goes_on(pretrained, tmp_path):
    arguments = TINY, *lengths(40, 10), "--config.unfrozen=head,embedding", "--evaluate=False"
    arguments += (f"--config.init_from={pretrained}",)
    output = run_here("train.py", *arguments, f"--workdir={tmp_path / 'whole'}")
    assert f"Starts from {pretrained}, without 2 arrays of its head" in output
    assert "weights: embedding, head" in output
    before, after = weights(pretrained), weights(tmp_path / "whole")
    names = [name for name in before if name.startswith("model/")][:-2]
    frozen = [name for name in names if np.array_equal(before[name], after[name])]
    assert names[:-2] == frozen  # all but the embedding's kernel and bias, moving statistics too
    assert len(frozen) > 20

    killed = f"--workdir={tmp_path / 'killed'}"
    process = start("train.py", *arguments, killed)
    wait_for_checkpoint(tmp_path / "killed", [process])
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    assert "Going on after step" in run("train.py", *arguments, killed)
    assert_weights(after, weights(tmp_path / "killed"))


def finetuned(**values):
    config = importlib.import_module("recipes.configs.cifar10_finetune").get_config("tiny")
    config.update(values)
    return config


def test_frozen_parts_need_pretrained_weights():
    config = finetuned(unfrozen="head")
    with pytest.raises(ValueError, match="freeze the rest at random weights: set `init_from` too"):
        freeze_parts(config, make_task(config).build_model())


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"init_from": "nowhere"}, "There is no such file at 'nowhere'"),
        ({"init_from": "imagenet"}, "is for backbones of keras.applications"),
    ],
)
def test_a_start_that_is_not_there(values, text):
    config = finetuned(**values)
    with pytest.raises(ValueError, match=text):
        load_initial_weights(config, make_task(config).build_model())


def test_weights_of_keras_applications(monkeypatch):
    config = finetuned(init_from="imagenet")
    config.data.made_shape = (32, 32, 3)
    config.model.backbone = "applications:MobileNetV2"
    config.model.options = {"alpha": 0.35}
    config.embedding_width, config.smallest_dim = 1280, 160
    model = make_task(config).build_model()
    asked, made = [], keras.applications.MobileNetV2

    def without_download(**options):
        asked.append(options.pop("weights"))
        return made(weights=None, **options)

    monkeypatch.setattr(keras.applications, "MobileNetV2", without_download)
    source = []
    monkeypatch.setattr(
        "recipes.common.finetuning.load_backbone",
        lambda model, weights: source.append((model, weights)),
    )
    load_initial_weights(config, model)
    assert asked == ["imagenet"]
    ((given, arrays),) = source
    backbone = [v for v in model.variables if not v.path.startswith("head")]
    assert given is model
    assert [a.shape for a in arrays] == [v.shape for v in backbone]


def test_full_size_values_are_the_papers():
    config = importlib.import_module("recipes.configs.resnet50_finetune").get_config()
    assert (config.steps, config.optimizer.learning_rate) == (10 * 2502, 0.1)
    assert (config.batch_size, config.optimizer.momentum) == (512, 0.9)
    assert config.optimizer.warmup_steps == 2 * 2502
    assert config.unfrozen == "head,stage5_block2*"
