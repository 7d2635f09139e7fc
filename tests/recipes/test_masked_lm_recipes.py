"""The masked language model recipes: each trains compiled, evaluates, exports and reloads."""

import importlib
import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.data import Sampling, learn_vocabulary, read_vocabulary
from mrl_keras.export import export_saved_model, load, load_manifest
from recipes.common.training import build_compiled_model, set_up_task
from recipes.tasks.masked_lm import Task, made_sentences, nesting_dims

pytest.importorskip("official")
CONFIGS = ("bert_base_mlm", "wikitext2_mlm")
REAL = os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", "missing"), "wikitext2_small"))


def get_config(name="wikitext2_mlm", mode="tiny", **changes):
    config = importlib.import_module(f"recipes.configs.{name}").get_config(mode)
    config.update(changes)
    return config


@pytest.fixture(
    scope="module",
    params=[
        ("wikitext2_mlm", False),
        pytest.param(("wikitext2_mlm", True), marks=pytest.mark.slow),
        pytest.param(("bert_base_mlm", True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def trained(request, tmp_path_factory):
    """(task, compiled model, its weights before training, logs) of one configuration."""
    name, jit_compile = request.param
    config = get_config(name, jit_compile=jit_compile)
    task = set_up_task(config, str(tmp_path_factory.mktemp(name)))
    model = build_compiled_model(config, task)
    data = task.train_data(config.batch_size, Sampling(config.seed))
    inputs, *others = data.element_spec
    assert all(None not in spec.shape for spec in [*inputs.values(), *others])
    before = [weight.numpy() for weight in model.trainable_variables]
    history = model.fit(data, steps_per_epoch=3, epochs=1, verbose=0, shuffle=False).history
    return task, model, before, history


def test_a_compiled_step_trains_every_weight(trained):
    task, model, before, history = trained
    assert np.isfinite(history["loss"][0])
    assert {f"{key}_d{dim}" for dim in task.dims for key in ("top1", "loss")} <= set(history)
    after = [weight.numpy() for weight in model.trainable_variables]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.slow
def test_masked_tokens_are_measured_at_every_prefix(trained):
    task, model, *_ = trained
    values = dict(task.evaluate(model))
    dims = task.dims.with_interpolated()
    expected = {f"{key}/mlm/{dim}" for dim in dims for key in ("top1", "crossentropy")}
    assert set(values) == expected | {"top1/majority/all", "crossentropy/unigram/all"}
    batches = [
        (np.asarray(model(inputs)), used.numpy() > 0)
        for inputs, _, used in task.validation_data(task.config.batch_size)
    ]
    checked = np.concatenate([scores[used] for scores, used in batches]).mean(axis=0)
    for dim, (crossentropy, right) in zip(task.dims, checked, strict=True):
        np.testing.assert_allclose(values[f"crossentropy/mlm/{dim}"], crossentropy, rtol=1e-4)
        np.testing.assert_allclose(values[f"top1/mlm/{dim}"], right, rtol=1e-4)


@pytest.mark.slow
def test_the_exported_model_fills_masks(trained, tmp_path):
    task, model, *_ = trained
    path = export_saved_model(tmp_path / "model", **task.exported_parts(model))
    assert load_manifest(path)["custom_ops"] == ["TFText"]
    served = load(path)
    sentence = made_sentences(1, seed=9)[0].split()
    text = tf.constant([" ".join([sentence[0], "[MASK]", *sentence[2:]])])
    answer = served.signatures["fill_mask"](text=text)
    assert answer["pieces"].shape == (1, 3, len(task.dims), 5)
    assert answer["positions"].numpy()[0, 0] > 0
    embedding = served.signatures["embed"](text=text)["embedding"]
    assert embedding.shape == (1, task.dims.width)


def test_full_size_values_are_the_papers():
    config = get_config("bert_base_mlm", "")
    optimizer = config.optimizer
    assert (config.batch_size, config.steps, config.mask_rate) == (1024, 450_000, 0.15)
    assert (optimizer.name, optimizer.learning_rate) == ("adamw", 1e-4)
    assert (optimizer.schedule, optimizer.warmup_steps) == ("linear", 0)
    model = config.model
    assert (model.hidden_size, model.num_layers, model.num_heads) == (768, 12, 12)
    assert list(nesting_dims(config)) == [12, 24, 48, 96, 192, 384, 768]
    assert list(nesting_dims(get_config(mode=""))) == [8, 16, 32, 64, 128]


@pytest.mark.slow
def test_training_learns_what_frequencies_do_not_tell():
    config = get_config(batch_size=32, steps=360, jit_compile=True)
    config.optimizer.learning_rate = 1e-2
    config.data.made_examples = 300
    task = set_up_task(config)
    model = build_compiled_model(config, task)
    model.fit(task.train_data(32, Sampling()), steps_per_epoch=360, verbose=0, shuffle=False)
    values = dict(task.evaluate(model))
    for dim in task.dims:
        assert values[f"crossentropy/mlm/{dim}"] < 0.9 * values["crossentropy/unigram/all"]
        assert values[f"top1/mlm/{dim}"] > 1.5 * values["top1/majority/all"]


@pytest.mark.slow
def test_a_single_prefix_is_trained_alone():
    config = get_config(head="ff")
    task = set_up_task(config)
    model = build_compiled_model(config, task)
    table = model.get_layer("bert").embeddings
    head = model.get_layer("head")
    transform = head.transform.bias.numpy().copy()
    model.fit(task.train_data(8, Sampling()), steps_per_epoch=2, verbose=0, shuffle=False)
    assert list(task.dims) == [6, 24]
    changed = head.transform.bias.numpy() != transform
    assert changed[:6].all()
    assert table.shape == (120, 24)
    values = dict(task.evaluate(model))
    assert {key for key in values if "mlm" in key} == {"top1/mlm/6", "crossentropy/mlm/6"}
    inputs, labels, weights = next(iter(task.train_data(8, Sampling())))
    with tf.GradientTape() as tape:
        loss = task.loss()(labels, model(inputs, training=True), sample_weight=weights)
    whole = tape.gradient(loss, head.bias.value)
    alone = task.loss()(labels, model(inputs), sample_weight=weights)
    scores = model(inputs)[:, :, 0, 0]
    expected = float(tf.reduce_sum(scores * weights)) / weights.shape.num_elements()
    np.testing.assert_allclose(float(alone), expected, rtol=1e-4)
    assert np.abs(whole).sum() > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work directory that has the vocabulary already."""
    workdir = tmp_path_factory.mktemp("vocabulary")
    Task(get_config(), workdir)
    return workdir


def test_the_vocabulary_is_made_once_and_kept(folder, tmp_path):
    pieces = read_vocabulary(folder / "vocabulary.txt")
    assert Task(get_config()).vocabulary.pieces == pieces  # the same in every process
    (tmp_path / "vocabulary.txt").write_text("\n".join([*pieces, "new"]) + "\n")
    assert Task(get_config(), tmp_path).vocabulary.pieces[-1] == "new"
    assert pieces == learn_vocabulary(made_sentences(64, 0), 120, kept=["[UNK]"])


def test_pieces_beyond_the_table_are_refused(tmp_path, folder):
    pieces = read_vocabulary(folder / "vocabulary.txt")
    more = [f"more{i}" for i in range(121)]
    (tmp_path / "vocabulary.txt").write_text("\n".join([*pieces, *more]) + "\n")
    with pytest.raises(ValueError, match="`vocabulary.size` must be at least .* Received 120"):
        Task(get_config(), tmp_path)


def test_without_an_evaluation_split_there_are_no_scores(folder):
    task = Task(get_config(data={"eval_split": ""}), folder)
    assert "token_scores" not in task.evaluation_pass(task.build_model()).names


def test_a_resumed_run_reads_what_the_uninterrupted_one_would_have_read(folder):
    task = Task(get_config(), folder)
    whole = list(itertools.islice(task.train_data(8, Sampling(3)), 6))
    later = list(itertools.islice(task.train_data(8, Sampling(3, start_step=4)), 2))
    for one, two in zip(whole[4:], later, strict=True):
        for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "mrl"}, r"`head` must be one of .* Received 'mrl'"),
        ({"nesting_dims": (4, 8)}, "must end at the embedding width 24"),
        ({"head": "ff", "ff_dim": 99}, "`ff_dim` must not exceed the embedding width 24"),
        ({"masked_positions": 15}, "must not exceed the 14 pieces of a row. Received 15"),
        ({"mask_rate": 0.0}, "`rate` must lie between 0 and 1"),
        ({"relative_importance": "3:1"}, r"must be one of the trained prefixes .* Received 3"),
        ({"vocabulary": {"size": 9}}, "`size` must be at least"),
        ({"data": {"name": "made_up_set"}}, "No text set is named 'made_up_set'"),
        ({"data": {"name": "a,b", "feature": "x,y,z"}}, "`data.feature` must have one value, or"),
    ],
)
def test_wrong_values_are_one_clear_error(changes, message, folder):
    config = get_config(**changes)
    workdir = None if "vocabulary" in changes else folder
    with pytest.raises(ValueError, match=message):
        task = Task(config, workdir)
        task.loss()
        task.build_model()
        task.train_data(8, Sampling())


def test_unknown_mode():
    for name in CONFIGS:
        with pytest.raises(ValueError, match="must be 'tiny' or none. Received 'huge'"):
            get_config(name, "huge")


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="TFDS_DATA_DIR holds no wikitext2_small")
def test_real_text_streamed_and_in_memory():
    config = get_config(mode="")
    config.data.max_examples, config.vocabulary.size = 200, 1500
    config.vocabulary.examples = 512
    config.data.shuffle_buffer = 64
    texts = Task(config)._texts("train")
    assert not any("<unk>" in text or "@-@" in text for text in texts)
    assert any("[UNK]" in text for text in texts)
    config.data.in_memory = False
    task = Task(config)
    whole = list(itertools.islice(task.train_data(8, Sampling(1)), 5))
    later = next(iter(task.train_data(8, Sampling(1, start_step=4))))
    for a, b in zip(tf.nest.flatten(whole[4]), tf.nest.flatten(later), strict=True):
        np.testing.assert_array_equal(a, b)
    words = np.concatenate([batch[0]["input_word_ids"] for batch in whole])
    assert (words == 1).any()  # "<unk>" became "[UNK]"
    assert task.vocabulary.pieces == Task(config).vocabulary.pieces
