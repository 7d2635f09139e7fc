"""Models that were saved before the package's rooms moved load, and answer the same."""

import pathlib

import keras
import numpy as np
import pytest

import mrl_keras.baselines
import mrl_keras.cascade
import mrl_keras.models  # noqa: F401  (registers its layers)

FOLDER = pathlib.Path(__file__).parent / "support" / "saved"
GARDEN = {"text_embedder", "mask_filler"}
SAVED = [
    pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem == "mask_filler" else ())
    for path in sorted(FOLDER.glob("*.keras"))
]


@pytest.mark.parametrize("path", SAVED)
def test_a_model_saved_before_the_move_answers_the_same(path):
    if path.stem in GARDEN:
        pytest.importorskip("official")
        pytest.importorskip("tensorflow_text")
    model = keras.saving.load_model(path)
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        inputs = {n[3:]: keras.ops.convert_to_tensor(arrays[n]) for n in arrays if n[:3] == "in:"}
        wanted = {name[4:]: arrays[name] for name in arrays if name[:4] == "out:"}
    found = model(*inputs.values() if len(inputs) == 1 else [inputs], training=False)
    found = found if isinstance(found, dict) else {"output": found}
    for name, value in wanted.items():
        answer = keras.ops.convert_to_numpy(found[name])
        np.testing.assert_allclose(answer, value, rtol=1e-4, atol=1e-5)
