"""The image classification recipes: each trains compiled, evaluates, exports and reloads."""

import csv
import importlib
import itertools
import pathlib

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaLoss
from mrl_keras.data import Sampling
from mrl_keras.export import export_saved_model, load
from recipes.common.optimizers import optimizer
from recipes.tasks.image_classification import Task, nesting_dims

RECIPES = pathlib.Path(__file__).parents[2] / "recipes"
CONFIGS = (
    "resnet50_imagenet",
    "vit_b16_jft",
    "cifar10_resnet",
    "cifar10_vit",
    "tiny_imagenet_resnet",
)


def get_config(name, mode="tiny", **changes):
    config = importlib.import_module(f"recipes.configs.{name}").get_config(mode)
    config.update(changes)
    return config


def compiled_task(name, jit_compile, **changes):
    """(task, compiled model) of a tiny configuration."""
    config = get_config(name, **changes)
    keras.utils.set_random_seed(0)
    task = Task(config)
    model = task.build_model()
    model.compile(
        optimizer(config, model.trainable_variables),
        task.loss(),
        metrics=task.metrics(),
        jit_compile=jit_compile,
    )
    return task, model


def train_two_steps(task, model):
    """Trains at static shapes; returns the logs."""
    data = task.train_data(task.config.batch_size, Sampling(task.config.seed))
    assert all(None not in spec.shape for spec in data.element_spec)
    history = model.fit(data, steps_per_epoch=2, epochs=1, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"][0])
    assert {f"top1_d{dim}" for dim in task.dims} <= set(history)


SLOW = (*CONFIGS, "resnet50_finetune", "cifar10_finetune")


@pytest.fixture(
    scope="module",
    params=[
        ("cifar10_resnet", False),
        *(pytest.param((name, True), marks=pytest.mark.slow) for name in SLOW),
    ],
    ids=str,
)
def trained(request):
    """(task, model, its weights before training) of one configuration, shared by the tests."""
    task, model = compiled_task(*request.param)
    before = [weight.numpy() for weight in model.trainable_variables]
    train_two_steps(task, model)
    return task, model, before


def test_a_compiled_step_trains_every_weight(trained):
    _, model, before = trained
    after = [weight.numpy() for weight in model.trainable_variables]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_evaluators_measure_the_head_and_the_neighbours(trained):
    task, model, _ = trained
    values = dict(task.evaluate(model))
    assert list(values) == [
        *(f"top1/linear/{dim}" for dim in task.dims),
        *(f"top1/1nn/{dim}" for dim in task.dims.with_interpolated()),
    ]
    check_linear(task, model, values)


def check_linear(task, model, values):
    """The accuracies of the head are those of the model on the images themselves."""
    test = task.test_images()
    right = np.asarray(model(test.images)).argmax(axis=-1) == test.labels[:, None]
    for dim, accuracy in zip(task.dims, right.mean(axis=0), strict=True):
        assert values[f"top1/linear/{dim}"] == pytest.approx(accuracy, abs=0.1)


@pytest.mark.slow
def test_the_exported_model_classifies_as_the_trained_one(trained, tmp_path):
    task, model, _ = trained
    served = load(export_saved_model(tmp_path / "model", **task.exported_parts(model)))
    images = task.source.test.images[:2].astype("float32")
    answer = served.signatures["classify"](**{served_input(served): images})["logits"]
    expected = model.predict_on_batch(images)[:, -1]
    np.testing.assert_allclose(answer.numpy(), expected, rtol=1e-3, atol=1e-3)


def served_input(served):
    (name,) = served.signatures["classify"].structured_input_signature[1]
    return name


def test_arrays_of_a_run(trained):
    """What a report reads: embeddings and logits of the same model, and a limited database."""
    task, model, _ = trained
    outputs = task.collect(model, ["logits", "labels", "embeddings"])
    assert outputs.names == ("logits", "labels", "embeddings")
    expected = model.predict_on_batch(task.test_images().images)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-3, atol=1e-3)
    assert outputs["embeddings"].shape == (16, task.dims.width)
    assert task.class_names() == [f"class {i}" for i in range(4)]
    limited = get_config("cifar10_resnet", evaluation={"database": 5})
    some = Task(limited)
    names = ["train_embeddings", "train_labels"]
    found = some.collect(some.build_model(), names)
    assert [len(found[name]) for name in names] == [5, 5]


@pytest.mark.parametrize("name", CONFIGS)
def test_full_size_values_are_the_papers(name):
    config = get_config(name, "")
    if name == "resnet50_imagenet":
        optimizer = config.optimizer
        assert (config.batch_size, config.steps, config.label_smoothing) == (512, 100_080, 0.1)
        assert (optimizer.learning_rate, optimizer.momentum) == (0.475, 0.9)
        assert optimizer.weight_decay == 1e-4
        assert tuple(config.data.resolution) == (160, 192)
        assert config.data.eval_resolution == 256
    expected = {
        "resnet50_imagenet": [8, 16, 32, 64, 128, 256, 512, 1024, 2048],
        "vit_b16_jft": [12, 24, 48, 96, 192, 384, 768],
        "cifar10_resnet": [2, 4, 8, 16, 32, 64],
        "cifar10_vit": [2, 4, 8, 16, 32, 64],
        "tiny_imagenet_resnet": [8, 16, 32, 64, 128],
    }[name]
    assert list(nesting_dims(config)) == expected


def test_ablations():
    config = get_config("resnet50_imagenet", "")
    assert list(nesting_dims(get_config("resnet50_imagenet", "", smallest_dim=4)))[:2] == [4, 8]
    config.spacing = "uniform"
    assert list(nesting_dims(config))[:3] == [8, 212, 416]
    config.head, config.ff_dim = "ff", 256
    assert list(nesting_dims(config)) == [256]
    boosted = get_config("cifar10_resnet", relative_importance="2:2,4:1.5")
    loss = Task(boosted).loss()
    assert isinstance(loss, MatryoshkaLoss)
    assert loss.relative_importance == (2.0, 1.5, 1.0, 1.0)


@pytest.mark.parametrize("head", ["mrl_e", "ff"])
def test_other_heads(head):
    task = Task(get_config("cifar10_resnet", head=head))
    model = task.build_model()
    assert model.output_shape == (None, 1 if head == "ff" else 4, 4)
    values = dict(task.evaluate(model))
    assert ("top1/linear/3" in values) == (head == "mrl_e")
    assert "top1/1nn/2" in values


@pytest.mark.slow
def test_a_compiled_step_trains_a_slimmable_network():
    train_two_steps(*compiled_task("cifar10_resnet", True, head="slimmable"))


def test_a_slimmable_network_is_measured_at_each_width(tmp_path):
    task = Task(get_config("cifar10_resnet", head="slimmable"))
    assert list(task.dims) == [4, 8, 12, 16]
    model = task.build_model()
    values = dict(task.evaluate(model))
    assert list(values) == [f"top1/{kind}/{m}" for kind in ("linear", "1nn") for m in task.dims]
    check_linear(task, model, values)
    with pytest.raises(ValueError, match="has no prefixes to serve"):
        task.exported_parts(model)


def test_a_resumed_run_reads_what_the_uninterrupted_one_would_have_read():
    task = Task(get_config("cifar10_resnet"))
    whole = list(itertools.islice(task.train_data(8, Sampling(3)), 12))
    later = list(itertools.islice(task.train_data(8, Sampling(3, start_step=7)), 5))
    for (a, b), (c, d) in zip(whole[7:], later, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "mlr"}, r"`head` must be one of .* Received 'mlr'"),
        ({"spacing": "even"}, "`spacing` must be one of"),
        ({"nesting_dims": (2, 4)}, "must end at the embedding width 16"),
        ({"relative_importance": "2=1"}, '`relative_importance` must list dims .* "2=1"|2=1'),
        ({"relative_importance": "3:1"}, r"must be one of the trained prefixes .* Received 3"),
        ({"head": "ff", "ff_dim": 99}, "`ff_dim` must not exceed the embedding width 16"),
        ({"head": "slimmable", "slimmable_widths": (0.5,)}, "`widths` must end at 1"),
        ({"model": {"backbone": "resnet51"}}, "backbone's name must be one of .*'resnet51'"),
        ({"data": {"augment": "mixup"}}, "`data.augment` must be one of"),
    ],
)
def test_wrong_values_are_one_clear_error(changes, message):
    config = get_config("cifar10_resnet", **changes)
    with pytest.raises(ValueError, match=message):
        task = Task(config)
        task.loss()
        task.build_model()


def test_missing_data_set(tmp_path):
    config = get_config("cifar10_resnet", "", data={"name": "nowhere", "data_dir": str(tmp_path)})
    with pytest.raises(ValueError, match=f"named 'nowhere', neither .* in {tmp_path}"):
        Task(config)


def test_unknown_mode():
    for name in CONFIGS:
        with pytest.raises(ValueError, match="must be 'tiny' or none. Received 'huge'"):
            get_config(name, "huge")


@pytest.mark.slow
def test_input_pipeline_benchmark(tmp_path):
    from recipes.benchmarks import input_pipeline

    output = tmp_path / "result.csv"
    input_pipeline.main(input_pipeline.parse_arguments(["--tiny", f"--output={output}"]))
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == ["pipeline", "step", "both"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)
