"""Whole tiny runs in remote folders (ram://), and what stops them."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.export import export_saved_model, load, load_manifest
from mrl_keras.files import exists, list_names, local_copy, read_text, remove
from recipes.common.run import Run
from recipes.common.training import load_trained
from recipes.report.parts.fit import training_accuracy
from recipes.report.parts.runs import find_runs
from tests.support.recipe_runs import RECIPES, SMALL, lengths, run_here
from tests.support.remote import Stopped, new_folder, stop_writes, tree

SHORT = *SMALL, *lengths(4, 2), "--evaluate=False"
TEXT = f"--config={RECIPES}/configs/sts_text_embedder.py:tiny"
pytestmark = pytest.mark.slow


def trained_weights(workdir):
    _, model = load_trained(Run.open(workdir))
    return model.get_weights()


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run in a local folder."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run_here("train.py", *SHORT, f"--workdir={folder}")
    return folder


@pytest.fixture(scope="module")
def remote():
    """The same run in a remote folder, with its results."""
    workdir = f"{new_folder()}/runs/mrl"
    run_here("train.py", *SHORT, f"--workdir={workdir}")
    run_here("evaluate.py", f"--workdir={workdir}")
    return workdir


def test_a_remote_run_is_the_local_run(local, remote):
    assert_same(trained_weights(remote), trained_weights(local))
    assert {"config.json", "cost.json", "results.csv", "checkpoints", "logs"} == set(
        list_names(remote)
    )
    assert read_text(f"{remote}/results.csv").startswith("name,value,step\ntop1/linear/2,")
    assert "is trained: 4 steps" in run_here("train.py", *SHORT, f"--workdir={remote}")


def test_the_report_reads_remote_runs(remote):
    (found,), unfinished = find_runs([remote.rpartition("/")[0]])
    assert (found.run.workdir, found.method, unfinished) == (remote, "MRL", [])
    assert len(found.fingerprint) == 64

    class Study:
        prefix_runs = (found,)

    assert set(training_accuracy(Study)["MRL"]) == {2, 4, 8}


def test_a_remote_run_begins_another(remote):
    workdir = f"{new_folder()}/run"
    output = run_here("train.py", *SHORT, f"--config.init_from={remote}", f"--workdir={workdir}")
    assert f"starts from {remote}, without" in output


def test_an_export_from_one_remote_folder_to_another(remote, tmp_path):
    models = f"{new_folder()}/models/tiny"
    output = run_here("export.py", f"--workdir={remote}", f"--output={models}")
    assert f"Exported {models}/1" in output
    model, manifest = load(models), load_manifest(models)
    assert (manifest["name"], manifest["version"]) == ("tiny", 1)
    images = tf.random.stateless_uniform(
        (2, *model.signatures["embed"].inputs[0].shape[1:]), (0, 1)
    )
    with local_copy(f"{models}/1") as copied:
        for name in ("embed", "classify"):
            here, there = (
                one.signatures[name](tf.cast(images, one.signatures[name].inputs[0].dtype))
                for one in (load(copied), model)
            )
            for key in here:
                np.testing.assert_array_equal(here[key], there[key])
    remove(f"{models}/1/variables/variables.index")
    with pytest.raises(
        ValueError, match=r"tiny/1 must be those of one whole export.*Copy or export"
    ):
        load(models)
    assert "/2" in run_here("export.py", f"--workdir={remote}", f"--output={models}")


@pytest.mark.parametrize("for_good", [False, True])
def test_an_export_that_stops_at_any_write_is_passed_over(for_good, remote):
    models, at, stopped = f"{new_folder()}/tiny", -1, True
    task, model = load_trained(Run.open(remote))
    export_saved_model(models, **task.exported_parts(model))
    while stopped:
        at += 1
        with pytest.MonkeyPatch.context() as patch:
            stop_writes(patch, at, for_good)
            try:
                export_saved_model(models, **task.exported_parts(model))
                stopped = False
            except Stopped:
                pass
        newest = load_manifest(models)["version"]
        assert newest in (1, 2)
        assert "variables/variables.index" in tree(f"{models}/{newest}")
        if newest == 2:
            remove(f"{models}/2")
        at += 2 if for_good else 0  # every third: an export takes seconds
    assert at > 15


def test_a_run_that_stops_at_any_write_goes_on_bit_for_bit(local):
    config = Run.open(local).config
    wanted, at, stopped, starts = trained_weights(local), -1, True, []
    while stopped:
        at += 1
        workdir = f"{new_folder()}/run"
        with pytest.MonkeyPatch.context() as patch:
            written = stop_writes(patch, at, for_good=True)
            try:
                run_here("train.py", *SHORT, f"--workdir={workdir}")
                stopped = False
            except Stopped:
                pass
        assert len(written) >= at
        starts.append(max(Run(workdir, config).checkpoints.steps(), default=0))
        output = run_here("train.py", *SHORT, f"--workdir={workdir}")
        assert_same(trained_weights(workdir), wanted)
        said = {0: "top1", 2: "Going on after step 2\n", 4: "is trained: 4 steps"}
        assert said[starts[-1]] in output
    assert starts == sorted(starts)  # the later it stops, the less there is to do
    assert set(starts) == {0, 2, 4}


def test_a_text_run_keeps_its_vocabulary_remotely():
    pytest.importorskip("official")
    folder = new_folder()
    given = TEXT, *lengths(4, 2), f"--workdir={folder}/run", "--evaluate=False"
    run_here("train.py", *given)
    before = read_text(f"{folder}/run/vocabulary.txt")
    assert "is trained" in run_here("train.py", *given)
    assert "primary:" in run_here("evaluate.py", f"--workdir={folder}/run")
    assert read_text(f"{folder}/run/vocabulary.txt") == before
    run_here("export.py", f"--workdir={folder}/run", f"--output={folder}/model")
    embed = load(f"{folder}/model").signatures["embed"]
    assert np.isfinite(next(iter(embed(tf.constant(["a text"])).values()))).all()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (tf.errors.PermissionDeniedError, r"config.json: permission denied \(no right\)\. Log in"),
        (
            tf.errors.UnavailableError,
            r"config.json can't be read or written: Unavailable.* network",
        ),
        (tf.errors.NotFoundError, r"config.json does not exist, or vanished .*start again"),
    ],
)
def test_what_stops_a_run_is_one_line(error, text, monkeypatch):
    workdir = f"{new_folder()}/run"
    with monkeypatch.context() as patch:
        stop_writes(patch, 0, True, error(None, None, "no right"))
        with pytest.raises(SystemExit, match=f"^\nerror: {workdir}/{text}") as ended:
            run_here("train.py", *SHORT, f"--workdir={workdir}")
    assert str(ended.value).count("\n") == 1
    assert not exists(workdir)


def test_a_run_that_vanishes_half_way(remote):
    workdir, true = f"{new_folder()}/run", Run.open
    run_here("train.py", *SHORT, f"--workdir={workdir}")
    training = importlib.import_module("recipes.common.training")

    def vanishing(path):
        run = true(path)
        remove(path)
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Run, "open", vanishing)
        with pytest.raises(SystemExit, match=f"error: {workdir} holds no checkpoint; train there"):
            run_here("evaluate.py", f"--workdir={workdir}")
