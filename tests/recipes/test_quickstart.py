import csv
import pathlib
import subprocess
import sys

import pytest

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
