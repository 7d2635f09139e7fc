"""Weights and losses of the prefixes on frozen features: methods, batches, measures, the page."""

import csv

import numpy as np
import pytest

from mrl_keras import FAMO, MatryoshkaLoss, NestingDims
from mrl_keras.losses import PrefixLosses, SelfDistillation
from recipes.report import prefix_losses
from recipes.report.parts.prefix_training import (
    METHODS,
    class_batches,
    is_constant,
    is_loss,
    nested_loss,
    random_batches,
)
from recipes.report.prefix_settings import RECALL, Judged, Labelled

DIMS = NestingDims([2, 4, 8])
RNG = np.random.default_rng(0)


def test_methods():
    assert nested_loss("mse", "1", DIMS).relative_importance is None
    assert nested_loss("mse", "boost2", DIMS).relative_importance == (2.0, 1.5, 1.0)
    assert nested_loss("mse", "recall", DIMS).relative_importance is None
    assert isinstance(nested_loss("mse", "famo", DIMS).relative_importance, FAMO)
    distil = nested_loss("mse", "distil", DIMS)
    assert isinstance(distil, MatryoshkaLoss)
    assert isinstance(distil.loss, PrefixLosses)
    kinds = [isinstance(distil.loss.of(place), SelfDistillation) for place in range(3)]
    assert kinds == [True, True, False]
    constants = ["1", "boost", "boost2", "x4", "less", "less2"]
    assert [name for name in METHODS if is_constant(name)] == constants
    assert [name for name in METHODS if is_loss(name)] == ["recall", "recall x3", "distil"]


def test_batches():
    labels = np.repeat(np.arange(6), 10)
    batches = class_batches(labels, classes=3, of_each=4, steps=5, seed=0)
    assert batches.shape == (5, 12)
    for batch in batches:
        assert len(set(batch)) == 12
        assert sorted(np.bincount(labels[batch]))[-3:] == [4, 4, 4]
    assert len({tuple(batch) for batch in batches}) == 5
    batches = random_batches(20, (3, 7), seed=1)
    assert batches.shape == (3, 7)
    assert all(len(set(batch)) == 7 for batch in batches)


@pytest.fixture(scope="module")
def labelled():
    centres = 3.0 * RNG.standard_normal((14, 6))
    labels = np.repeat(np.arange(14), 9)
    parts = [
        ((centres[labels] + RNG.standard_normal((len(labels), 6))).astype("float32"), labels)
        for _ in range(3)
    ]
    return Labelled("made", "Made", "Clouds.", DIMS, *parts, parts[1], k=7, steps=400)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adaloss", "recall", "distil"])
def test_a_classifier_is_measured(labelled, method):
    found = labelled.train(method, 0, 0)
    assert set(found) == {
        *(("top-1", dim) for dim in DIMS), *((RECALL, dim) for dim in DIMS), ("1-NN", 8)
    }  # fmt: skip
    assert found["top-1", 8] > 0.6
    # A shortlist of all 126 rows holds all of a class.
    assert found[RECALL, 2] == found[RECALL, 8] == 1.0
    assert found["1-NN", 8] > 0.5


@pytest.mark.slow
def test_an_adaptor_is_measured():
    documents = RNG.standard_normal((300, 8)).astype("float32")
    rows = {name: np.arange(low, low + 40) for name, low in (("learn", 0), ("judge", 40))}
    arrays = {name: documents[of] + 0.1 * RNG.standard_normal((40, 8)) for name, of in rows.items()}
    judgements = {
        name: np.array([(query, document, 1) for query, document in enumerate(of)])
        for name, of in rows.items()
    }
    arrays = {name: of.astype("float32") for name, of in arrays.items()}
    setting = Judged(
        "made", "Made", "Pairs.", DIMS, {"documents": documents, **arrays}, judgements, 3
    )
    found = setting.train("recall", 0, 0)
    assert set(found) == {(name, dim) for name in ("nDCG@10", RECALL) for dim in DIMS}
    assert found["nDCG@10", 8] > 0.9
    assert found[RECALL, 8] == 1.0


MEANS = {"1": (50.0, 40.0), "boost": (55.0, 39.0), "recall": (58.0, 40.1), "uw_so": (50.0, 40.2)}


@pytest.fixture
def page_folder(tmp_path, monkeypatch, labelled):
    def train(self, method, seed, steps):
        small, full = MEANS[method]
        found = {("top-1", 2): small, ("top-1", 8): full, (RECALL, 2): small, (RECALL, 4): small}
        return {key: (value + seed) / 100 for key, value in found.items()}

    monkeypatch.setattr(Labelled, "train", train)
    monkeypatch.setattr(prefix_losses, "SETTINGS", {"digit_pairs": lambda options: labelled})
    folder = tmp_path / "out"
    prefix_losses.main(
        ["--out", folder, "--settings", "digit_pairs", "--methods", *MEANS, "--seeds", 0, 1,
         "--cache", tmp_path]
    )  # fmt: skip
    return folder


def test_the_page(page_folder):
    with open(page_folder / "losses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 4
    assert rows[0]["value"] == "50.0"
    text = (page_folder / "losses.md").read_text()
    assert "| recall | 58.50 | 40.60 | 58.50 | 58.50 |" in text
    wanted = (
        f"- recall, {RECALL} at 2 dims and top-1 at 8: +8.00 and +0.10 points against ones; "
        "ahead: no constant comes within 0.50 points of it at both ends."
    )
    assert wanted in text
    assert "- uw_so, top-1 at 2 dims and top-1 at 8: +0.00 and +0.20 points" in text
    assert "does not win: level with 1 within 0.50 points." in text
    assert (page_folder / "losses.png").stat().st_size > 5000


def test_wrong_options(tmp_path, capsys):
    for arguments in (["--methods", "boost", "--settings", "scifact"], []):
        with pytest.raises(SystemExit):
            prefix_losses.parse_arguments(["--out", tmp_path, *arguments])
        assert "--methods needs 1, and the setting tiny_imagenet needs" in capsys.readouterr().err
