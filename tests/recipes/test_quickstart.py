import csv
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

from mrl_keras import NestingDims
from mrl_keras.data import LabelledImages
from mrl_keras.models import image_classifier
from recipes import quickstart

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
    arguments = ["--epochs=1", "--width=16", "--smallest_dim=8", f"--output={tmp_path}"]
    process = run(*arguments)
    assert process.returncode == 0, process.stderr[-3000:]
    table = rows_of(tmp_path / "accuracy.csv")
    assert [row["dims"] for row in table] == ["8", "12", "16"]
    for row in table:
        for column in ("MRL linear", "MRL-E linear", "MRL 1-NN", "MRL-E 1-NN"):
            assert 0.0 < float(row[column]) <= 1.0
        assert (row["FF linear"] == "") == (row["dims"] == "12")
    retrieval = rows_of(tmp_path / "retrieval.csv")
    assert len(retrieval) == 3
    assert float(retrieval[1]["MFLOPs"]) < float(retrieval[0]["MFLOPs"])
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
    model = tmp_path / "saved_models" / "digits_mrl"
    assert (model / "1" / "saved_model.pb").exists()
    assert "quickstart.py --epochs=1" in (model / "README.md").read_text()
    assert process.stdout.count("query ") == 3


def test_the_table_has_trained_and_interpolated_dims():
    rng = np.random.default_rng(0)
    train, test = (
        LabelledImages(rng.integers(0, 17, (n, 8, 8, 1), "uint8"), np.arange(n) % 2)
        for n in (40, 20)
    )
    data, dims = types.SimpleNamespace(train=train, test=test), NestingDims([2, 4])
    prefixes = {"MRL": (dims, False), "MRL-E": (dims, True), "FF-2": (NestingDims([2]), False)}

    def model(dims, efficient):
        images = keras.Input((8, 8, 1))
        embedding = keras.layers.Dense(4, name="embedding")(keras.layers.Flatten()(images))
        return image_classifier(keras.Model(images, embedding), 2, dims, efficient)

    models = {name: model(*some) for name, some in prefixes.items()}
    table, outputs = quickstart.evaluate_all(models, data, dims)
    shown = {name: sorted(values) for name, values in table.columns.items()}
    assert shown == {
        "MRL linear": [2, 3, 4], "MRL-E linear": [2, 3, 4], "FF linear": [2],
        "MRL 1-NN": [2, 3, 4], "MRL-E 1-NN": [2, 3, 4], "FF 1-NN": [2],
    }  # fmt: skip
    logits = keras.ops.convert_to_numpy(models["MRL"](test.images))
    expected = (logits[:, 1].argmax(axis=-1) == test.labels).mean()
    assert table.columns["MRL linear"][4] == pytest.approx(expected)
    assert outputs["train_embeddings"].shape == (40, 4)


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
        (["--smallest_dim=128"], "`smallest` must not exceed the embedding width 64"),
        (["--shortlist_dim=5"], "must be nesting dims of the index"),
        (["--shortlist=5"], "must be at least k=10"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
