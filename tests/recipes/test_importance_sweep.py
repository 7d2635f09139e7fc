"""The names of weights in configs, and the sweep over them."""

import csv
import types

import ml_collections
import pytest

from mrl_keras import FAMO, AdaLoss, NestingDims, SoftOptimalUncertainty
from recipes.common.prefixes import importance
from recipes.report import importance_sweep
from recipes.report.parts.fronts import front, verdict
from tests.support.recipe_runs import RECIPES, run_here

DIMS = NestingDims([4, 8, 16])


def of(text):
    return importance(ml_collections.ConfigDict({"relative_importance": text}), DIMS)


def test_names_of_configs():
    assert of("") is None
    assert of("4:2, 8:1.5") == (2.0, 1.5, 1.0)
    for text, cls, values in (
        ("adaloss", AdaLoss, {"decay": 0.99}),
        ("uw_so:temperature=0.5,uniform=0", SoftOptimalUncertainty, {"temperature": 0.5}),
        ("famo: learning_rate=0.1", FAMO, {"learning_rate": 0.1}),
    ):
        found = of(text)
        assert type(found) is cls
        assert found.nesting_dims == DIMS
        assert values.items() <= found.get_config().items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adalos", r"begin with one of adaloss, uw_so, famo\. Received 'adalos'"),
        ("uw_so:warmth=2", r"'uw_so:warmth=2' does not fit: .*warmth"),
        ("uw_so:temperature=0", r"does not fit: `temperature` must be"),
        ("famo:fast", r"'famo:fast' does not fit"),
    ],
)
def test_wrong_names(text, message):
    with pytest.raises(ValueError, match=message):
        of(text)


MEANS = {"1": (80.0, 90.0), "boost": (84.0, 88.0), "adaloss": (84.2, 90.1), "famo": (79.0, 89.0)}


CONSTANTS = ["1", "boost"]


def test_what_is_said_of_a_method():
    assert verdict("adaloss", MEANS, 0.5, CONSTANTS).startswith("ahead: ")
    said = verdict("adaloss", MEANS, 4.3, CONSTANTS)
    assert said == "does not win: level with 1, boost within 4.30 points"
    said = verdict("famo", MEANS, 0.5, CONSTANTS)
    assert said == "does not win: behind 1 by more than 0.50 points at an end"
    assert front(MEANS) == ["adaloss"]
    assert front({k: MEANS[k] for k in ("1", "boost", "famo")}) == ["1", "boost"]


def test_pages_from_rows(tmp_path, monkeypatch):
    rows = [
        {"importance": name, "seed": seed, "dim": dim, "top1": (top1 + seed) / 100, "weight": 1.0}
        for name, of_name in MEANS.items()
        for seed in (0, 1)
        for dim, top1 in zip((4, 32), of_name, strict=True)
    ]
    monkeypatch.setattr(importance_sweep, "measure", lambda options: rows)
    config = ml_collections.ConfigDict(
        {"head": "mrl", "nesting_dims": (4, 32), "embedding_width": 32, "spacing": "log"}
        | {"data": {"name": "made"}, "steps": 7}
    )
    importance_sweep.main(types.SimpleNamespace(results=str(tmp_path), config=config))
    with open(tmp_path / "importance.csv") as file:
        assert [row["top1"] for row in csv.DictReader(file)] == [str(row["top1"]) for row in rows]
    text = (tmp_path / "importance.md").read_text()
    assert "| adaloss | 84.70 | 90.60 | 1.00 1.00 | yes |" in text
    assert "- adaloss: ahead: no constant comes within 0.50 points of it at both ends." in text
    assert (tmp_path / "importance.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_sweep_trains_once(tmp_path):
    arguments = [
        f"--config={RECIPES}/configs/digit_pairs.py:tiny",
        "--importance=x4;adaloss",
        "--seeds=0,1",
        f"--out={tmp_path / 'runs'}",
        f"--results={tmp_path / 'results'}",
    ]
    run_here("report.importance_sweep.py", *arguments)
    first = (tmp_path / "results" / "importance.csv").read_text()
    with open(tmp_path / "results" / "importance.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4
    assert [row["weight"] for row in rows[:4]] == ["4.0", "1.0", "1.0", "1.0"]
    adapted = [float(row["weight"]) for row in rows if row["importance"] == "adaloss"]
    assert sum(adapted) == pytest.approx(8.0, abs=0.01)
    assert max(adapted) > min(adapted)
    run_here("report.importance_sweep.py", *arguments)
    assert (tmp_path / "results" / "importance.csv").read_text() == first
