"""A report of tiny runs on made data, from training to the pages; and its refusals."""

import csv
import importlib
import json
import pathlib
import re
import shutil

import keras
import pytest

from mrl_keras.files import write_json
from recipes.common.run import Run
from recipes.common.training import build_compiled_model, set_up_task, train
from recipes.report import train_runs as report_runs
from recipes.report import write_report as report
from recipes.report.parts.page import anchor
from recipes.report.parts.runs import budget_differences, find_runs

RECIPES = pathlib.Path(__file__).parents[2] / "recipes"
CONFIG = RECIPES / "configs" / "cifar10_resnet.py"


def config_of(**changes):
    config = importlib.import_module("recipes.configs.cifar10_resnet").get_config("tiny")
    config.steps = config.checkpoint_every = 4
    config.optimizer.warmup_steps = 2
    config.update(changes)
    return config


def saved(folder, **changes):
    """A run whose last checkpoint holds the first weights: all that a report asks, in no time."""
    run = Run(str(folder), config_of(**changes))
    model = build_compiled_model(run.config, set_up_task(run.config))
    run.checkpoints.save(model, run.config.steps)
    write_json(run.path("config.json"), run.config.to_dict())
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """MRL of two seeds, MRL-E and FF at the widest dim and at one other, of one seed each."""
    folder = tmp_path_factory.mktemp("runs")
    train(config_of(head="mrl"), folder / "mrl_seed0", verbose=0)
    saved(folder / "mrl_seed1", head="mrl", seed=1)
    saved(folder / "mrl_e_seed0", head="mrl_e")
    saved(folder / "ff16_seed0", head="ff", ff_dim=16)
    train(config_of(head="ff", ff_dim=2), folder / "ff2_seed0", verbose=0)
    return folder


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "pages"
    arguments = ["--runs", str(runs), "--out", str(out), "--cache", str(runs / ".." / "cache")]
    report.main([*arguments, "--splits", "3", "--corruption_examples", "8"])
    return out


def records(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_index_has_verdicts_pages_cost_and_commands(pages):
    text = (pages / "README.md").read_text()
    assert text.startswith("# Report on made\n")
    for heading in ("Claims of the paper", "Pages", "Runs and their cost", "Environment"):
        assert f"## {heading}" in text
    assert re.search(r"\| MRL is at least as accurate as FF .* \| \*\*(holds|does not)", text)
    assert "| MRL | 0, 1 |" in text
    assert "CPU hours in all" in text
    assert "recipes/report/write_report.py --runs" in text
    # What is not there is named with the run it wants.
    assert "FF at 4, 8 dims wants runs with --config.ff_dim of these" in text
    assert "slimmable networks want" in text


def test_links_resolve_and_tables_are_whole(pages):
    found = {path.name for path in pages.iterdir()}
    linked = set()
    for page in pages.glob("*.md"):
        text = page.read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            name, _, place = target.partition("#")
            assert (pages / name).exists() or name.startswith("../"), f"{page.name}: {target}"
            linked.add(name)
            if place:
                titles = re.findall(r"^#+ (.*)$", (pages / name).read_text(), re.M)
                assert place in [anchor(title) for title in titles]
        for block in re.findall(r"(?:^\|.*\|$\n)+", text, re.M):
            widths = {line.count("|") for line in block.splitlines()}
            assert len(widths) == 1, f"{page.name}: {block}"
        assert text.count("\n## ") == len(set(re.findall(r"\n## (.*)", text)))
    assert found - linked == set()


def test_every_csv_parses_and_holds_what_the_page_shows(pages):
    for path in pages.glob("*.csv"):
        assert records(path), path
    linear = records(pages / "linear.csv")
    assert {row["system"] for row in linear} >= {"MRL", "MRL-E", "FF", "SVD", "Rand. LP", "JL, LP"}
    mrl = [row for row in linear if row["system"] == "MRL"]
    assert [row["dims"] for row in mrl] == ["2", "4", "8", "16"]
    for row in mrl:
        values = dict(part.split(":") for part in row["by_seed"].split(";"))
        assert set(values) == {"0", "1"}
        mean = sum(map(float, values.values())) / 2
        assert float(row["mean"]) == pytest.approx(mean, abs=1e-5)
    first = records(pages / "first_right.csv")
    assert sum(float(row["mean"]) for row in first) == pytest.approx(1.0, abs=1e-5)
    page = (pages / "accuracy.md").read_text()
    assert f"{100 * float(mrl[0]['mean']):.2f} ±" in page
    # The last epoch's accuracy comes from TensorBoard's files, where training wrote some.
    fit = records(pages / "fit.csv")
    assert {(row["system"], row["dims"]) for row in fit} == {
        ("MRL", "2"), ("MRL", "4"), ("MRL", "8"), ("MRL", "16"), ("FF", "2"),
    }  # fmt: skip
    cascade = records(pages / "cascade.csv")
    dims = [float(row["mean"]) for row in cascade if row["measure"] == "expected_dim"]
    assert all(2.0 <= value <= 16.0 for value in dims)


def test_pictures_are_pictures(pages):
    pictures = list(pages.glob("*.png"))
    assert len(pictures) >= 8
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in pictures)


def test_results_are_computed_once(runs, pages, monkeypatch, tmp_path):
    """A second report reads the cache: it neither embeds, searches nor fits."""

    def never(*arguments, **options):
        raise AssertionError("computed again")

    from recipes.report.pages import accuracy
    from recipes.report.parts import study

    monkeypatch.setattr(study.Study, "_embed", never)
    monkeypatch.setattr(study, "exact_search", never)
    monkeypatch.setattr(accuracy, "linear_probe_accuracy", never)
    arguments = ["--runs", str(runs), "--out", str(tmp_path), "--cache", str(runs / ".." / "cache")]
    report.main([*arguments, "--splits", "3", "--corruption_examples", "8"])
    for path in pages.glob("*.csv"):
        assert (tmp_path / path.name).read_text() == path.read_text()


def refused(capsys, runs, *arguments):
    with pytest.raises(SystemExit) as stop:
        report.main(["--runs", *map(str, runs), "--out", "nowhere", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert not pathlib.Path("nowhere").exists()
    return error


def copied(source, target, **changes):
    """A run whose configuration file says something else."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_folders_that_are_no_runs(runs, capsys, tmp_path):
    assert "is no run and holds none" in refused(capsys, [tmp_path])
    assert "no finished MRL run among ['FF-2']" in refused(capsys, [runs / "ff2_seed0"])
    empty = copied(runs / "mrl_seed0", tmp_path / "empty")
    shutil.rmtree(empty / "checkpoints")
    assert "holds no checkpoint" in refused(capsys, [empty])
    longer = copied(runs / "mrl_seed0", tmp_path / "longer", steps=8)
    assert "is at step 4 of 8" in refused(capsys, [longer])
    assert find_runs([runs / "mrl_seed0", longer], skip_unfinished=True)[1] == ["longer"]


def test_runs_that_do_not_fit_together(runs, capsys, tmp_path):
    other = copied(runs / "ff2_seed0", tmp_path / "other", data={"name": "cifar10"})
    error = refused(capsys, [runs / "mrl_seed0", other])
    assert "different data" in error
    assert "data.name is 'cifar10' there and 'made' here" in error
    twice = copied(runs / "mrl_seed0", tmp_path / "twice")
    assert "are both MRL of seed 0" in refused(capsys, [runs / "mrl_seed0", twice])
    smaller = copied(runs / "mrl_e_seed0", tmp_path / "smaller", smallest_dim=4)
    assert "must have the same dims" in refused(capsys, [runs / "mrl_seed0", smaller])
    error = refused(capsys, [runs / "mrl_seed0"], "--splits", "1")
    assert "--splits must be at least 2" in error


def test_other_budgets_are_named(runs, tmp_path):
    other = copied(runs / "ff2_seed0", tmp_path / "other", batch_size=8)
    found, _ = find_runs([runs / "mrl_seed0", other])
    wanted = ["FF-2 (seed 0): batch_size is 8 there and 16 here (MRL)"]
    assert budget_differences(found) == wanted
    # A run from before a setting was there is as one that leaves it empty.
    config = json.loads((other / "config.json").read_text())
    del config["init_from"]
    (other / "config.json").write_text(json.dumps(config))
    assert budget_differences(find_runs([runs / "mrl_seed0", other])[0]) == wanted


def test_the_runs_of_a_report():
    given = ["--config", f"{CONFIG}:tiny", "--out", "runs", "--seeds", "0", "3", "--steps", "4"]
    options = report_runs.parse_arguments([*given, "--set", "optimizer.warmup_steps=1"])
    dims = report_runs.nested_dims(options.config)
    assert dims == [2, 4, 8, 16]
    found = report_runs.commands(options, dims)
    assert list(found)[:4] == ["mrl_seed0", "mrl_e_seed0", "ff16_seed0", "ff2_seed0"]
    assert len(found) == 2 * (2 + 4 + 1)
    assert found["slim_seed0"][0] == "--config.head=slimmable"
    assert found["ff8_seed3"] == [
        "--config.head=ff", "--config.ff_dim=8", "--config.seed=3", "--config.steps=4",
        "--config.optimizer.warmup_steps=1",
    ]  # fmt: skip


def test_finished_runs_are_not_trained_again(runs, monkeypatch, capsys):
    started = []

    class Done:
        returncode = 0

    def start(command, check):
        started.append(next(part for part in command if part.startswith("--workdir")))
        return Done

    monkeypatch.setattr(report_runs.subprocess, "run", start)
    given = ["--config", f"{CONFIG}:tiny", "--out", str(runs), "--seeds", "0"]
    three = ["--heads", "mrl", "mrl_e", "ff"]
    report_runs.main([*given, "--steps", "4", "--dims", "2", "4", *three])
    assert started == [f"--workdir={runs / 'ff4_seed0'}"]
    assert "--steps 4 --dims 2 4 --heads" in (runs / "command.txt").read_text()
    with pytest.raises(SystemExit, match="was trained with steps=4, not 8"):
        report_runs.main([*given, "--steps", "8"])
