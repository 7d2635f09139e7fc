"""The committed SavedModel answers as its card and manifest say."""

import pathlib

import numpy as np

from mrl_keras.data import load_images
from mrl_keras.export import load, load_manifest

DIGITS = pathlib.Path(__file__).parent.parent / "saved_models" / "digits_mrl"


def test_digits_mrl():
    manifest, model = load_manifest(str(DIGITS)), load(str(DIGITS))
    test = load_images("digits").test
    images = test.images.astype("float32")
    width, metrics = str(manifest["width"]), manifest["metrics"]

    classes = model.signatures["classify"](images=images)["class"].numpy()
    np.testing.assert_allclose(
        np.mean(classes == test.labels), metrics["linear"][width], atol=0.003
    )
    assert f"{100 * metrics['linear'][width]:.2f}" in (DIGITS / "README.md").read_text()

    ids = model.signatures["retrieve"](images=images)["ids"].numpy()
    assert ids.shape == (len(test), manifest["retrieval"]["plan"]["k"])
    nearest = np.array([int(name.decode().split("/")[0]) for name in ids[:, 0]])
    np.testing.assert_allclose(np.mean(nearest == test.labels), metrics["1-NN"][width], atol=0.005)


def test_the_folder_is_small():
    size = sum(path.stat().st_size for path in DIGITS.rglob("*") if path.is_file())
    assert size < 3 * 2**20
