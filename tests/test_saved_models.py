"""The committed SavedModels answer as their cards, their manifests and README say."""

import pathlib
import re

import numpy as np
import pytest

from mrl_keras.data import load_images
from mrl_keras.export import load, load_manifest
from recipes import query

ROOT = pathlib.Path(__file__).parent.parent
DIGITS, EMOJI = ROOT / "saved_models" / "digits_mrl", ROOT / "saved_models" / "emoji"


def test_digits_mrl():
    manifest, model = load_manifest(str(DIGITS)), load(str(DIGITS))
    test = load_images("digits").test
    images = test.images.astype("float32")
    width, metrics = str(manifest["width"]), manifest["metrics"]

    classes = model.signatures["classify"](images=images)["class"].numpy()
    np.testing.assert_allclose(
        np.mean(classes == test.labels), metrics["linear"][width], atol=0.003
    )
    assert f"{metrics['linear'][width]:.4f}" in (DIGITS / "README.md").read_text()

    ids = model.signatures["retrieve"](images=images)["ids"].numpy()
    assert ids.shape == (len(test), manifest["retrieval"]["plan"]["k"])
    nearest = np.array([int(name.decode().split("/")[0]) for name in ids[:, 0]])
    np.testing.assert_allclose(np.mean(nearest == test.labels), metrics["1-NN"][width], atol=0.005)


def test_words_find_emoji_as_readme_shows(capsys):
    query.main(query.parse_arguments([str(EMOJI), "party"]))
    printed = capsys.readouterr().out.splitlines()
    shown = re.search(r"```\n(party\n.*?)\n\.\.\.\n```", (ROOT / "README.md").read_text(), re.S)
    for line, found in zip(shown[1].splitlines(), printed, strict=False):
        wanted, got = line.split(), found.split()
        assert wanted[1:] == got[1:]
        if len(wanted) > 1:
            assert float(got[0]) == pytest.approx(float(wanted[0]), abs=2e-4)


def test_an_emoji_finds_words_and_the_card_has_the_metrics():
    manifest, model = load_manifest(str(EMOJI)), load(str(EMOJI))
    images = np.zeros((2, 64, 64, 3), "uint8")
    ids = model.signatures["retrieve_texts"](images=images)["ids"].numpy()
    assert ids.shape == (2, manifest["retrievals"]["texts"]["plan"]["k"])
    card = (EMOJI / "README.md").read_text()
    for values in manifest["metrics"].values():
        assert all(f"{values[str(dim)]:.4f}" in card for dim in manifest["nesting_dims"])


@pytest.mark.parametrize(("folder", "limit"), [(DIGITS, 3e6), (EMOJI, 5e6)])
def test_the_folders_are_small(folder, limit):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < limit
