"""A trained run on sets whose classes have another order, or names of their own."""

import csv
import importlib
import json
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mrl_keras.evaluation import RobustnessRow
from recipes.common.run import Run
from recipes.common.training import load_trained, train
from recipes.report import robustness
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.runs import TrainedRun
from recipes.report.parts.study import Options, Study


class Shapes(tfds.core.GeneratorBasedBuilder):
    """24 training and 20 test images of four brightnesses, one for each class."""

    VERSION = tfds.core.Version("1.0.0")
    NAMES, BRIGHTNESS = ("a", "b", "c", "d"), (20, 90, 160, 230)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(16, 16, 3)),
            "label": tfds.features.ClassLabel(names=self.NAMES),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(24), "test": self._generate_examples(20)}

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        for i in range(count):
            label = i % len(self.NAMES)
            image = np.clip(rng.normal(self.BRIGHTNESS[label], 10, (16, 16, 3)), 0, 255)
            yield i, {"image": image.astype("uint8"), "label": label}


class OtherShapes(Shapes):
    """The classes "d" and "b", and one that the run does not know."""

    NAMES, BRIGHTNESS = ("d", "b", "unknown"), (230, 90, 120)


class OwnNames(Shapes):
    """The same images as the run's, under names of their own: "low" is "a" or "b"."""

    NAMES, BRIGHTNESS = ("low", "high"), (20, 230)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for kind in (Shapes, OtherShapes, OwnNames):
        kind(data_dir=folder).download_and_prepare()
    config = importlib.import_module("recipes.configs.cifar10_resnet").get_config("tiny")
    config.data.name, config.data.data_dir = "shapes", str(folder)
    config.steps, config.checkpoint_every, config.optimizer.warmup_steps = 2, 2, 1
    workdir = tmp_path_factory.mktemp("run")
    train(config, workdir, verbose=0)
    return Run.open(workdir)


@pytest.mark.slow
def test_classes_are_matched_by_name(run, tmp_path):
    (tmp_path / "names.json").write_text(
        json.dumps({"own_names": {"low": ["a", "b"], "high": ["c", "d"]}})
    )
    options = types.SimpleNamespace(
        workdir=run.workdir,
        sets=["other_shapes", "own_names"],
        split="test",
        renamed=str(tmp_path / "names.json"),
    )
    robustness.main(options)
    with open(run.path("robustness.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    task, model = load_trained(run)
    assert [int(row["dim"]) for row in rows] == [*task.dims, *task.dims]
    # 7 + 7 of 20 images are of a known class of the first set, all 20 of the second's.
    assert [int(row["examples"]) for row in rows] == [14] * 4 + [20] * 4
    test = task.source.test
    logits = np.asarray(model.predict_on_batch(test.images))
    both = np.isin(test.labels, [1, 3])
    for place, (other, own) in enumerate(zip(rows[:4], rows[4:], strict=True)):
        guess = np.array([1, 3])[logits[both][:, place, [1, 3]].argmax(axis=-1)]
        assert float(other["clean"]) == pytest.approx((guess == test.labels[both]).mean())
        low = (logits[:, place].argmax(axis=-1) < 2) == (test.labels < 2)
        assert float(own["clean"]) == pytest.approx(low.mean())


@pytest.mark.slow
def test_novel_classes_of_a_report_are_read_and_embedded_as_the_runs_own(run, tmp_path):
    options = Options(novel="shapes")  # the run's own set in the place of another
    study = Study([TrainedRun(run)], ResultCache(tmp_path), options)
    (source,) = study.novel_sources()
    found = source.outputs()
    assert "logits" not in found
    assert found["train_embeddings"].shape == (24, 16)
    own = study.outputs(study.runs[0])
    np.testing.assert_allclose(found["embeddings"], own["embeddings"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["labels"], own["labels"])


@pytest.mark.slow
def test_clear_errors(run):
    with pytest.raises(ValueError, match="no class name in common"):
        robustness.measure(run, ["own_names"])
    with pytest.raises(ValueError, match="No image classification set is named 'nowhere'"):
        robustness.measure(run, ["nowhere"])


def test_a_row_for_each_set_and_dim(tmp_path, monkeypatch, capsys):
    rows = {2: RobustnessRow(0.25, 0.5), 4: RobustnessRow(0.5, 0.75)}
    monkeypatch.setattr(robustness, "measure", lambda *_: ({"sketch": rows}, {"sketch": 8}))
    (tmp_path / "config.json").write_text("{}")
    options = types.SimpleNamespace(workdir=tmp_path, sets=["sketch"], split="test", renamed="")
    robustness.main(options)
    with open(tmp_path / "robustness.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["set", "dim", "shifted", "clean", "examples"],
            ["sketch", "2", "0.25", "0.5", "8"],
            ["sketch", "4", "0.5", "0.75", "8"],
        ]
    assert capsys.readouterr().out.splitlines()[0].split() == ["sketch", "2", "25.00", "50.00"]


def test_made_images_have_no_classes_to_match(monkeypatch):
    task = types.SimpleNamespace(source=types.SimpleNamespace(builder=None))
    monkeypatch.setattr(robustness, "load_trained", lambda run: (task, None))
    with pytest.raises(ValueError, match="must be on a set of TFDS"):
        robustness.measure(None, ["sketch"])
