"""The recipes of text embedders and dual encoders: each trains compiled, evaluates, exports and
reloads in a process that knows nothing of this package."""

import importlib
import itertools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import NestingDims
from mrl_keras.data import Sampling, read_vocabulary
from mrl_keras.export import export_saved_model, load_manifest
from mrl_keras.models import towers
from recipes.common.optimizers import optimizer
from recipes.common.vocabulary import FILE_NAME
from recipes.tasks.image_text import Task as ImageText
from recipes.tasks.text_embedding import Task as TextEmbedding
from tests.data.test_captions import Captioned
from tests.data.test_image_pipeline import StreamedImages

FRESH = """
import json, sys
import numpy as np, tensorflow as tf, tensorflow_text
served = tf.saved_model.load(sys.argv[1])
given = json.load(open(sys.argv[2]))
answers = {}
for name, inputs in given.items():
    tensors = {k: tf.constant(v if isinstance(v[0], str) else np.array(v, "float32"))
               for k, v in inputs.items()}
    found = served.signatures[name](**tensors)
    answers[name] = {k: v.numpy().astype(str if v.dtype == tf.string else "float64").tolist()
                     for k, v in found.items()}
assert not {"mrl_keras", "official"} & set(sys.modules)
json.dump(answers, open(sys.argv[3], "w"))
"""


def get_config(name, mode="tiny", **changes):
    config = importlib.import_module(f"recipes.configs.{name}").get_config(mode)
    config.update(changes)
    return config


def train_three_steps(task, config, jit_compile):
    """The task's model after three steps at static shapes, and their logs."""
    model = task.build_model()
    model.compile(
        optimizer(config, model.trainable_variables),
        task.loss(),
        metrics=task.metrics(),
        jit_compile=jit_compile,
    )
    data = task.train_data(config.batch_size, Sampling(config.seed))
    assert all(None not in spec.shape for spec in tf.nest.flatten(data.element_spec))
    before = [weight.numpy() for weight in model.trainable_variables]
    history = model.fit(data, steps_per_epoch=3, epochs=1, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"][0])
    after = [weight.numpy() for weight in model.trainable_variables]
    # A key's bias adds the same number to all of a query's scores: softmax does not see it.
    changes = zip(before, after, model.trainable_variables, strict=True)
    assert all((a != b).any() or "key" in w.name for a, b, w in changes)
    return model, history


def fresh_process(path, inputs, folder):
    """What the signatures give in a process with TensorFlow and tensorflow-text alone."""
    (folder / "given.json").write_text(json.dumps(inputs))
    answers = folder / "answers.json"
    command = [sys.executable, "-c", FRESH, str(path), str(folder / "given.json"), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        name: {key: np.array(value) for key, value in found.items()}
        for name, found in json.loads(answers.read_text()).items()
    }


slow = pytest.mark.slow
# (what, whether XLA compiles the step): as on a TPU in the slow tier.
OBJECTIVES = [
    ("ranking", False),
    pytest.param(("ranking", True), marks=slow),
    pytest.param(("contrastive", True), marks=slow),
]
DUAL_ENCODERS = [
    ("emoji_captions", False),
    pytest.param(("emoji_captions", True), marks=slow),
    pytest.param(("align_coco", True), marks=slow),
]


@pytest.fixture(scope="module", params=OBJECTIVES, ids=str)
def embedder(request, tmp_path_factory):
    """(task, model, logs, folder of the run) of a text embedder."""
    keras.utils.set_random_seed(0)
    objective, jit_compile = request.param
    folder = tmp_path_factory.mktemp(objective)
    config = get_config("sts_text_embedder", objective=objective)
    task = TextEmbedding(config, folder)
    return task, *train_three_steps(task, config, jit_compile), folder


@pytest.fixture(scope="module", params=DUAL_ENCODERS, ids=str)
def encoder(request, tmp_path_factory):
    """(task, model, logs, folder of the run) of a dual encoder."""
    keras.utils.set_random_seed(0)
    name, jit_compile = request.param
    folder = tmp_path_factory.mktemp(name)
    config = get_config(name)
    task = ImageText(config, folder)
    return task, *train_three_steps(task, config, jit_compile), folder


def test_a_text_embedder_is_trained_and_measured(embedder):
    task, model, history, folder = embedder
    metric = {"ranking": "loss", "contrastive": "in_batch_top1"}[task.config.objective]
    assert {f"{metric}_d{dim}" for dim in task.dims} <= set(history)
    values = dict(task.evaluate(model))
    assert list(values) == [
        *(f"spearman/cosine/{dim}" for dim in task.dims.with_interpolated()),
        f"spearman/untrained/{task.dims.width}",
        "spearman/words/all",
        "spearman/tf_idf/all",
    ]
    assert all(-1 <= value <= 1 for value in values.values())
    assert values["spearman/words/all"] > 0.8  # the made scores are those of the common words
    assert read_vocabulary(folder / FILE_NAME) == task.vocabulary.pieces


@slow
def test_an_exported_text_embedder_takes_raw_text(embedder, tmp_path):
    task, model, *_ = embedder
    texts = [*task.test.first[:3], "Unseen: words", ""]
    path = export_saved_model(tmp_path / "model", **task.exported_parts(model))
    assert load_manifest(path)["custom_ops"] == ["TFText"]
    found = fresh_process(path, {"embed": {"text": texts}}, tmp_path)["embed"]["embedding"]
    np.testing.assert_allclose(found, task.embed(model, texts), atol=1e-5)


def test_a_graph_of_raw_text_equals_the_pipeline(embedder, encoder):
    task, model, *_ = embedder
    texts = [*task.test.first[:3], "Unseen: words", ""]
    found = task.exported_parts(model)["encoder"](tf.constant(texts))
    np.testing.assert_allclose(found, task.embed(model, texts), atol=1e-5)
    task, model, *_ = encoder
    texts, tower = ["a red image", "unseen"], towers(model)[1]
    found = task.text_encoder(tower)(tf.constant(texts))
    np.testing.assert_allclose(found, task.embed_texts(tower, texts), atol=1e-5)


def test_a_dual_encoder_is_trained_and_measured(encoder):
    task, model, history, _ = encoder
    assert {f"in_batch_top1_d{dim}" for dim in task.dims} <= set(history)
    wanted = task.config.temperature
    assert history["temperature"][0] != wanted
    np.testing.assert_allclose(history["temperature"][0], wanted, rtol=0.1)
    values = dict(task.evaluate(model))
    assert list(values) == [
        f"recall@{k}/{direction}/{dim}"
        for direction in ("text_to_image", "image_to_text")
        for k in (1, 10)
        for dim in task.dims.with_interpolated()
    ]
    assert all(0 <= value <= 1 for value in values.values())


@slow
def test_an_exported_dual_encoder_embeds_text_and_images(encoder, tmp_path):
    task, model, *_ = encoder
    image, _ = towers(model)
    test = task.source.test()
    path = export_saved_model(tmp_path / "model", **task.exported_parts(model))
    manifest = load_manifest(path)
    assert manifest["encoders"] == ["embed_image", "embed_text"]
    assert manifest["custom_ops"] == ["TFText"]
    texts = ["a red image", "bright at the top"]
    inputs = {
        "embed_text": {"text": texts},
        "embed_image": {"images": test.images[:3].tolist()},
    }
    found = fresh_process(path, inputs, tmp_path)
    embedded = found["embed_text"]["embedding"]
    expected = task.text_encoder(towers(model)[1])(tf.constant(texts))
    np.testing.assert_allclose(embedded, expected, atol=1e-5)
    images = task.embed_images(image, test.images)
    np.testing.assert_allclose(found["embed_image"]["embedding"], images[:3], atol=1e-5)


@slow
def test_streamed_captions_and_zero_shot_classes(tmp_path):
    """Files of TFDS instead of arrays, and a labelled set whose classes' names are the prompts."""
    folder = str(tmp_path / "tfds")
    for builder in (Captioned(data_dir=folder), StreamedImages(data_dir=folder)):
        builder.download_and_prepare()
    config = get_config("align_coco")
    config.data.update(
        {
            "name": "captioned",
            "data_dir": folder,
            "captions": "captions/text",
            "eval_split": "train",
            "in_memory": False,
            "augment": "random_resized_crop",
            "resolution": (16, 16),
            "eval_resolution": 16,
        }
    )
    config.evaluation.zero_shot.update({"name": "streamed_images", "split": "train"})
    task = ImageText(config, tmp_path)
    assert task.source.image_shape == (16, 16, 3)
    inputs, labels = next(iter(task.train_data(8, Sampling())))
    assert (inputs["images"].shape, labels.shape) == ((8, 16, 16, 3), (8,))
    assert inputs["input_word_ids"].shape == (8, config.text.length)
    assert inputs["input_mask"].numpy().sum(axis=1).min() >= 3
    values = dict(task.evaluate(task.build_model()))
    dims = task.dims.with_interpolated()
    assert [name for name in values if "zero" in name] == [f"top1/zero_shot/{m}" for m in dims]
    assert all(0 <= value <= 1 for value in values.values())


def test_full_size_values_are_the_papers():
    config = get_config("align_coco", "")
    assert (config.batch_size, config.steps) == (8 * 64, 1_000_000)
    assert config.optimizer.name == "adafactor"
    dims = NestingDims.halving(config.embedding_width, config.smallest_dim)
    assert list(dims) == [12, 24, 48, 96, 192, 384, 768]


def test_a_resumed_run_embeds_the_pairs_that_the_uninterrupted_one_would_have(embedder):
    check_resumed(embedder[0], embedder[-1])


def test_a_resumed_run_reads_the_captions_that_the_uninterrupted_one_would_have(encoder):
    check_resumed(encoder[0], encoder[-1])


def check_resumed(task, folder):
    whole = list(itertools.islice(task.train_data(8, Sampling(3)), 6))
    again = type(task)(task.config, folder)  # with the vocabulary of the folder
    later = list(itertools.islice(again.train_data(8, Sampling(3, start_step=4)), 2))
    for left, right in zip(whole[4:], later, strict=True):
        for a, b in zip(tf.nest.flatten(left), tf.nest.flatten(right), strict=True):
            np.testing.assert_array_equal(a, b)
    batches = zip(*(tf.nest.flatten(batch) for batch in whole[:2]), strict=True)
    assert any((first.numpy() != second.numpy()).any() for first, second in batches)


def test_errors():
    for name in ("sts_text_embedder", "emoji_captions", "align_coco"):
        with pytest.raises(ValueError, match="must be 'tiny' or none. Received 'huge'"):
            get_config(name, "huge")
    with pytest.raises(ValueError, match="`objective` must be one of .* Received 'best'"):
        TextEmbedding(get_config("sts_text_embedder", objective="best"))
    config = get_config("emoji_captions")
    config.data.augment = "mixup"
    with pytest.raises(ValueError, match="`data.augment` must be one of .* Received 'mixup'"):
        ImageText(config)
    config.data.update({"augment": "random_resized_crop", "name": "emoji_captions"})
    with pytest.raises(ValueError, match="'random_resized_crop' is for streamed sets"):
        ImageText(config)
