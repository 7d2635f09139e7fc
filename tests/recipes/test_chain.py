"""From a recipe to an answer: train.py, export.py, query.py on tiny configurations."""

import json

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.export import load, load_manifest
from recipes import query
from tests.support.recipe_runs import RECIPES, SMALL, lengths, run_here

pytestmark = pytest.mark.slow


def ask(capsys, *arguments):
    capsys.readouterr()
    query.main(query.parse_arguments([*map(str, arguments), "--json"]))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def tiny(name):
    return f"--config={RECIPES}/configs/{name}.py:tiny"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    run_here(
        "train.py", *SMALL, *lengths(40, 20), f"--workdir={folder / 'run'}", "--evaluate=False"
    )
    output = run_here("export.py", f"--workdir={folder / 'run'}", f"--output={folder / 'model'}")
    return folder, output


def test_a_classifier_gets_index_plan_cascade_and_metrics(classifier):
    folder, output = classifier
    assert "has no results: evaluating it first" in output
    manifest = load_manifest(str(folder / "model"))
    about = manifest["about"]
    assert about["run"]["step"] == 40
    assert about["run"]["config"]["task"] == "image_classification"
    corpus = about["retrieval"]["corpus"]
    assert (corpus["set"], corpus["split"], corpus["rows"]) == ("made", "train", 64)
    assert len(corpus["fingerprint"]) == 64
    assert about["retrieval"]["plan"]["relevance"] == "labels"
    assert about["retrieval"]["plan"]["queries"]["held_out"] == 8
    assert set(manifest["metrics"]["top1/linear"]) == {"2", "4", "8"}
    results = (folder / "run" / "results.csv").read_text()
    assert f"top1/linear/8,{manifest['metrics']['top1/linear']['8']},40" in results
    assert 0 <= about["cascade"]["accuracy"] <= 1
    assert "classify_adaptive" in manifest["signatures"]
    extra = {path.name for path in (folder / "model" / "1" / "assets.extra").iterdir()}
    assert {"tuning.png", "tuning.csv", "manifest.json"} <= extra
    assert "learned on 8 held-out examples" in (folder / "model" / "README.md").read_text()


def test_an_image_finds_itself(classifier, capsys, tmp_path):
    folder, _ = classifier
    from recipes.common.run import Run
    from recipes.common.training import load_trained

    task, _ = load_trained(Run.open(folder / "run"))
    images = task.source.train.images[[5, 11]]
    np.save(tmp_path / "images.npy", images)
    answers = ask(capsys, folder / "model", tmp_path / "images.npy")
    for row, answer in zip((5, 11), answers, strict=True):
        assert f"class_{task.source.train.labels[row]}/{row}" == answer["ids"][0]
        assert answer["scores"] == sorted(answer["scores"], reverse=True)
    (tmp_path / "one.png").write_bytes(tf.io.encode_png(images[0]).numpy())
    (answer,) = ask(capsys, folder / "model", tmp_path / "one.png")
    assert answer["ids"] == answers[0]["ids"]


def test_a_second_export_of_a_checkpoint_embeds_nothing_and_is_the_next_version(classifier):
    folder, _ = classifier
    arguments = f"--workdir={folder / 'run'}", f"--output={folder / 'model'}"
    output = run_here("export.py", *arguments, "--plan=2:30,4:20,8", "--cascade=no", "--k=5")
    assert f"Exported {folder}/model/2" in output
    manifest = load_manifest(str(folder / "model"))
    assert manifest["cascade"] is None
    assert manifest["about"]["retrieval"]["plan"] == {"by": "hand"}
    assert manifest["retrieval"]["plan"]["dims"] == [2, 4, 8]
    served = load(str(folder / "model")).signatures["retrieve"]
    ((name, spec),) = served.structured_input_signature[1].items()
    assert served(**{name: tf.zeros([2, *spec.shape[1:]], spec.dtype)})["ids"].shape == (2, 5)


def test_other_rows_are_another_index(classifier, tmp_path):
    folder, _ = classifier
    arguments = f"--workdir={folder / 'run'}", f"--output={tmp_path / 'm'}", "--cascade=no"
    run_here("export.py", *arguments, "--max_rows=20", "--plan=8")
    run_here("export.py", *arguments, "--plan=4:20,8", "--certified")
    assert load_manifest(str(tmp_path / "m"))["retrieval"]["plan"]["certified"] is True
    rows = [load_manifest(str(tmp_path / "m" / v))["retrieval"]["rows"] for v in ("1", "2")]
    assert rows == [20, 64]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--least_queries=50"], "At least 50 held-out queries are needed"),
        (["--corpus=mnits"], "No image classification set is named 'mnits'"),
        (["--plan=3:20,8"], "3"),
        (["--plan=2,8"], "`plan` must be D_s:ROWS"),
        (["--plan=8", "--certified"], "A certified plan has two dims"),
        (["--corpus=none", "--plan=8"], "Nothing is indexed"),
        (["--held_out=2"], "`held_out` must lie above 0"),
        (["--cost=money"], "`cost` must be one of"),
        (["--relevance=judgements"], "needs judgements of made"),
    ],
)
def test_wrong_options_write_nothing(classifier, tmp_path, options, text):
    folder, _ = classifier
    with pytest.raises(SystemExit, match=text) as raised:
        run_here("export.py", f"--workdir={folder / 'run'}", f"--output={tmp_path / 'm'}", *options)
    assert "\n" not in str(raised.value).strip()
    assert not (tmp_path / "m").exists()


def test_folders_of_embeddings(classifier, tmp_path, capsys):
    folder, _ = classifier
    arguments = f"--workdir={folder / 'run'}", f"--output={tmp_path / 'm'}"
    rows = tmp_path / "rows"
    rows.mkdir()
    np.save(rows / "embeddings.npy", np.random.default_rng(0).standard_normal((40, 6)))
    with pytest.raises(SystemExit, match=r"must be \(rows, 8\)"):
        run_here("export.py", *arguments, f"--corpus={rows}")
    np.save(rows / "embeddings.npy", np.random.default_rng(0).standard_normal((40, 8)))
    np.save(rows / "ids.npy", np.arange(40) % 30)
    with pytest.raises(SystemExit, match="In rows 0 comes twice"):
        run_here("export.py", *arguments, f"--corpus={rows}")
    np.save(rows / "ids.npy", np.arange(40) + 100)
    run_here("export.py", *arguments, f"--corpus={rows}", "--relevance=neighbours")
    np.save(tmp_path / "image.npy", np.zeros((1, 16, 16, 3), "uint8"))
    (answer,) = ask(capsys, tmp_path / "m", tmp_path / "image.npy")
    assert min(answer["ids"]) >= 100


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    run_here("train.py", tiny("emoji_captions"), f"--workdir={folder / 'run'}", "--evaluate=False")
    run_here("export.py", f"--workdir={folder / 'run'}", f"--output={folder / 'model'}",
             "--corpus_split=test")  # fmt: skip
    return folder


def test_a_dual_encoder_answers_in_both_directions(pairs, capsys, tmp_path):
    manifest = load_manifest(str(pairs / "model"))
    for about in (manifest["about"]["retrieval"], manifest["about"]["retrievals"]["texts"]):
        assert about["plan"]["relevance"] == "judgements"  # the queries' own rows are indexed
        assert about["corpus"]["split"] == "test"
    assert {"retrieve_texts", "retrieve_texts_batch"} <= set(manifest["signatures"])
    (answer,) = ask(capsys, pairs / "model", "a red image")
    rows = {int(one.split("/")[0]) for one in answer["ids"]}
    assert len(rows) == 10
    np.save(tmp_path / "image.npy", np.zeros((1, 16, 16, 3), "uint8"))
    (answer,) = ask(capsys, pairs / "model", tmp_path / "image.npy")
    assert all("/" in one for one in answer["ids"])
    with pytest.raises(ValueError, match="has no retrieval that takes an array"):
        np.save(tmp_path / "flat.npy", np.zeros((1, 7), "float32"))
        ask(capsys, pairs / "model", tmp_path / "flat.npy")


def test_texts_find_texts_and_a_masked_lm_fills_masks(tmp_path, capsys):
    run_here("train.py", tiny("sts_text_embedder"), f"--workdir={tmp_path / 'run'}",
             "--evaluate=False")  # fmt: skip
    run_here("export.py", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'model'}")
    manifest = load_manifest(str(tmp_path / "model"))
    assert manifest["about"]["retrieval"]["plan"]["relevance"] == "neighbours"
    with open(tmp_path / "run" / "config.json") as file:
        assert json.load(file)["task"] == "text_embedding"
    (first,) = ask(capsys, tmp_path / "model", "some words")
    (again,) = ask(capsys, tmp_path / "model", first["ids"][0].partition("/")[2])
    assert again["ids"][0] == first["ids"][0]
    run_here("train.py", tiny("wikitext2_mlm"), f"--workdir={tmp_path / 'mlm'}", "--evaluate=False")
    run_here("export.py", f"--workdir={tmp_path / 'mlm'}", f"--output={tmp_path / 'filler'}")
    manifest = load_manifest(str(tmp_path / "filler"))
    assert manifest["retrieval"] is None
    assert "fill_mask" in manifest["signatures"]
    with pytest.raises(ValueError, match="has no retrieval that takes a text"):
        ask(capsys, tmp_path / "filler", "a [MASK]")


def test_bundled_sets_are_exported(tmp_path):
    run_here(
        "train.py", tiny("digit_pairs"), "--config.data.name=digit_pairs",
        f"--workdir={tmp_path / 'run'}", "--evaluate=False",
    )  # fmt: skip
    run_here("export.py", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'model'}")
    manifest = load_manifest(str(tmp_path / "model"))
    assert manifest["about"]["retrieval"]["corpus"]["set"] == "digit_pairs"
    assert "retrieve" in manifest["signatures"]


OWN = """
import keras, numpy as np, tensorflow as tf
import mrl_keras
from mrl_keras.evaluation import EvaluationPass
from recipes.common.task import Task as Base

class Task(Base):
    def train_data(self, batch_size, sampling):
        rows = np.eye(4, dtype="float32")[np.arange(64) % 4], np.arange(64) % 4
        return tf.data.Dataset.from_tensor_slices(rows).repeat().batch(batch_size)

    def build_model(self):
        inputs = keras.Input((4,), name="features")
        embedding = keras.layers.Dense(8, name="embedding")(inputs)
        return keras.Model(inputs, mrl_keras.MatryoshkaDense(4, [4, 8], name="head")(embedding))

    def loss(self):
        inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return mrl_keras.MatryoshkaLoss(inner)

    def evaluation_pass(self, model):
        encoder, rows = self.exported_parts(model)["encoder"], np.eye(4, dtype="float32")
        batches = [(rows, np.arange(4))]
        return EvaluationPass.of_embeddings(encoder.predict_on_batch, batches, [4, 8], batches)

    def exported_parts(self, model):
        encoder = keras.Model(model.input, model.get_layer("embedding").output)
        return {"encoder": encoder, "classifier": model.get_layer("head")}
"""


def test_a_task_of_ones_own_without_data_to_retrieve_is_exported(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "own_task_of_groups.py").write_text(OWN)
    (tmp_path / "own_config.py").write_text(
        "from recipes.configs.common_defaults import defaults\n"
        "def get_config(mode=''):\n"
        "    config = defaults('package.own_task_of_groups')\n"
        "    config.steps = config.checkpoint_every = 2\n"
        "    config.optimizer.name, config.optimizer.learning_rate = 'adam', 0.01\n"
        "    config.evaluators = {'neighbours': {'ks': [1]}}\n"
        "    return config\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run_here("train.py", f"--config={tmp_path}/own_config.py", f"--workdir={tmp_path / 'run'}")
    run_here("export.py", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'model'}")
    assert "classify" in load_manifest(str(tmp_path / "model"))["signatures"]
    page = (tmp_path / "model" / "README.md").read_text()
    assert "a run of the task package.own_task_of_groups" in page
    with pytest.raises(SystemExit):
        run_here(
            "export.py", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'model'}",
            "--cascade=yes",
        )  # fmt: skip
