"""The committed SavedModels answer as their cards, their manifests and README say."""

import pathlib
import re

import numpy as np
import pytest

from mrl_keras.data import load_images
from mrl_keras.export import load, load_manifest
from mrl_keras.retrieval import mean_average_precision
from recipes import query

ROOT = pathlib.Path(__file__).parent.parent
PAIRS, EMOJI = ROOT / "saved_models" / "digit_pairs", ROOT / "saved_models" / "emoji"


def test_digit_pairs():
    manifest, model = load_manifest(str(PAIRS)), load(str(PAIRS))
    test, card = load_images("digit_pairs").test, (PAIRS / "README.md").read_text()
    images = test.images.astype("float32")
    width, metrics = str(manifest["width"]), manifest["metrics"]
    assert manifest["custom_ops"] == []  # tf.saved_model.load needs nothing else

    classes = model.signatures["classify"](images=images)["class"].numpy()
    np.testing.assert_allclose(
        np.mean(classes == test.labels), metrics["linear"][width], atol=0.003
    )
    assert f"{metrics['linear'][width]:.4f}" in card

    cascade = model.signatures["classify_adaptive"](images=images)
    about = manifest["about"]["cascade"]
    right = np.mean(cascade["class"].numpy() == test.labels)
    np.testing.assert_allclose(right, about["accuracy"], atol=0.003)
    np.testing.assert_allclose(cascade["dim"].numpy().mean(), about["expected_dims"], atol=0.1)
    assert f"{about['accuracy']:.4f}" in card

    ids = model.signatures["retrieve"](images=images)["ids"].numpy()
    assert ids.shape == (len(test), manifest["retrieval"]["plan"]["k"])
    found = np.array([[int(name.decode().split("/")[0]) for name in row] for row in ids])
    precision = mean_average_precision(found == test.labels[:, None], 10)
    about = manifest["about"]["retrieval"]["plan"]
    np.testing.assert_allclose(precision, about["rest"]["plan"], atol=0.003)
    assert f"{about['rest']['plan']:.4f}" in card


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


@pytest.mark.parametrize(("folder", "limit"), [(PAIRS, 3e6), (EMOJI, 5e6)])
def test_the_folders_are_small(folder, limit):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < limit
