"""Dual encoders: values, gradients over replicas, real towers, errors."""

import keras
import numpy as np
import pytest

from mrl_keras import InBatchAccuracy, MatryoshkaLoss, SymmetricContrastive, per_prefix
from mrl_keras.models import (
    dual_encoder,
    image_backbone,
    text_embedder,
    towers,
)
from tests.support.global_contrastive import DIMS, made_model, pairs, tower
from tests.support.replica_runs import run_replicas

RNG = np.random.default_rng(0)


@pytest.mark.slow
def test_two_replicas_train_as_one(tmp_path):
    """Weights, loss and accuracy after eight steps, negatives from both replicas."""
    found = run_replicas("global_contrastive", tmp_path / "found.npz")
    assert {"False/loss", "True/in_batch_top1_d4", "False/loss_d8"} <= found.keys()
    assert {"uneven/3/loss", "uneven/5/loss", "uneven/5/top1"} <= found.keys()
    assert found["finite/7"] == found["finite/5"] == (True, True)
    of_chunks = {name for name in found if name.startswith("chunks/")}
    assert "chunks/in_batch_top1_d4" in of_chunks
    for name in of_chunks:
        other = found[name.replace("chunks", "True")]
        np.testing.assert_allclose(found[name], other, rtol=2e-5, atol=2e-6, err_msg=name)
    losses, _ = found["False/loss"]
    assert losses[-1] < losses[0] - 0.1
    for name, (one, two) in found.items():
        np.testing.assert_allclose(two, one, rtol=2e-5, atol=2e-6, err_msg=name)


def test_logits_are_cosines_of_prefixes_over_the_temperature():
    model = made_model(False)
    x = pairs()
    image, text = (part.predict(x, verbose=0) for part in towers_by_name(model))
    logits = model.predict(x, batch_size=32, verbose=0)
    assert logits.shape == (32, len(DIMS), 32)
    for p, dim in enumerate(DIMS):
        rows, columns = (
            e[:, :dim] / np.linalg.norm(e[:, :dim], axis=1, keepdims=True) for e in (image, text)
        )
        np.testing.assert_allclose(logits[:, p], rows @ columns.T / 0.2, rtol=1e-4, atol=1e-5)


def towers_by_name(model):
    """Towers that take the dict of all inputs."""
    return [keras.Model(model.input, part(model.input[name])) for name, part in named(model)]


def named(model):
    return zip(("image", "text"), towers(model), strict=True)


@pytest.mark.slow
def test_model_garden_towers_train_compiled_and_survive_a_file(tmp_path):
    keras.utils.set_random_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    image = image_backbone("garden:vit", (16, 16, 3), patch_size=8, mlp_dim=32, **sizes)
    text = text_embedder(6, pooling="cls", vocab_size=30, inner_dim=32, **sizes)
    model = dual_encoder(image, text, [4, 16])
    loss = MatryoshkaLoss(SymmetricContrastive("gathered"))
    metrics = per_prefix(InBatchAccuracy(), [4, 16])
    model.compile("adam", loss=loss, metrics=metrics, jit_compile=True)
    words = RNG.integers(1, 30, (8, 6)).astype("int32")
    x = {
        "images": RNG.uniform(0, 255, (8, 16, 16, 3)).astype("float32"),
        "input_word_ids": words,
        "input_mask": np.ones_like(words),
        "input_type_ids": np.zeros_like(words),
    }
    before = [weight.numpy() for weight in model.trainable_variables]
    history = model.fit(x, np.zeros(8), epochs=12, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] - 1
    after = [weight.numpy() for weight in model.trainable_variables]
    # A key's bias adds the same number to all of a query's scores: softmax does not see it.
    changes = zip(before, after, model.trainable_variables, strict=True)
    assert all((a != b).any() or "key" in w.name for a, b, w in changes)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    again = towers(loaded)[0].predict(x["images"], verbose=0)
    np.testing.assert_allclose(again, towers(model)[0].predict(x["images"], verbose=0), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "text", "dims", "message"),
    [
        (("image", 6), ("image", 5), DIMS, r"inputs of different names. Both have \['image'\]"),
        (("image", 6), ("text", 5), [2, 4], "must end at the embedding width 8"),
    ],
)
def test_towers_that_do_not_fit(image, text, dims, message):
    with pytest.raises(ValueError, match=message):
        dual_encoder(tower(*image), tower(*text), dims)


def test_towers_without_embeddings():
    wide = keras.Input((4, 8), name="wide")
    with pytest.raises(ValueError, match=r"`text_tower` must be .* output shape \(None, 4, 8\)"):
        dual_encoder(tower("image", 6), keras.Model(wide, wide), DIMS)
    narrow = keras.Input((4,), name="narrow")
    with pytest.raises(ValueError, match=r"widths 8 \(image\) and 4 \(text\)"):
        dual_encoder(tower("image", 6), keras.Model(narrow, narrow), DIMS)
