"""Masked language models of encoders with other names than Model Garden's."""

import keras
import numpy as np
import pytest

from mrl_keras import MaskedLMCrossentropy, MatryoshkaLoss
from mrl_keras.data import masked_lm_batches, masked_lm_evaluation
from mrl_keras.models import BertTokens, mask_filler, masked_lm, masked_lm_at, masked_lm_embedder
from tests.support import hub
from tests.support.contracts import save_and_load

COUNT = len(hub.PIECES)
ROWS = np.random.default_rng(0).integers(5, COUNT, (16, 8)).astype("int32")


def own():
    """An encoder of tokens alone, with an output and an embedding of other names."""
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    embedding = keras.layers.Embedding(COUNT, 8, name="table")
    hidden = keras.layers.Dense(8, activation="tanh")(embedding(tokens))
    encoder = keras.Model({"tokens": tokens}, {"states": hidden, "first": hidden[:, 0]})
    names = {"input_word_ids": "tokens"}
    return encoder, {"embedding": embedding, "names": names, "output": "states"}


def roberta():
    import keras_hub

    backbone = keras_hub.models.RobertaBackbone(
        vocabulary_size=COUNT, max_sequence_length=8, **hub.SMALL
    )
    return backbone, {}


@pytest.mark.slow
@pytest.mark.parametrize("make", [own, lambda: (hub.bert(), {}), roberta])
def test_trains_is_saved_and_fills_masks(make):
    if make is not own:
        pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(0)
    encoder, options = make()
    model = masked_lm(encoder, [4, 8], 8, 2, **options)
    unused = [weight for weight in encoder.weights if "pooled_dense" in weight.path]
    # The head has a dense layer, a norm and a bias of its own.
    assert len(model.weights) == len(encoder.weights) - len(unused) + 5
    model.compile(keras.optimizers.Adam(0.01), loss=MatryoshkaLoss(MaskedLMCrossentropy()))
    data = masked_lm_batches(ROWS, 8, COUNT, positions=2)
    table = options.get("embedding", getattr(encoder, "token_embedding", None)).embeddings
    before = np.array(keras.ops.convert_to_numpy(table))
    model.fit(data, steps_per_epoch=2, verbose=0)
    assert (keras.ops.convert_to_numpy(table) != before).any()

    batch = next(iter(masked_lm_evaluation(ROWS, 16, COUNT, positions=2)))[0]
    expected = model.predict_on_batch(batch)
    np.testing.assert_allclose(save_and_load(model).predict_on_batch(batch), expected, rtol=1e-5)
    other = masked_lm_at(model, [2, 4, 8]).predict_on_batch(batch)
    np.testing.assert_allclose(other[:, :, 1:], expected, rtol=1e-4, atol=1e-6)

    pytest.importorskip("tensorflow_text")
    tokens = BertTokens(hub.PIECES, 8, kept=["[MASK]"])
    texts = keras.ops.convert_to_tensor(["a [MASK] sleeps", "rain falls"])
    found = mask_filler(model, tokens, masks=2, k=3)(texts)
    assert found["pieces"].shape == (2, 2, 2, 3)
    assert found["positions"].numpy().tolist() == [[2, -1], [-1, -1]]
    assert masked_lm_embedder(model, tokens)(texts).shape == (2, 8)


def test_refusals():
    encoder, options = own()
    cases = {
        r"\['tokens'\] are not given": {**options, "names": None},
        "must have keys of": {**options, "names": {"ids": "tokens"}},
        r"one of the encoder's, \['first', 'states'\]": {**options, "output": None},
        "must give vectors of its tokens": {**options, "output": "first"},
        "with a weight `embeddings`": {**options, "embedding": None},
    }
    for text, wrong in cases.items():
        with pytest.raises(ValueError, match=text):
            masked_lm(encoder, [4, 8], 8, 2, **wrong)
