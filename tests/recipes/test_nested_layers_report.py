"""The report on nested layers: what it says of made numbers, and a small run."""

import csv

import pytest

from recipes.report import nested_layers

VALUES = {1: (60.0, 61.0), 2: (64.0, 70.0), 3: (72.0, 66.0)}
"""{layer: (nested, alone)} at the full width; the seeds are 2 apart."""


def made_rows(kind="image"):
    return [
        {"kind": kind, "method": method, "seed": seed, "layer": layer, "dim": dim,
         "value": value + 2 * seed - (10 if dim == 4 else 0)}
        for layer, both in VALUES.items()
        for method, value in zip((nested_layers.NESTED, nested_layers.ALONE), both, strict=True)
        for seed in (0, 1)
        for dim in (4, 64)
    ]  # fmt: skip


def test_what_is_said():
    text = nested_layers.section("image", made_rows())
    assert "| 2 of 3 | all layers at once | 55.00 | 65.00 |" in text
    said = [line for line in text.splitlines() if line.startswith("- After")]
    assert [line.rpartition(": ")[2].split(" ")[0] for line in said] == ["level", "worse", "better"]
    assert "-6.00 points against" in said[1]
    assert "(noise 2.00)" in said[1]
    alone = [row for row in made_rows() if row["seed"] == 0]
    assert nested_layers.section("image", alone).count("one seed, noise unknown") == 3


@pytest.mark.slow
def test_a_small_run(tmp_path, monkeypatch):
    pytest.importorskip("official")
    timed = [
        {"kind": kind, "layer": layer, "batch": 1, "cpu_seconds": layer / 6, "share": layer / 6}
        for kind in ("text", "image")
        for layer in nested_layers.LARGE
    ]
    monkeypatch.setattr(nested_layers, "times", lambda options: timed)
    monkeypatch.setattr(nested_layers, "DEPTH", 1)
    monkeypatch.setattr(nested_layers, "ALL", (1,))
    arguments = ["--out", tmp_path / "out", "--kinds", "image", "--image_steps", 3]
    arguments += ["--cache", tmp_path / "cache", "--image_seeds", 0]
    nested_layers.main(arguments)
    with open(tmp_path / "out" / "nested_layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["method"], row["layer"]) for row in rows if row["dim"] == "64"]
    nested, alone = nested_layers.NESTED, nested_layers.ALONE
    assert sorted(found) == [(nested, "1"), (alone, "1")]
    text = (tmp_path / "out" / "nested_layers.md").read_text()
    assert "| BERT, 64 tokens | 0.33 | 0.67 | 1.00 |" in text
    assert (tmp_path / "out" / "nested_layers.png").stat().st_size > 5000

    monkeypatch.setattr(nested_layers.Images, "train", None)  # what the cache holds is not trained
    nested_layers.main(arguments)
