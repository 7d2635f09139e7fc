import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import MaskedLMAccuracy, MaskedLMCrossentropy, MatryoshkaLoss, per_prefix
from mrl_keras.data import SPECIAL_PIECES, masked_lm_batches, masked_lm_evaluation
from mrl_keras.models import (
    BertTokens,
    GardenBert,
    mask_filler,
    masked_lm,
    masked_lm_at,
    masked_lm_embedder,
)
from mrl_keras.models.mask_filling import TokenPlaces, TopPieces

pytest.importorskip("official")

VOCABULARY = [*SPECIAL_PIECES, *(f"w{i}" for i in range(20))]
DIMS = [4, 8]
ROWS = np.random.default_rng(0).integers(5, 25, (16, 12)).astype("int32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "inner_dim": 16}
    made = masked_lm(GardenBert(30, **sizes, max_length=12, pooler=False), DIMS, 12, 2)
    made.compile(
        keras.optimizers.Adam(0.01),
        loss=MatryoshkaLoss(MaskedLMCrossentropy()),
        weighted_metrics=per_prefix(MaskedLMAccuracy(), DIMS),
    )
    data = masked_lm_batches(ROWS, 8, 25, positions=2)
    before = [weight.numpy() for weight in made.trainable_variables]
    made.fit(data, steps_per_epoch=4, verbose=0)
    after = [weight.numpy() for weight in made.trainable_variables]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    return made


def evaluation():
    return next(iter(masked_lm_evaluation(ROWS, 16, 25, positions=2)))[0]


def tokens(**options):
    return BertTokens(VOCABULARY, 12, **{"kept": ["[MASK]"], **options})


def test_other_prefixes_share_the_weights(model):
    scores = model.predict_on_batch(evaluation())
    other = masked_lm_at(model, [3, 4, 6, 8])
    found = other.predict_on_batch(evaluation())
    assert found.shape == (16, 2, 4, 2)
    np.testing.assert_allclose(found[:, :, [1, 3]], scores, rtol=1e-5, atol=1e-6)
    assert (found[:, :, 0] != found[:, :, 1]).any()


def test_a_keras_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.predict_on_batch(evaluation())
    np.testing.assert_allclose(again.predict_on_batch(evaluation()), expected, atol=1e-6)
    head = again.get_layer("head")
    assert any(layer is head.embedding for layer in again.layers)  # still tied


@pytest.mark.slow
def test_the_filler_answers_as_the_head_scores(model, tmp_path):
    filler = mask_filler(model, tokens(), masks=3, k=25)
    text = "w1 w2 [MASK] w4 [MASK]"
    found = {key: np.asarray(value) for key, value in filler(tf.constant([text, "w1"])).items()}
    np.testing.assert_array_equal(found["positions"], [[3, 5, -1], [-1, -1, -1]])
    assert found["pieces"].shape == found["probabilities"].shape == (2, 3, 2, 25)
    assert set(found["pieces"][1].ravel()) == {b""}
    assert found["probabilities"][1].sum() == 0
    # Two pieces at one place: their odds are the head's, which also scores table rows of no piece.
    ids = tf.constant([[VOCABULARY.index("w7"), VOCABULARY.index("w9")]])
    inputs = tokens()(tf.constant([text]))
    places = tf.constant([[3, 3]])
    scores = model({**inputs, "masked_lm_positions": places, "masked_lm_ids": ids})
    likelihood = np.exp(-np.asarray(scores)[0, :, :, 0])
    for prefix in range(2):
        pieces = found["pieces"][0, 0, prefix].tolist()
        chances = found["probabilities"][0, 0, prefix][[pieces.index(b"w7"), pieces.index(b"w9")]]
        odds = likelihood[0, prefix] / likelihood[1, prefix]
        np.testing.assert_allclose(chances[0] / chances[1], odds, rtol=1e-4)
    filler.save(tmp_path / "filler.keras")
    again = keras.saving.load_model(tmp_path / "filler.keras")
    again = {key: np.asarray(value) for key, value in again(tf.constant([text, "w1"])).items()}
    np.testing.assert_array_equal(again["pieces"], found["pieces"])


def test_some_prefixes_alone(model):
    whole = mask_filler(model, tokens(), masks=1)(tf.constant(["w1 [MASK]"]))
    one = mask_filler(model, tokens(), masks=1, nesting_dims=[4])(tf.constant(["w1 [MASK]"]))
    np.testing.assert_array_equal(one["pieces"], np.asarray(whole["pieces"])[:, :, :1])


def test_the_embedding_is_the_mean_of_the_heads_states(model):
    texts = tf.constant(["w1 w2 w3", "w4"])
    found = np.asarray(masked_lm_embedder(model, tokens())(texts))
    head, inputs = model.get_layer("head"), tokens()(texts)
    states = head.normalization(head.transform(head.embedding(inputs)["sequence_output"]))
    states, lengths = np.asarray(states), (5, 3)
    expected = [states[i, :n].mean(0) for i, n in enumerate(lengths)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert masked_lm_embedder(model, tokens(), width=4)(texts).shape == (2, 4)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: mask_filler(m, tokens(kept=())), r'must keep "\[MASK\]"'),
        (lambda m: mask_filler(m, tokens(), nesting_dims=[3]), "3"),
        (lambda m: mask_filler(m, tokens(), k=26), "must not exceed the 25 pieces. Received 26"),
        (lambda m: masked_lm_at(m, [4]), "must end at the width 8"),
        (lambda m: TokenPlaces(4, 0), "`count` must be at least 1"),
        (lambda m: TopPieces(["a"]), r"must have \[PAD\]"),
    ],
)
def test_refusals(model, call, text):
    with pytest.raises(ValueError, match=text):
        call(model)
