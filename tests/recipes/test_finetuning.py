"""Finetuning by config: whole runs that start from another run's weights."""

import importlib
import os
import signal
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.data import Sampling, write_vocabulary
from mrl_keras.models import GardenBert
from mrl_keras.models.garden.hub_preset import bert_arrays
from recipes.common.finetuning import freeze_parts, load_initial_weights
from recipes.common.run import Run
from recipes.common.task import make_task
from recipes.common.training import train
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
    assert f"starts from {pretrained}, without 2 arrays of its head" in output
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
        (
            {"init_from": "imagenet"},
            "that are of keras.applications, .* Received the backbone 'small_resnet'",
        ),
    ],
)
def test_a_start_that_is_not_there(values, text):
    config = finetuned(**values)
    with pytest.raises(ValueError, match=text):
        load_initial_weights(task := make_task(config), task.build_model())


def test_weights_of_keras_applications(monkeypatch):
    config = finetuned(init_from="imagenet")
    config.data.made_shape = (32, 32, 3)
    config.model.backbone = "applications:MobileNetV2"
    config.model.options = {"alpha": 0.35}
    config.embedding_width, config.smallest_dim = 1280, 160
    task = make_task(config)
    model = task.build_model()
    asked, made = [], keras.applications.MobileNetV2

    def without_download(**options):
        asked.append(options.pop("weights"))
        return made(weights=None, **options)

    monkeypatch.setattr(keras.applications, "MobileNetV2", without_download)
    source = []
    monkeypatch.setattr(
        "recipes.common.finetuning.load_backbone",
        lambda model, weights, head: source.append((model, weights)),
    )
    load_initial_weights(task, model)
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


BERT = {"hidden_size": 24, "num_layers": 1, "num_heads": 2, "inner_dim": 32}


def text_config(name, **values):
    """A tiny configuration whose BERT is that of the tiny masked language model."""
    config = importlib.import_module(f"recipes.configs.{name}").get_config("tiny")
    config.smallest_dim = 6
    for part in ("model", "text"):
        if "options" in config.get(part, {}):
            config[part].options.update(BERT)
    config.update(values)
    return config


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory):
    """The work directory of a masked language model after one step."""
    folder = tmp_path_factory.mktemp("masked_lm")
    config = text_config("wikitext2_mlm", steps=1, checkpoint_every=1)
    config.optimizer.warmup_steps = 0
    train(config, folder, verbose=0)
    return folder


def start_of(config, folder):
    """(model before a first step, what was printed), as `train` makes it."""
    task = make_task(config, folder)
    model = task.build_model()
    load_initial_weights(task, model)
    return task, model


@pytest.mark.slow
def test_text_tasks_start_from_a_masked_language_model(masked_lm, tmp_path, capsys):
    arrays = Run.open(masked_lm).checkpoints.model_arrays()
    pieces = (masked_lm / "vocabulary.txt").read_text()
    captions = {"embedding_width": 24, "init_from": str(masked_lm)}
    configs = {
        "sts": text_config("sts_text_embedder", init_from=str(masked_lm)),
        "emoji": text_config("emoji_captions", **captions),
        "mlm": text_config("wikitext2_mlm", init_from=str(masked_lm)),
    }
    for name, config in configs.items():
        task, model = start_of(config, tmp_path / name)
        assert f"bert starts from {masked_lm}" in capsys.readouterr().out
        assert (tmp_path / name / "vocabulary.txt").read_text() == pieces
        bert = next(layer for layer in model._flatten_layers() if isinstance(layer, GardenBert))
        assert len(bert.adopted) == 21
        for variable in bert.adopted:
            wanted = arrays[f"bert/{variable.name}"]
            rows = variable.shape[0]  # fewer words and positions than the source has
            np.testing.assert_array_equal(variable.numpy(), wanted[:rows], err_msg=variable.name)
        assert next(iter(task.train_data(4, Sampling(0))))


def test_a_text_task_refuses_another_network(masked_lm, tmp_path):
    config = text_config("sts_text_embedder", init_from=str(masked_lm))
    config.model.options.hidden_size = 12
    with pytest.raises(ValueError, match=r"another backbone: bert/word_embeddings.embeddings must"):
        start_of(config, tmp_path)


@pytest.mark.slow
def test_text_tasks_start_from_a_model_garden_checkpoint(tmp_path):
    bert = GardenBert(120, **BERT, max_length=12, pooler=False)
    path = tf.train.Checkpoint(encoder=bert.network).write(str(tmp_path / "bert_model.ckpt"))
    write_vocabulary(str(tmp_path / "vocab.txt"), ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [
        f"w{i}" for i in range(115)
    ])  # fmt: skip
    _, model = start_of(text_config("sts_text_embedder", init_from=path), tmp_path / "run")
    found = model.get_layer("embedder").get_layer("bert").adopted
    for one, two in zip(found, bert.adopted, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


@pytest.mark.slow
def test_text_tasks_start_from_a_preset_of_keras_hub(tmp_path):
    hub = pytest.importorskip("keras_hub")
    theirs = hub.models.BertBackbone(
        vocabulary_size=120, num_layers=1, num_heads=2, hidden_dim=24, intermediate_dim=32,
        max_sequence_length=16,
    )  # fmt: skip
    theirs.save_to_preset(str(tmp_path / "preset"))
    write_vocabulary(str(tmp_path / "preset" / "vocab.txt"), ["[PAD]", "[UNK]", "[CLS]", "[SEP]",
        "[MASK]"] + [f"w{i}" for i in range(115)])  # fmt: skip
    config = text_config("sts_text_embedder", init_from=str(tmp_path / "preset"))
    _, model = start_of(config, tmp_path / "run")
    bert = model.get_layer("embedder").get_layer("bert")
    tokens = np.random.default_rng(0).integers(0, 120, (3, 12))
    inputs = {"input_word_ids": tokens, "input_mask": np.ones_like(tokens)}
    ours = bert({**inputs, "input_type_ids": np.zeros_like(tokens)})["sequence_output"]
    names = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    wanted = theirs({**names, "segment_ids": np.zeros_like(tokens)})["sequence_output"]
    np.testing.assert_allclose(ours, wanted, atol=3e-3)  # two kinds of GELU


def test_a_preset_without_keras_hub_names_the_package(tmp_path, monkeypatch):
    for name in ("config.json", "model.weights.h5"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match="needs KerasHub.*mrl_keras.hub"):
        bert_arrays(str(tmp_path))
