import csv
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import NestingDims
from mrl_keras.data import LabelledImages
from mrl_keras.export import load_manifest
from mrl_keras.models import image_classifier
from recipes import quickstart
from recipes.common.export_options import ExportOptions
from recipes.common.planning import choose_plan, learn_cascade

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = str(ROOT / "recipes" / "quickstart.py")


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_short_run_does_everything(tmp_path):
    arguments = ["--epochs=1", "--width=8", "--max_examples=100", f"--output={tmp_path}"]
    process = run(*arguments)
    assert process.returncode == 0, process.stderr[-3000:]
    table = rows_of(tmp_path / "accuracy.csv")
    assert [(row["measure"], row["dims"]) for row in table] == [
        (measure, dim) for measure in ("linear", "1-NN", "tens digit") for dim in ("4", "8")
    ]
    for row in table:
        assert all(0.0 <= float(row[method]) <= 1.0 for method in quickstart.METHODS)
        if row["dims"] == "8":
            assert float(row["FF"]) == pytest.approx(float(row["Truncation"]), abs=1e-6)
    full_width, adaptive = rows_of(tmp_path / "deployment.csv")
    assert 4.0 <= float(adaptive["expected_dims"]) <= float(full_width["expected_dims"]) == 8.0
    for name in ("accuracy.png", "answers.png"):
        assert tf.io.decode_png((tmp_path / name).read_bytes()).shape[1] > 500
    model = tmp_path / "saved_models" / "digit_pairs"
    assert "quickstart.py --epochs=1" in (model / "README.md").read_text()
    manifest = load_manifest(str(model))
    assert {"classify", "classify_adaptive", "retrieve"} <= manifest["signatures"].keys()
    assert manifest["about"]["retrieval"]["plan"]["queries"]["held_out"] == 100
    assert process.stdout.count(", test image ") == quickstart.QUERIES


@pytest.fixture(scope="module")
def made():
    """Untrained models of 2 and 4 dims on made images of 2 classes."""
    rng = np.random.default_rng(0)
    splits = {
        name: LabelledImages(rng.integers(0, 17, (n, 8, 8, 1), "uint8"), np.arange(n) % 2)
        for name, n in (("train", 40), ("validation", 10), ("test", 20))
    }
    data = types.SimpleNamespace(name="made", class_names=("a", "b c"), **splits)
    dims = NestingDims([2, 4])
    wanted = {"MRL": (dims, False), "MRL-E": (dims, True)}
    wanted |= {f"FF-{dim}": (NestingDims([dim]), False) for dim in dims}

    def model(dims, efficient):
        images = keras.Input((8, 8, 1))
        embedding = keras.layers.Dense(4, name="embedding")(keras.layers.Flatten()(images))
        return image_classifier(keras.Model(images, embedding), 2, dims, efficient)

    models = {name: model(*some) for name, some in wanted.items()}
    return data, models, *quickstart.evaluate_all(models, data, dims)


def test_every_method_is_measured_at_every_dim(made):
    data, models, tables, outputs = made
    assert list(tables) == ["linear", "1-NN"]  # made images have no tens
    for table in tables.values():
        assert list(table.columns) == ["FF", "MRL", "MRL-E", "Truncation"]
        assert all(list(values) == [2, 4] for values in table.columns.values())
        assert table.columns["Truncation"][4] == table.columns["FF"][4]
    logits = keras.ops.convert_to_numpy(models["MRL"](data.test.images))
    expected = (logits[:, 1].argmax(axis=-1) == data.test.labels).mean()
    assert tables["linear"].columns["MRL"][4] == pytest.approx(expected)
    assert outputs["train_embeddings"].shape == (40, 4)
    widest = models["FF-4"]
    embedding = quickstart.encoder_of(widest).predict(data.test.images, verbose=0)
    kernel, bias = (np.asarray(one) for one in widest.get_layer("head").get_weights())
    cut = embedding[:, :2] @ kernel[:2] + bias
    expected = (cut.argmax(axis=-1) == data.test.labels).mean()
    assert tables["linear"].columns["Truncation"][2] == pytest.approx(expected)


def test_plan_and_cascade_are_chosen_on_validation_and_measured_on_test(made, tmp_path, capsys):
    data, models, _, outputs = made
    queries = quickstart.read_queries(models["MRL"], outputs, data)
    np.testing.assert_array_equal(queries.labels[queries.held_out], data.validation.labels)
    np.testing.assert_array_equal(queries.embeddings[queries.rest], outputs["embeddings"])
    corpus = quickstart.index_training_images(outputs, data)
    assert corpus.index.ids[:3].tolist() == ["a/0", "b_c/1", "a/2"]
    chosen = choose_plan(corpus, queries, ExportOptions(least_queries=1))
    head = models["MRL"].get_layer("head")
    policy, cascade = learn_cascade(head, outputs.dims, queries, data.class_names)
    answer = policy.decide(outputs["logits"])
    quickstart.report_deployment(chosen, cascade, tmp_path)
    full_width, adaptive = rows_of(tmp_path / "deployment.csv")
    assert float(adaptive["top1"]) == pytest.approx(np.mean(answer.classes == data.test.labels))
    assert float(adaptive["expected_dims"]) == pytest.approx(answer.dims.mean())
    assert float(full_width["MFLOPs"]) >= float(adaptive["MFLOPs"]) > 0.0
    assert "of 40 training images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_mistake_gives_one_clear_line_and_writes_nothing(tmp_path):
    process = run("--dataset=no_such_set", f"--output={tmp_path / 'out'}")
    assert process.returncode == 2
    assert "No image classification set is named 'no_such_set'" in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
    assert process.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no_such_option"], "unrecognized arguments: --no_such_option"),
        (["--epochs=0"], "--epochs must be above zero, not 0"),
        (["--epochs=many"], "argument --epochs: invalid int value: 'many'"),
        (["--smallest_dim=128"], "`smallest` must not exceed the embedding width 32"),
        (["--smallest_dim=32"], "--smallest_dim must be below --width"),
        (["--max_examples=99"], "at least 100 for 'digit_pairs'"),
        (["--image_size=16"], "`image_size` is for TFDS sets"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
