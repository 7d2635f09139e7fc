"""The report on learned leaves: its searches against a plain one, and all of it on made images."""

import csv

import numpy as np
import pytest

from recipes.common.training import train
from recipes.report import learned_leaves
from tests.support.small_run import small_config

RNG = np.random.default_rng(0)
ARRAYS = {
    "rows": RNG.standard_normal((60, 6)).astype("float32"),
    "labels": RNG.integers(0, 3, 60),
    "queries": RNG.standard_normal((9, 6)).astype("float32"),
    "query_labels": RNG.integers(0, 3, 9),
}
CENTRES = RNG.standard_normal((4, 2)).astype("float32")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("ranked", [10, 25, 100])
def test_curves_are_those_of_searches_one_by_one(monkeypatch, ranked):
    monkeypatch.setattr(learned_leaves, "AT_ONCE", 3)
    monkeypatch.setattr(learned_leaves, "RANKED", ranked)
    found = learned_leaves.curves(ARRAYS, CENTRES, 2, most=7)
    leaf = (unit(ARRAYS["rows"][:, :2]) @ unit(CENTRES).T).argmax(axis=1)
    np.testing.assert_array_equal(found["sizes"], np.bincount(leaf, minlength=4))
    rows = unit(ARRAYS["rows"])
    for place, count in enumerate((1, 2, 4)):
        scanned = 0
        for query in range(7):
            one = ARRAYS["queries"][query]
            opened = np.argsort(-(unit(one[:2]) @ unit(CENTRES).T))[:count]
            inside = np.flatnonzero(np.isin(leaf, opened))
            scanned += len(inside)
            scores = rows @ unit(one)
            best = inside[np.argsort(-scores[inside])][:10]
            recall = np.isin(best, np.argsort(-scores)[:10]).sum() / 10
            same = ARRAYS["labels"][best] == ARRAYS["query_labels"][query]
            ranked = sum(same[: i + 1].mean() for i in np.flatnonzero(same)) / 10
            assert found["recall@10"][place, query] == pytest.approx(recall)
            assert found["P@10"][place, query] == pytest.approx(same.sum() / 10)
            assert found["mAP@10"][place, query] == pytest.approx(ranked)
        assert found["read"][place] == pytest.approx(scanned / 7 / 60)
    assert (found["recall@10"][-1] == 1.0).all()


def test_fewer_rows_than_one_leaf_find_less():
    values, read = np.array([[0.5, 1.0], [1.0, 1.0]]), np.array([0.1, 0.3])
    for share, wanted in ((0.0, [0, 0]), (0.05, [0.25, 0.5]), (0.1, [0.5, 1]), (0.9, [1, 1])):
        np.testing.assert_allclose(learned_leaves.at_share(values, read, share), wanted)


def test_even_leaves_have_no_largest_one():
    even, one = np.full(4, 5), np.array([20, 0, 0, 0])
    found = learned_leaves.balance({"a": {0: {"sizes": even}}, "b": {0: {"sizes": one}}})
    assert list(found.values()) == [["4.0", "1.0"], ["25.0", "100.0"], ["0.0", "3.0"]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dead leaves of the codebook:UserWarning")
def test_the_page_of_two_made_runs(tmp_path, capsys):
    for seed in (0, 1):
        config = small_config(4, 4)
        config.seed = seed
        train(config, str(tmp_path / f"mrl_seed{seed}"), verbose=0)
    options = ["--out", tmp_path / "out", "--cache", tmp_path / "cache", "--leaves=4", "--dim=2"]
    options += ["--steps=3", "--runs", *(tmp_path / f"mrl_seed{seed}" for seed in (0, 1))]
    for _ in range(2):  # the second time from the cache
        learned_leaves.main([str(one) for one in options])
        said = capsys.readouterr().out
        assert said.count("the codebook finds more than") == 4
    with open(tmp_path / "out" / "codebook.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    systems = {learned_leaves.LEARNED, learned_leaves.SAME, learned_leaves.WITHOUT}
    assert {row["system"] for row in rows} == systems
    assert len(rows) == 3 * len(learned_leaves.METRICS) * len(learned_leaves.SHARES)
    assert all(0.0 <= float(row["mean"]) <= 1.0 and "1:" in row["by_seed"] for row in rows)
    page = (tmp_path / "out" / "codebook.md").read_text()
    assert "| leaves, as even ones |" in page
    assert (tmp_path / "out" / "codebook.png").stat().st_size > 1000
