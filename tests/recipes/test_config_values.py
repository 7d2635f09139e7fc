"""Values of a config do what they say, through train.py."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.recipe_runs import (
    RESNET,
    SGD,
    VIT,
    finish,
    lengths,
    run_here,
    start,
    weights,
)

CONSTANT = ("--config.optimizer.schedule=constant", "--config.optimizer.warmup_steps=0")


def model_weights(workdir):
    return {name: v for name, v in weights(workdir).items() if name.startswith("model.")}


@pytest.mark.slow
def test_micro_batches_and_replicas_equal_one_large_batch(tmp_path):
    ablations = "--config.spacing=uniform", "--config.dims_count=3", "--config.smallest_dim=8"
    ablations += ("--config.relative_importance=8:2,16:1.5",)
    common = *SGD, *CONSTANT, *ablations, "--evaluate=False"
    four = "--config.batch_size=4", "--config.gradient_accumulation=4", *lengths(80, 80)
    runs = {
        "one": lengths(20, 20),
        "accumulated": four,
        "mirrored": (*lengths(20, 20), "--strategy=mirrored", "--logical_cpus=2"),
    }
    # Processes of their own: seeds set again do not reach tf_keras, which Model Garden's ViT uses.
    started = [
        start("train.py", VIT, *common, *arguments, f"--workdir={tmp_path / name}")
        for name, arguments in runs.items()
    ]
    for process in started:
        code, output = finish(process)
        assert code == 0, output[-3000:]
        for dim in (8, 16, 24):
            assert f"val_top1_d{dim}" in output
    one = model_weights(tmp_path / "one")
    for name in ("accumulated", "mirrored"):
        other = model_weights(tmp_path / name)
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=2e-5, err_msg=key)


def scalars(folder):
    """{tag: values over the epochs} of TensorBoard's logs."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """A run's folder and output: bfloat16, a linear schedule, M = 4, 8 with weights."""
    folder = tmp_path_factory.mktemp("curves")
    output = run_here(
        "train.py", RESNET, *lengths(20, 5), f"--workdir={folder}",
        "--config.precision=mixed_bfloat16", "--config.smallest_dim=4",
        "--config.embedding_width=8",
        "--config.relative_importance=4:2,8:1.5", "--config.optimizer.learning_rate=0.01",
        "--config.optimizer.schedule=linear", "--config.optimizer.warmup_steps=10",
        "--config.model.options.filters=(8,)",
    )  # fmt: skip
    return folder, output


def test_precision_keeps_the_weights_in_float32(curves):
    folder, output = curves
    assert output.count("examples_per_second") >= 4
    assert all(v.dtype == "float32" for n, v in model_weights(folder).items() if v.ndim > 1)


def test_dims_have_curves_and_results(curves):
    folder, _ = curves
    for split in ("train", "validation"):
        found = scalars(folder / "logs" / split)
        for dim in (4, 8):
            assert len(found[f"epoch_top1_d{dim}"]) == 4
        assert "epoch_top1_d2" not in found
    with open(folder / "results.csv", newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"top1/linear/4", "top1/linear/8"} <= names
    assert "top1/linear/2" not in names


def test_the_schedule_is_the_configs(curves):
    rates = scalars(curves[0] / "logs" / "train")["epoch_learning_rate"]
    np.testing.assert_allclose(rates, [0.005, 0.01, 0.005, 0.0], atol=1e-7)
