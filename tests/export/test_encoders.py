"""Further encoders of raw inputs of their own: the towers of a dual encoder."""

import keras
import numpy as np
import pytest

from mrl_keras.export import ServingOptions, export_saved_model, load, load_manifest
from mrl_keras.retrieval import NestedIndex, SearchPlan

RNG = np.random.default_rng(0)


def tower(name, width):
    inputs = keras.Input((width,), name=name)
    return keras.Model(inputs, keras.layers.Dense(8)(inputs))


def test_each_encoder_has_its_signature(tmp_path):
    words, pixels = tower("words", 4), tower("pixels", 6)
    images = RNG.standard_normal((30, 6)).astype("float32")
    rows = pixels.predict(images, verbose=0)
    path = export_saved_model(
        tmp_path / "model",
        words,
        index=NestedIndex.build(rows, [4, 8]),
        plan=SearchPlan((4, 8), (30,), k=3),
        options=ServingOptions(encoders={"embed_text": words, "embed_image": pixels}),
    )
    manifest, served = load_manifest(path), load(path)
    assert manifest["encoders"] == ["embed_image", "embed_text"]
    assert manifest["signatures"]["embed_image"] == {"pixels": ["float32", [None, 6]]}
    assert manifest["normalization"]["embed_image"] is None
    texts = RNG.standard_normal((5, 4)).astype("float32")
    found = served.signatures["embed_text"](words=texts)["embedding"]
    np.testing.assert_allclose(found, words.predict(texts, verbose=0), atol=1e-5)
    again = served.signatures["embed_image"](pixels=images)["embedding"]
    np.testing.assert_allclose(again, rows, atol=1e-5)
    nearest = served.signatures["retrieve"](words=texts)["indices"].numpy()[:, 0]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (found.numpy(), rows)]
    np.testing.assert_array_equal(nearest, (unit[0] @ unit[1].T).argmax(axis=1))


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({"embed": tower("pixels", 6)}, "no other signature has.* Received 'embed'"),
        ({"twice": tower("pixels", 6)}, "no other signature has.* Received 'twice'"),
        (
            {"embed_image": keras.Sequential([keras.Input((6,)), keras.layers.Dense(7)])},
            r"must give embeddings \(batch, 8\).* shape is \(None, 7\)",
        ),
    ],
)
def test_errors(encoders, message, tmp_path):
    heads = {"twice": keras.layers.Dense(2)}
    with pytest.raises(ValueError, match=message):
        export_saved_model(
            tmp_path / "model",
            tower("words", 4),
            nesting_dims=[8],
            options=ServingOptions(encoders=encoders, heads=heads),
        )
    assert not (tmp_path / "model").exists() or not list((tmp_path / "model").iterdir())
