"""Images and texts in one space, from raw inputs."""

import keras
import numpy as np
import pytest

from mrl_keras.export import ServingOptions, export_saved_model, load
from mrl_keras.models import (
    MatryoshkaImageEmbedder,
    MatryoshkaImageTextEmbedder,
    MatryoshkaTextEmbedder,
)
from tests.support import hub
from tests.support.contracts import as_numpy, save_and_load

pytest.importorskip("keras_hub")
IMAGES = hub.images(4)


def embedder(**options):
    keras.utils.set_random_seed(0)
    return MatryoshkaImageTextEmbedder(
        MatryoshkaImageEmbedder(hub.vit(), nesting_dims=[4, 8]),
        MatryoshkaTextEmbedder(hub.bert(), hub.bert_preprocessor(), [4, 8]),
        **options,
    )


@pytest.fixture(scope="module")
def trained():
    """An embedder after a training on four pairs, and the history."""
    model = embedder(temperature=0.2, per_prefix=True)
    model.compile(keras.optimizers.Adam(0.02))
    pairs = (IMAGES, hub.TEXTS)
    options = {"batch_size": 4, "epochs": 40, "verbose": 0}
    return model, model.fit(pairs, validation_data=pairs, **options).history


@pytest.mark.slow
def test_fits_on_images_and_texts(trained):
    model, history = trained
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    names = {f"{val}in_batch_top1_d{dim}" for val in ("", "val_") for dim in (4, 8)}
    assert names < set(history)
    found = model.evaluate((IMAGES, hub.TEXTS), batch_size=4, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["loss"], history["val_loss"][-1], rtol=1e-4)


def test_similarities_are_cosines_of_the_cut_embeddings():
    model = embedder(temperature=0.2, per_prefix=True)
    prepared = model.image_embedder.named(IMAGES) | model.text_embedder.named(hub.TEXTS)
    similarity = as_numpy(model(prepared))
    inverse = np.exp(as_numpy(model.get_layer("similarity").log_inverse_temperature))
    for place, dim in enumerate([4, 8]):
        cosines = model.encode_images(IMAGES, dim) @ model.encode_texts(hub.TEXTS, dim).T
        np.testing.assert_allclose(similarity[:, place], cosines * inverse[place], atol=1e-4)


@pytest.mark.slow
def test_presets_and_files(trained, tmp_path):
    model, _ = trained
    model.save_to_preset(str(tmp_path / "preset"))
    revived = MatryoshkaImageTextEmbedder.from_preset(str(tmp_path / "preset"))
    for again in (revived, save_and_load(model)):
        np.testing.assert_allclose(
            again.encode_texts(hub.TEXTS, 4), model.encode_texts(hub.TEXTS, 4), atol=1e-6
        )
        np.testing.assert_allclose(
            again.encode_images(IMAGES), model.encode_images(IMAGES), atol=1e-6
        )
        assert list(again.nesting_dims) == [4, 8]
        np.testing.assert_allclose(
            as_numpy(again.get_layer("similarity").log_inverse_temperature),
            as_numpy(model.get_layer("similarity").log_inverse_temperature),
        )
    with pytest.raises(ValueError, match="another class|must be a folder"):
        MatryoshkaImageTextEmbedder.from_preset(str(tmp_path / "preset" / "text"))


@pytest.mark.slow
def test_is_served_from_raw_inputs(trained, tmp_path):
    model, _ = trained
    encoders = {"embed_image": model.image_embedder, "embed_text": model.text_embedder}
    path = export_saved_model(
        str(tmp_path / "served"), model.text_embedder, options=ServingOptions(encoders=encoders)
    )
    served = load(path).signatures
    found = served["embed_text"](text=keras.ops.convert_to_tensor(hub.TEXTS))["embedding"]
    expected = model.encode_texts(hub.TEXTS, normalize=False)
    np.testing.assert_allclose(as_numpy(found), expected, atol=1e-5)
    images = served["embed_image"](**{model.image_embedder.inputs[0].name: IMAGES})["embedding"]
    expected = model.encode_images(IMAGES, normalize=False)
    np.testing.assert_allclose(as_numpy(images), expected, atol=1e-5)


def test_refusals():
    image = MatryoshkaImageEmbedder(hub.vit(), nesting_dims=[4, 8])
    text = MatryoshkaTextEmbedder(hub.bert(), hub.bert_preprocessor(), [2, 8])
    with pytest.raises(ValueError, match=r"same nesting dims.*\[4, 8\].*\[2, 8\]"):
        MatryoshkaImageTextEmbedder(image, text)
    with pytest.raises(ValueError, match="A MatryoshkaTextEmbedder is wanted"):
        MatryoshkaImageTextEmbedder(image, image)
