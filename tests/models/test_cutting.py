import keras
import numpy as np
import pytest

from mrl_keras import normalize_prefix
from mrl_keras.models import cut, image_classifier, small_convnet
from tests.support.contracts import as_numpy, save_and_load

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype("float32")


def encoder():
    keras.utils.set_random_seed(0)
    return small_convnet((8, 8, 1), width=16, filters=(4,))


def test_an_encoder_ends_at_the_prefix():
    whole = encoder()
    full, made = as_numpy(whole(IMAGES)), cut(whole, 4)
    np.testing.assert_allclose(as_numpy(made(IMAGES)), full[:, :4], atol=1e-6)
    assert whole.count_params() - made.count_params() == 12 * (4 + 1)
    unit = cut(whole, 4, normalize=True)
    expected = as_numpy(normalize_prefix(full, 4))
    np.testing.assert_allclose(as_numpy(save_and_load(unit)(IMAGES)), expected, atol=1e-6)


@pytest.mark.parametrize("efficient", [False, True])
def test_a_classifier_keeps_the_head_of_the_prefix(efficient):
    model = image_classifier(encoder(), 3, [4, 8, 16], efficient=efficient)
    expected = as_numpy(model(IMAGES))
    for place, dim in enumerate([4, 8, 16]):
        made = cut(model, dim)
        np.testing.assert_allclose(as_numpy(made(IMAGES)), expected[:, place], atol=1e-5)
        assert made.get_layer("head").count_params() == 3 * dim + 3
    if efficient:
        head = model.get_layer("head")
        between = as_numpy(head.prefix_logits(encoder()(IMAGES), 6))
        np.testing.assert_allclose(as_numpy(cut(model, 6)(IMAGES)), between, atol=1e-5)


def test_other_ends_are_sliced():
    inputs = keras.Input((6,))
    hidden = keras.layers.LayerNormalization()(keras.layers.Dense(8)(inputs))
    x = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    whole = keras.Model(inputs, hidden)
    np.testing.assert_array_equal(as_numpy(cut(whole, 2)(x)), as_numpy(whole(x))[:, :2])
    sequence = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    assert cut(sequence, 2).count_params() == 14
    np.testing.assert_allclose(
        as_numpy(cut(sequence, 2)(x)), as_numpy(sequence(x))[:, :2], atol=1e-6
    )
    soft = keras.Model(inputs, keras.layers.Dense(8, activation="softmax")(inputs))
    np.testing.assert_array_equal(as_numpy(cut(soft, 2)(x)), as_numpy(soft(x))[:, :2])


def litert(path, inputs):
    import tensorflow as tf

    answer = tf.lite.Interpreter(path).get_signature_runner()
    return answer(**{next(iter(answer.get_input_details())): inputs})


def onnx(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return {"output": session.run(None, {session.get_inputs()[0].name: inputs})[0]}


def openvino(path, inputs):
    import openvino

    # Where a CPU has bfloat16 units, OpenVINO's default is bfloat16.
    return openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)


# {format: (what Keras and the runtime need, the ending of the file, how it runs)}
RUNTIMES = {
    "litert": ([], ".tflite", litert),
    "onnx": (["tf2onnx", "onnxruntime"], ".onnx", onnx),
    "openvino": (["openvino"], ".xml", openvino),
}


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="one backend is enough")
@pytest.mark.filterwarnings("ignore")  # the converters' and the runtimes' own
@pytest.mark.parametrize("kind", RUNTIMES)
def test_the_same_numbers_in_other_runtimes(kind, tmp_path):
    packages, ending, run = RUNTIMES[kind]
    for package in packages:
        pytest.importorskip(package)
    whole, sizes = encoder(), {}
    classifier = cut(image_classifier(whole, 3, [4, 16]), 4)
    models = {dim: cut(whole, dim, normalize=True) for dim in (4, 16)} | {"head": classifier}
    for name, made in models.items():
        path, expected = str(tmp_path / f"{name}{ending}"), as_numpy(made(IMAGES))
        made.export(path, format=kind, verbose=False)
        (found,) = run(path, IMAGES).values()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        sizes[name] = sum(file.stat().st_size for file in tmp_path.glob(f"{name}.*"))
    assert sizes[16] - sizes[4] > 12 * 4 * 4  # float32 columns of the last kernel


def test_refusals():
    model = image_classifier(encoder(), 3, [4, 16])
    for wrong, text in (
        (lambda: cut(encoder(), 17), "d at least `dim`.*dim=17"),
        (lambda: cut(encoder(), 0), "`dim` must be at least 1"),
        (lambda: cut(model, 8), "8"),
        (lambda: cut(model, 4, normalize=True), "for embeddings"),
        (lambda: cut(keras.layers.Dense(3), 2), "functional or Sequential"),
    ):
        with pytest.raises(ValueError, match=text):
            wrong()
