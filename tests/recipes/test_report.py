"""A report of made outputs and, slowly, of tiny trained runs; its refusals; the runs it wants."""

import csv
import dataclasses
import importlib
import json
import pathlib
import re
import shutil
import types

import keras
import numpy as np
import pytest
from absl import flags

from mrl_keras.evaluation import Outputs, RetrievalEvaluator, evaluators
from mrl_keras.files import write_json
from recipes.common.run import Run
from recipes.common.training import build_compiled_model, set_up_task, train
from recipes.report import spread, train_runs
from recipes.report import write_report as report
from recipes.report.parts import page
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.page import anchor
from recipes.report.parts.paper import paper_table
from recipes.report.parts.runs import budget_differences, find_runs, find_variants
from recipes.report.parts.study import Options, Study
from tests.support.recipe_runs import RESNET, run_here

RUNS = {
    "mrl_seed0": {"head": "mrl"},
    "mrl_seed1": {"head": "mrl", "seed": 1},
    "mrl_e_seed0": {"head": "mrl_e"},
    "ff16_seed0": {"head": "ff", "ff_dim": 16},
    "ff2_seed0": {"head": "ff", "ff_dim": 2},
}
VARIANTS = {
    "boosted_seed0": {"relative_importance": "2:2"},
    "boosted_seed1": {"relative_importance": "2:2", "seed": 1},
    "from4_seed0": {"smallest_dim": 4},
    "from1_seed0": {"nesting_dims": (1, 2, 4, 8, 16)},
    "uniform_seed0": {"spacing": "uniform", "smallest_dim": 2, "dims_count": 3},
    "finetuned_seed0": {"init_from": "runs/ff16_seed0", "unfrozen": "head"},
    "smoothed_ff16_seed0": {"head": "ff", "ff_dim": 16, "label_smoothing": 0.1},
}
ML_COLLECTIONS = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
LABELLED = ("embeddings", "labels", "train_embeddings", "train_labels")
DIMS, BETWEEN, CLASSES = (2, 4, 8, 16), (3, 6, 12), 4


def config_of(**changes):
    config = importlib.import_module("recipes.configs.cifar10_resnet").get_config("tiny")
    config.steps = config.checkpoint_every = 4
    config.optimizer.warmup_steps = 2
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Work directories whose last checkpoint is a file of one line."""
    return write_runs(tmp_path_factory.mktemp("folders"), RUNS)


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("variants"), VARIANTS)


def write_runs(folder, runs):
    for name, changes in runs.items():
        run = Run(str(folder / name), config_of(**changes))
        write_json(run.path("config.json"), run.config.to_dict())
        path = pathlib.Path(run.checkpoints.path(run.config.steps))
        path.parent.mkdir()
        path.write_text(name)
    return folder


class MadeTask:
    """Outputs drawn from a seed, as a task of image classification gives them."""

    def __init__(self, run):
        self.dims, self.efficient = run.dims, run.method == "MRL-E"
        self.between = () if run.method == "FF" else run.dims.interpolated()
        self.seed, self.collected = run.seed, 0

    def class_names(self):
        return [f"class {i}" for i in range(CLASSES)]

    def test_images(self):
        return None

    def collect(self, model):
        self.collected += 1
        rng = np.random.default_rng(self.seed)
        labels, train_labels = np.arange(40) % CLASSES, np.arange(220) % CLASSES
        directions = rng.normal(size=(CLASSES, DIMS[-1]))
        test, train = (
            (directions[y] + rng.normal(size=(len(y), DIMS[-1]))).astype("float32")
            for y in (labels, train_labels)
        )

        def logits(dims):
            return np.stack([test[:, :dim] @ directions[:, :dim].T for dim in dims], axis=1)

        arrays = {"embeddings": test, "labels": labels, "logits": logits(self.dims)}
        arrays |= {"train_embeddings": train, "train_labels": train_labels}
        if self.efficient:
            arrays["interpolated_logits"] = logits(self.between)
        return Outputs(self.dims, arrays, self.between)


class MadeStudy(Study):
    """A study whose models are made."""

    def _load_model(self, run):
        task = MadeTask(run)
        head = types.SimpleNamespace(kernels=[np.eye(16, CLASSES)], biases=None)
        model = types.SimpleNamespace(layers=[], get_layer=lambda name: head)
        return task, model

    @property
    def task(self):
        return MadeTask(self.runs[0])

    def novel(self, run):
        def compute():
            found = self.model(run)[0].collect(None)
            return Outputs(found.dims, {n: found[n] for n in LABELLED}, found.interpolated)

        return self._kept(run, {"images": "novel"}, compute)


def study_of(folders, cache, variants=None, novel=""):
    options = Options(splits=3, probe_examples=60, timing=False, novel=novel)
    runs = find_runs([folders])[0]
    found = find_variants([variants], runs)[0] if variants else {}
    return MadeStudy(runs, ResultCache(cache), options, found)


def stub_figures_and_probes(patch):
    """Pictures without matplotlib, probes without scikit-learn: the slow test has both."""
    patch.setattr(
        evaluators, "linear_probe_accuracy", lambda *given: dict.fromkeys(map(int, given[4]), 0.5)
    )
    picture = b"\x89PNG\r\n\x1a\n"
    patch.setattr(page, "line_panels", lambda path, *_: path.write_bytes(picture))
    for name in ("cascade", "plans"):
        module = importlib.import_module(f"recipes.report.pages.{name}")
        patch.setattr(module, "line_panels", lambda path, *_: path.write_bytes(picture))


@pytest.fixture(scope="module")
def made_pages(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "pages"
    with pytest.MonkeyPatch.context() as patch:
        stub_figures_and_probes(patch)
        report.write_report(study_of(folders, out / ".." / "cache"), out, command="the command")
    return out


def records(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def check_links_and_tables(pages):
    found = {path.name for path in pages.iterdir()}
    linked = set()
    for path in pages.glob("*.md"):
        text = path.read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            name, _, place = target.partition("#")
            assert (pages / name).exists() or name.startswith("../"), f"{path.name}: {target}"
            linked.add(name)
            if place:
                titles = re.findall(r"^#+ (.*)$", (pages / name).read_text(), re.M)
                assert place in [anchor(title) for title in titles]
        for block in re.findall(r"(?:^\|.*\|$\n)+", text, re.M):
            widths = {line.count("|") for line in block.splitlines()}
            assert len(widths) == 1, f"{path.name}: {block}"
        assert text.count("\n## ") == len(set(re.findall(r"\n## (.*)", text)))
    assert found - linked == set()
    for path in pages.glob("*.csv"):
        assert records(path), path
    for path in pages.glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_index_has_verdicts_pages_cost_and_commands(made_pages):
    text = (made_pages / "README.md").read_text()
    assert text.startswith("# Report on made\n")
    for heading in ("Claims of the paper", "Pages", "Runs and their cost", "Environment"):
        assert f"## {heading}" in text
    assert re.search(r"\| MRL is at least as accurate as FF .* \| \*\*(holds|does not)", text)
    assert "| MRL | 0, 1 |" in text
    assert "CPU hours in all" in text
    assert "the command\n```" in text
    # What is not there is named with the run it wants.
    assert "FF at 4, 8 dims wants runs with --config.ff_dim of these" in text
    assert "slimmable networks want" in text


def test_some_pages_alone(folders, made_pages, tmp_path):
    study = study_of(folders, made_pages / ".." / "cache")
    report.write_report(study, tmp_path, names=["superclass", "spans"])
    check_links_and_tables(tmp_path)
    assert {path.name for path in tmp_path.glob("*.md")} == {
        "README.md", "spans.md", "superclass.md",
    }  # fmt: skip


def test_links_resolve_and_tables_are_whole(made_pages):
    check_links_and_tables(made_pages)


@pytest.fixture(scope="module")
def whole_pages(folders, variants, tmp_path_factory):
    """Pages with novel classes and variants."""
    out = tmp_path_factory.mktemp("whole") / "pages"
    with pytest.MonkeyPatch.context() as patch:
        stub_figures_and_probes(patch)
        study = study_of(folders, out / ".." / "cache", variants, novel="novel_set")
        verdicts = report.write_report(study, out)
    return out, [verdict.claim for verdict in verdicts]


def test_the_spread_of_embeddings(folders, tmp_path):
    study = study_of(folders, tmp_path / "cache", novel="novel_set")
    found = {(row["model"], row["seed"]): row for row in spread.rows_of(study)}
    assert {name for name, _ in found} == {"MRL", "MRL-E", "FF-16", "FF-2"}
    row = found["MRL", 1]
    assert row["dims"] == "2 4 8 16"
    # Four classes, whose means lie in three directions, and noise of the same length in all 16.
    assert 0.6 < row["variance_8"] < row["variance_16"] == row["variance_32"] == pytest.approx(1)
    outputs = study.outputs(study.of("MRL")[1])
    right = outputs["logits"][:, -1].argmax(axis=1) == outputs["labels"]
    assert row["linear"] == right.mean()
    assert 0.25 < row["known_mAP@10"] == row["novel_mAP@10"] <= 1  # the made outputs are the same


def test_shares_of_variance():
    rows = np.random.default_rng(0).standard_normal((50_000, 3)) * [3, 2, 1]
    shares = spread.variance_shares(rows, (1, 2, 3, 9))
    np.testing.assert_allclose(list(shares.values()), [9 / 14, 13 / 14, 1, 1], atol=0.01)


def test_novel_classes_have_pages_of_their_own(whole_pages):
    out, claims = whole_pages
    check_links_and_tables(out)
    assert {row["system"] for row in records(out / "novel_exact_mAP_10.csv")} == {
        "MRL", "MRL-E", "FF",
    }  # fmt: skip
    assert records(out / "novel_grid.csv")
    assert records(out / "novel_few_shot_1.csv")
    assert sum("novel classes" in claim for claim in claims) == 3
    assert len(set(claims)) == len(claims)
    # 40 test images of 4 known classes, 40 and 220 of 4 novel ones: only these are a head.
    text = (out / "long_tail.md").read_text()
    assert "of novel_set, which no run was trained on" in text
    assert "no class is in the group: known classes, head" in text


def test_each_variant_stands_beside_the_runs(whole_pages):
    out, claims = whole_pages
    finetuned = records(out / "finetuning_linear.csv")
    assert {row["system"] for row in finetuned} == {"MRL", "unfrozen: head"}
    boosted = records(out / "importance_linear.csv")
    assert {row["system"] for row in boosted} == {"MRL", "relative_importance 2:2"}
    assert {row["by_seed"].count(":") for row in boosted} == {2}
    smallest = [row for row in records(out / "smallest_linear.csv") if row["system"] != "MRL"]
    assert [row["dims"] for row in smallest] == ["1", "2", "4", "4", "8", "8", "16", "16"]
    # A uniform model is read at the report's dims too (Table 29).
    spaced = [row for row in records(out / "spacing_nearest.csv") if row["system"] != "MRL"]
    assert [row["dims"] for row in spaced] == ["2", "4", "8", "16"]
    others = {row["system"] for row in records(out / "others_linear.csv")}
    assert others == {"MRL", "FF", "FF-16: label_smoothing 0.1"}
    assert any("uniform spacing" in claim for claim in claims)


def test_variants_that_are_none(folders, variants, capsys, tmp_path):
    runs = find_runs([folders])[0]
    with pytest.raises(ValueError, match="has the configuration of the report's runs"):
        find_variants([folders / "ff2_seed0"], runs)
    twice = copied(variants / "boosted_seed0", tmp_path / "twice")
    with pytest.raises(ValueError, match="are both 'relative_importance 2:2' of seed 0"):
        find_variants([variants, twice], runs)
    other = copied(variants / "boosted_seed0", tmp_path / "other", data={"name": "cifar10"})
    error = refused(capsys, [folders], "--variants", str(other))
    assert "different data" in error


def test_the_papers_tables_stand_beside_ours(whole_pages):
    accuracy = (whole_pages[0] / "accuracy.md").read_text()
    assert "The paper's Table 1 (ResNet50 on ImageNet-1K, d = 2048):" in accuracy
    assert "| 8 | 66.63 | 56.66 | 65.29 | 2.34 | 4.56 | 0.42 |" in accuracy
    with pytest.raises(ValueError, match=r"has no columns \['mlr'\]. It has \['dims', "):
        paper_table(1, {"dims": "dims", "MRL": "mlr"})
    with pytest.raises(ValueError, match="has no row where"):
        paper_table(8, {"D_s": "Ds"}, where={"model": "MLR"})


def test_every_csv_holds_what_the_page_shows(made_pages):
    linear = records(made_pages / "linear.csv")
    assert {row["system"] for row in linear} == {
        "MRL", "MRL-E", "FF", "SVD", "Truncation", "Rand. LP", "PCA, LP", "JL, LP",
    }  # fmt: skip
    efficient = [int(row["dims"]) for row in linear if row["system"] == "MRL-E"]
    assert efficient == sorted((*DIMS, *BETWEEN))
    mrl = [row for row in linear if row["system"] == "MRL"]
    assert [int(row["dims"]) for row in mrl] == list(DIMS)
    for row in mrl:
        values = dict(part.split(":") for part in row["by_seed"].split(";"))
        assert set(values) == {"0", "1"}
        mean = sum(map(float, values.values())) / 2
        assert float(row["mean"]) == pytest.approx(mean, abs=1e-5)
    first = records(made_pages / "first_right.csv")
    assert sum(float(row["mean"]) for row in first) == pytest.approx(1.0, abs=1e-5)
    accuracy = (made_pages / "accuracy.md").read_text()
    assert f"{100 * float(mrl[0]['mean']):.2f} ±" in accuracy
    cascade = records(made_pages / "cascade.csv")
    dims = [float(row["mean"]) for row in cascade if row["measure"] == "expected_dim"]
    assert all(2.0 <= value <= 16.0 for value in dims)


def test_values_are_those_of_the_evaluators(folders, tmp_path):
    study = study_of(folders, tmp_path)
    run = study.of("MRL")[1]
    outputs, evaluator = MadeTask(run).collect(None), RetrievalEvaluator(ks=(5,))
    measured = study.measured(evaluator)["retrieval/mAP@5"]["MRL"]
    assert list(measured) == sorted((*DIMS, *BETWEEN))
    for dim, value in measured.items():
        assert value.by_seed[1] == dict(evaluator(outputs))[f"retrieval/mAP@5/{dim}"]
        assert value.examples == 40


def test_outputs_and_values_are_computed_once(folders, made_pages, monkeypatch, tmp_path):
    """A second report reads the cache: it neither embeds, searches nor fits."""

    def never(*arguments, **options):
        raise AssertionError("computed again")

    stub_figures_and_probes(monkeypatch)
    monkeypatch.setattr(MadeTask, "collect", never)
    for name in ("neighbour_labels", "linear_probe_accuracy", "cascade_curve"):
        monkeypatch.setattr(evaluators, name, never)
    report.write_report(study_of(folders, made_pages / ".." / "cache"), tmp_path)
    for path in made_pages.glob("*.csv"):
        assert (tmp_path / path.name).read_text() == path.read_text()


def test_another_option_is_computed_anew(folders, made_pages, tmp_path):
    study = study_of(folders, made_pages / ".." / "cache")
    study.options = dataclasses.replace(study.options, database=100)
    task = study.model(study.runs[0])[0]
    study.outputs(study.runs[0])
    assert task.collected == 1


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


def test_folders_that_are_no_runs(folders, capsys, tmp_path):
    assert "is no run and holds none" in refused(capsys, [tmp_path])
    assert "no finished MRL run among ['FF-2']" in refused(capsys, [folders / "ff2_seed0"])
    empty = copied(folders / "mrl_seed0", tmp_path / "empty")
    shutil.rmtree(empty / "checkpoints")
    assert "holds no checkpoint" in refused(capsys, [empty])
    longer = copied(folders / "mrl_seed0", tmp_path / "longer", steps=8)
    assert "is at step 4 of 8" in refused(capsys, [longer])
    assert find_runs([folders / "mrl_seed0", longer], skip_unfinished=True)[1] == ["longer"]


def test_runs_that_do_not_fit_together(folders, capsys, tmp_path):
    other = copied(folders / "ff2_seed0", tmp_path / "other", data={"name": "cifar10"})
    error = refused(capsys, [folders / "mrl_seed0", other])
    assert "different data" in error
    assert "data.name is 'cifar10' there and 'made' here" in error
    twice = copied(folders / "mrl_seed0", tmp_path / "twice")
    assert "are both MRL of seed 0" in refused(capsys, [folders / "mrl_seed0", twice])
    smaller = copied(folders / "mrl_e_seed0", tmp_path / "smaller", smallest_dim=4)
    assert "must have the same dims" in refused(capsys, [folders / "mrl_seed0", smaller])
    error = refused(capsys, [folders / "mrl_seed0"], "--splits", "1")
    assert "--splits must be at least 2" in error


def test_other_budgets_are_named(folders, tmp_path):
    other = copied(folders / "ff2_seed0", tmp_path / "other", batch_size=8)
    found, _ = find_runs([folders / "mrl_seed0", other])
    wanted = ["FF-2 (seed 0): batch_size is 8 there and 16 here (MRL)"]
    assert budget_differences(found) == wanted
    # A run from before a setting was there is as one that leaves it empty.
    config = json.loads((other / "config.json").read_text())
    del config["init_from"]
    (other / "config.json").write_text(json.dumps(config))
    assert budget_differences(find_runs([folders / "mrl_seed0", other])[0]) == wanted


@ML_COLLECTIONS
def test_the_runs_of_a_report(monkeypatch):
    options = flags.FlagValues()
    train_runs.define_flags(options)
    given = ("--out=runs", "--seeds=0,3", "--config.steps=4", "--config.optimizer.warmup_steps=1")
    monkeypatch.setattr("sys.argv", ["train_runs.py", RESNET, *given])  # ml_collections reads it
    options(["train_runs.py", RESNET, *given])
    found = train_runs.planned_runs(options)
    assert list(found)[:4] == ["mrl_seed0", "mrl_e_seed0", "ff16_seed0", "ff2_seed0"]
    assert len(found) == 2 * (2 + 4 + 1)
    assert found["slim_seed0"]["head"] == "slimmable"
    assert found["ff8_seed3"] == {
        "steps": 4, "optimizer.warmup_steps": 1, "head": "ff", "seed": 3, "ff_dim": 8,
    }  # fmt: skip


@ML_COLLECTIONS
@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("wikitext2_mlm", "ff128 ff8 ff16 ff32 ff64"),
        ("sts_text_embedder", ValueError),
    ],
)
def test_the_dims_are_those_of_the_task(config, wanted, monkeypatch):
    options = flags.FlagValues()
    train_runs.define_flags(options)
    given = (f"--config=recipes/configs/{config}.py", "--out=runs", "--seeds=0", "--heads=ff")
    monkeypatch.setattr("sys.argv", ["train_runs.py", *given])
    options(["train_runs.py", *given])
    if wanted is ValueError:
        with pytest.raises(ValueError, match=f"{options.config.task}.* has no models of one dim"):
            train_runs.planned_runs(options)
    else:
        found = train_runs.planned_runs(options)
        assert list(found) == [f"{name}_seed0" for name in wanted.split()]


@ML_COLLECTIONS
def test_finished_runs_are_not_trained_again(folders, monkeypatch):
    started = []

    def start(command, check, env=None, **output):
        started.append((command[2:], env and env["TF_NUM_INTRAOP_THREADS"]))
        return types.SimpleNamespace(returncode=int("seed=5" in command[-2]), stdout="the reason")

    monkeypatch.setattr(train_runs.subprocess, "run", start)
    given = (RESNET, f"--out={folders}", "--seeds=0", "--dims=2,4", "--heads=mrl,mrl_e,ff")
    run_here("report.train_runs", *given, "--config.steps=4")
    wanted = [RESNET, f"--workdir={folders / 'ff4_seed0'}", "--evaluate=False"]
    wanted += ["--config.steps=4", "--config.head=ff", "--config.seed=0", "--config.ff_dim=4"]
    assert started == [(wanted, None)]
    assert "--dims=2,4 --heads=mrl,mrl_e,ff --config" in (folders / "command.txt").read_text()
    # Two at once have their share of the cores, and what failed is told.
    monkeypatch.setattr(train_runs, "available_cores", lambda: 8)
    more = (RESNET, f"--out={folders}", "--dims=4", "--heads=ff", "--config.steps=4", "--at_once=2")
    run_here("report.train_runs", *more, "--seeds=1,2,3")
    assert [threads for _, threads in started[1:]] == ["4"] * 3
    with pytest.raises(SystemExit, match="ff4_seed5 did not train; see above"):
        run_here("report.train_runs", *more, "--seeds=5")
    with pytest.raises(SystemExit, match="was trained with steps=4, not 8. Choose another --out"):
        run_here("report.train_runs", *given, "--config.steps=8")
    with pytest.raises(SystemExit, match=r"--heads must be some of .* Received \['mlr'\]"):
        run_here("report.train_runs", RESNET, f"--out={folders}", "--heads=mlr")
    (folders / "command.txt").unlink()


def save_untrained(folder, **changes):
    """A run whose last checkpoint holds the first weights."""
    run = Run(str(folder), config_of(**changes))
    model = build_compiled_model(run.config, set_up_task(run.config))
    run.checkpoints.save(model, run.config.steps)
    write_json(run.path("config.json"), run.config.to_dict())
    keras.backend.clear_session()


@pytest.mark.slow
def test_from_training_to_pages(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    for name, changes in (*RUNS.items(), ("slim_seed0", {"head": "slimmable"})):
        if name in ("mrl_seed0", "ff2_seed0"):
            train(config_of(**changes), runs / name, verbose=0)
        else:
            save_untrained(runs / name, **changes)
    given = ["--runs", str(runs), "--cache", str(tmp_path / "cache"), "--splits", "3"]
    report.main([*given, "--out", str(out), "--corruption_examples", "8"])
    check_links_and_tables(out)
    assert "write_report.py --runs" in (out / "README.md").read_text()
    names = {path.name for path in out.iterdir()}
    assert {"grad_cam.csv", "outside.csv", "robustness_kinds.csv"} <= names
    assert len(list(out.glob("*.png"))) >= 8
    claim = r"MRL .* a slimmable network .* \((linear|1-NN)\) \| .* by dim: 4: .* 8: .* 16: "
    assert re.findall(claim, (out / "accuracy.md").read_text()) == ["linear", "1-NN"]
    assert {row["system"] for row in records(out / "nearest.csv")} >= {"MRL", "FF", "Slimmable"}
    # The last epoch's accuracy comes from TensorBoard's files, where training wrote some.
    assert {(row["system"], row["dims"]) for row in records(out / "fit.csv")} == {
        ("MRL", "2"), ("MRL", "4"), ("MRL", "8"), ("MRL", "16"), ("FF", "2"),
    }  # fmt: skip
