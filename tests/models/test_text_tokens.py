import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.data import SPECIAL_PIECES, Wordpiece
from mrl_keras.export import export_saved_model, load, load_manifest
from mrl_keras.models import BertTokens

pytest.importorskip("tensorflow_text")

PIECES = [*SPECIAL_PIECES, "river", "##s", "lake", "The", "é"]
TEXTS = ["The rivers", "lake [MASK]", "é", ""]
OPTIONS = {"length": 5, "lower_case": False, "kept": ["[MASK]"]}


def embedder():
    text = keras.Input((), dtype="string", name="text")
    tokens = BertTokens(PIECES, **OPTIONS, name="tokens")(text)
    table = keras.layers.Embedding(len(PIECES), 4)(tokens["input_word_ids"])
    return keras.Model(text, keras.layers.GlobalAveragePooling1D()(table))


def test_the_layer_is_the_pipelines_tokenizer():
    layer, expected = BertTokens(PIECES, **OPTIONS), Wordpiece(PIECES, **OPTIONS)(TEXTS)
    for name, value in layer(tf.constant(TEXTS)).items():
        np.testing.assert_array_equal(value, expected[name])
        assert tuple(layer.compute_output_shape((None,))[name]) == (None, 5)
    assert not layer.weights


def test_every_argument_is_in_the_config():
    layer = BertTokens(PIECES, **OPTIONS, name="tokens")
    config = layer.get_config()
    assert {key: config[key] for key in OPTIONS} == OPTIONS
    again = BertTokens.from_config(config)
    assert again.get_config() == config
    assert (again.vocabulary, again.kept) == (tuple(PIECES), ("[MASK]",))


@pytest.mark.slow
def test_a_keras_file_and_an_export_take_raw_text(tmp_path):
    model = embedder()
    expected = model(tf.constant(TEXTS))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(tf.constant(TEXTS)), expected)
    path = export_saved_model(tmp_path / "exported", model, nesting_dims=[2, 4])
    manifest = load_manifest(path)
    assert manifest["custom_ops"] == ["TFText"]
    assert "tensorflow-text" in manifest["libraries"]
    answer = load(path).signatures["embed"](text=tf.constant(TEXTS))["embedding"]
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    program = (
        "import sys, tensorflow, tensorflow_text\n"
        f"m = tensorflow.saved_model.load({path!r})\n"
        f"print(m.signatures['embed'](text=tensorflow.constant({TEXTS!r}))['embedding'].numpy()[0])"
        "\nassert 'mrl_keras' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    printed = [float(number) for number in process.stdout.strip("[]\n ").split()]
    np.testing.assert_allclose(printed, np.asarray(expected)[0], atol=1e-6)


def test_a_model_with_the_layer_is_not_compiled_by_xla():
    model = embedder()
    model.compile("sgd", "mse")  # "auto" would choose XLA
    assert not model.jit_compile
    assert np.isfinite(model.train_on_batch(tf.constant(TEXTS), np.zeros((4, 4))))
