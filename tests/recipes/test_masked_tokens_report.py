"""The report on masked language models, on made scores; the recipe's own are in its tests."""

import csv
import importlib
import pathlib

import numpy as np
import pytest

from mrl_keras.evaluation import MaskedTokensEvaluator, Outputs
from mrl_keras.files import write_json
from recipes.common.run import Run
from recipes.report import masked_tokens

DIMS, TOKENS = (6, 12, 24), 400


class MadeTask:
    """Scores of masked tokens: the more dims the better; FF is a little better still."""

    def __init__(self, run):
        self.config = run.config

    def collect(self, model):
        nested = self.config.head == "mrl_e"
        dims, between = (DIMS, (9, 18)) if nested else ((self.config.ff_dim,), ())
        every = sorted({*dims, *between})
        rng = np.random.default_rng(self.config.seed)
        luck = rng.random(TOKENS)
        right = np.stack([luck < 0.3 + 0.01 * dim - 0.1 * nested for dim in every], axis=1)
        scores = np.stack([rng.random(right.shape), right], axis=2).astype("float32")
        labels = np.arange(TOKENS) % 7 + (self.config.vocabulary.size != 120)
        arrays = {"token_scores": scores, "token_labels": labels}
        return Outputs(dims, arrays | {"piece_counts": np.arange(9)}, between)


def write_run(folder, name, **changes):
    config = importlib.import_module("recipes.configs.wikitext2_mlm").get_config("tiny")
    for key, value in {"head": "ff", **changes}.items():
        config.update_from_flattened_dict({key: value})
    run = Run(str(folder / name), config)
    write_json(run.path("config.json"), config.to_dict())
    path = pathlib.Path(run.checkpoints.path(config.steps))
    path.parent.mkdir()
    path.write_text(f"{folder} {name}")
    return run


@pytest.fixture
def made(monkeypatch, tmp_path):
    monkeypatch.setattr(masked_tokens, "load_trained", lambda run: (MadeTask(run), None))
    for seed in (0, 1):
        write_run(tmp_path / "runs", f"mrl_e_seed{seed}", head="mrl_e", seed=seed)
        for dim in DIMS:
            write_run(tmp_path / "runs", f"ff{dim}_seed{seed}", ff_dim=dim, seed=seed)
    return tmp_path


def write(folder, runs=None):
    out, cache = folder / "out", folder / "cache"
    runs = folder / "runs" if runs is None else runs
    masked_tokens.main([f"--runs={runs}", f"--out={out}", f"--cache={cache}"])
    return out


def records(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_prefix_stands_beside_a_model_of_its_own(made):
    out = write(made)
    rows = {(r["system"], r["dims"]): r for r in records(out / "top1.csv")}
    assert set(rows) == {("MRL-E", str(d)) for d in (6, 9, 12, 18, 24)} | {
        ("FF", str(d)) for d in DIMS
    }
    run = Run.open(str(made / "runs" / "mrl_e_seed1"))
    wanted = dict(MaskedTokensEvaluator()(MadeTask(run).collect(None)))
    by_seed = dict(pair.split(":") for pair in rows["MRL-E", "9"]["by_seed"].split(";"))
    assert float(by_seed["1"]) == pytest.approx(wanted["top1/mlm/9"], rel=1e-5)
    losses = {(r["system"], r["dims"]): r for r in records(out / "crossentropy.csv")}
    by_seed = dict(pair.split(":") for pair in losses["MRL-E", "9"]["by_seed"].split(";"))
    assert float(by_seed["1"]) == pytest.approx(wanted["crossentropy/mlm/9"], rel=1e-5)
    text = (out / "README.md").read_text()
    assert "**does not hold here**" in text
    assert "The paper's Table 7" in text
    assert "| 768 | 65.54 | 65.00 |" in text
    assert f"right in {100 * wanted['top1/majority/all']:.2f} %" in text
    assert "differ" not in text.replace("difference", "")
    assert (out / "top1_figure.png").stat().st_size > 5000


def test_scores_are_computed_once(made, monkeypatch):
    write(made)
    monkeypatch.setattr(masked_tokens, "load_trained", None)
    write(made)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ff_dim": 6, "seed": 1}, "are both FF-6 of seed 1"),
        ({"ff_dim": 6, "seed": 2, "vocabulary.size": 100}, "have other masked tokens"),
    ],
)
def test_a_run_that_does_not_fit_is_one_line(made, capsys, changes, text):
    write_run(made / "runs", "unfit", **changes)
    with pytest.raises(SystemExit):
        write(made)
    assert text in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_missing_method_and_another_task(made, capsys):
    with pytest.raises(SystemExit):
        write(made, made / "runs" / "ff6_seed0")
    assert "There is no MRL-E run among ['FF-6']" in capsys.readouterr().err
    write_run(made / "others", "images", task="image_classification")
    with pytest.raises(SystemExit):
        write(made, made / "others")
    assert "is a run of the task 'image_classification'" in capsys.readouterr().err
