"""Masked language models: an encoder and a nested head that is tied to its word embeddings."""

import keras
from keras import ops

from mrl_keras.checks import whole_number
from mrl_keras.data.text.wordpiece import SpecialIds
from mrl_keras.layers import MaskedLMHead
from mrl_keras.models.garden.text import INPUTS
from mrl_keras.models.mask_filling import TokenPlaces, TopPieces
from mrl_keras.models.pooling import MaskedMean
from mrl_keras.nesting import NestingDims

POSITIONS, LABELS = "masked_lm_positions", "masked_lm_ids"
# What KerasHub's backbones call the inputs.
HUB_NAMES = dict(zip(INPUTS, ("token_ids", "padding_mask", "segment_ids"), strict=True))


def masked_lm(
    encoder, nesting_dims, length, positions, embedding=None, names=None, output=None, **options
):
    """An encoder and `MaskedLMHead`, whose classifiers are slices of the word embedding table.

    Compile it with `MatryoshkaLoss(MaskedLMCrossentropy())` and, as `weighted_metrics`,
    `per_prefix(MaskedLMAccuracy(), nesting_dims)`, and train it on what
    `mrl_keras.data.masked_lm_batches` gives.

    Args:
        encoder: `GardenBert`, a backbone of KerasHub, or a Keras layer or model of one's own: a
            dict of token ids and, where it takes them, mask and types, each (batch, length), ->
            (batch, length, d), alone or in a dict.
        nesting_dims: `NestingDims` or list of ints that ends at d.
        length: int, tokens of a sequence.
        positions: int, masked tokens of a sequence.
        embedding: the encoder's word embedding layer, with the table `embeddings` (vocabulary, d).
            Default None, its `token_embedding`, as in KerasHub, or the encoder itself, as in
            Model Garden.
        names: dict from "input_word_ids", "input_mask" and "input_type_ids" to the names that the
            encoder has for those it takes, such as `{"input_word_ids": "tokens"}`. Default None,
            the same names, or KerasHub's "token_ids", "padding_mask" and "segment_ids".
        output: str, which of the encoder's outputs. Default None, the only one, or
            "sequence_output".
        **options: further arguments of `MaskedLMHead`.

    Returns:
        `keras.Model`: a dict of "input_word_ids", "input_mask" and "input_type_ids", whatever the
        encoder calls them, each int32 (batch, length), and
        "masked_lm_positions" and "masked_lm_ids", each int32 (batch, positions) -> (batch,
        positions, prefixes, 2), the label's crossentropy and whether it is the top-1. The head
        is its layer "head".

    Raises:
        ValueError: an encoder without a table, inputs or outputs of other names, or dims that
            don't end at d.

    Example:

    >>> from mrl_keras import MaskedLMAccuracy, MaskedLMCrossentropy, MatryoshkaLoss, per_prefix
    >>> from mrl_keras.data import masked_lm_batches
    >>> from mrl_keras.models import GardenBert, masked_lm
    >>> bert = GardenBert(50, hidden_size=8, num_layers=1, num_heads=2, inner_dim=16, pooler=False)
    >>> model = masked_lm(bert, [4, 8], length=16, positions=3)
    >>> model.compile(
    ...     "adam",
    ...     loss=MatryoshkaLoss(MaskedLMCrossentropy()),
    ...     weighted_metrics=per_prefix(MaskedLMAccuracy(), [4, 8]))
    >>> rows = np.random.default_rng(0).integers(5, 50, (32, 16))
    >>> data = masked_lm_batches(rows, batch_size=8, vocabulary_size=50, positions=3)
    >>> history = model.fit(data, steps_per_epoch=2, verbose=0).history
    >>> sorted(history)
    ['loss', 'masked_lm_accuracy_d4', 'masked_lm_accuracy_d8']

    Source: arXiv 2205.13147, Section 3 (weight-tying), Table 7, Appendix C.
    """
    length = whole_number(length, "`length`")
    inputs = {name: keras.Input((length,), dtype="int32", name=name) for name in INPUTS}
    hidden = _hidden(encoder, inputs, names, output)
    slots = whole_number(positions, "`positions`")
    masks = {n: keras.Input((slots,), dtype="int32", name=n) for n in (POSITIONS, LABELS)}
    if embedding is None:
        embedding = getattr(encoder, "token_embedding", encoder)
    head = MaskedLMHead(embedding, nesting_dims, name="head", **options)
    scores = head([hidden, masks[POSITIONS], masks[LABELS]])
    return keras.Model({**inputs, **masks}, scores, name="masked_lm")


def _hidden(encoder, inputs, names, output):
    """The encoder's states (batch, length, d) of `inputs`, a dict by the names of `INPUTS`."""
    taken = encoder.input if isinstance(getattr(encoder, "input", None), dict) else None
    if names is None:
        own = taken is not None and HUB_NAMES["input_word_ids"] in taken
        names = HUB_NAMES if own else dict.fromkeys(INPUTS)
    if unknown := set(names) - set(INPUTS):
        raise ValueError(f"`names` must have keys of {INPUTS}. Received {sorted(unknown)}.")
    given = {theirs or ours: inputs[ours] for ours, theirs in names.items()}
    if taken is not None:
        if missing := set(taken) - set(given):
            raise ValueError(
                f"The encoder has the inputs {sorted(taken)}, and {sorted(missing)} are not given. "
                f"Say by `names` which of {INPUTS} each is; other inputs are not supported."
            )
        given = {name: given[name] for name in taken}
    named = encoder.output if taken is not None else None
    if isinstance(named, dict) and (output or "sequence_output") in named:
        # Without what leads to its other outputs alone, such as a pooler, which has no gradient.
        chosen = named[output or "sequence_output"]
        encoder = keras.Model(encoder.input, chosen, name=encoder.name)
    states = encoder(given)
    if isinstance(states, dict):
        output = output or "sequence_output"
        if output not in states:
            raise ValueError(
                f"`output` must be one of the encoder's, {sorted(states)}. Received {output!r}."
            )
        states = states[output]
    if len(getattr(states, "shape", ())) != 3:
        raise ValueError(
            "The encoder must give vectors of its tokens (batch, length, d). Received "
            f"{states!r}: choose another `output`."
        )
    return states


def _states_of(model, inputs):
    """The states that the head of a masked language model reads, for tensors by `INPUTS`."""
    hidden = model.get_layer("head").input[0]
    encoder = keras.Model({name: model.input[name] for name in INPUTS}, hidden, name="encoder")
    return encoder({name: inputs[name] for name in INPUTS})


def masked_lm_at(model, nesting_dims):
    """A masked language model scored at other prefixes than it was trained for: MRL-E's slices.

    Args:
        model: what `masked_lm` made.
        nesting_dims: `NestingDims` or list of ints that ends at d, such as
            `dims.with_interpolated()`.

    Returns:
        `keras.Model` as `model`, which shares its encoder, and has a copy of its head's weights.
    """
    head = model.get_layer("head")
    names = ("activation", "kernel_initializer", "layer_norm_epsilon", "block_size")
    options = {name: head.get_config()[name] for name in names}
    options |= {"name": "head", "dtype": head.dtype_policy}
    scores = MaskedLMHead(head.embedding, nesting_dims, **options)(head.input)
    other = keras.Model(model.input, scores, name=model.name)
    for mine, theirs in zip(other.get_layer("head").weights, head.weights, strict=True):
        if mine is not theirs:
            mine.assign(theirs)
    return other


def masked_lm_embedder(model, tokens, width=None):
    """An embedder of raw text: the mean over its tokens of the states that the head classifies.

    y = mean_t LayerNorm(activation(x_t W + c)), so that a prefix of y is the mean of prefixes that
    the model was trained with.

    Args:
        model: what `masked_lm` made.
        tokens: `BertTokens` of the model's length.
        width: int, the embedding's width, at most d. Default None, d.

    Returns:
        `keras.Model`: strings (batch,) -> (batch, width).
    """
    head = model.get_layer("head")
    text = keras.Input((), dtype="string", name="text")
    inputs = tokens(text)
    states = head.normalization(head.transform(_states_of(model, inputs)))
    embedding = MaskedMean()([states, inputs["input_mask"]])
    return keras.Model(text, embedding[:, : width or head.nesting_dims.width], name="embedder")


def mask_filler(model, tokens, masks=8, k=5, nesting_dims=None):
    """A model that answers "[MASK]" in raw text with the likeliest pieces at every prefix.

    Args:
        model: what `masked_lm` made.
        tokens: `BertTokens` of the model's length, with "[MASK]" in `kept`.
        masks: int, the most masks of a text that are answered. Default 8.
        k: int, pieces for each. Default 5.
        nesting_dims: some of the trained dims. Default None, all.

    Returns:
        `keras.Model`: strings (batch,) -> a dict of "pieces" and "probabilities" (batch, masks,
        prefixes, k), and "positions" int32 (batch, masks), the masks' tokens counted from
        "[CLS]"; slots without a mask have "", 0 and -1.

    Raises:
        ValueError: `tokens` that do not keep "[MASK]", or dims that the head does not have.
    """
    if "[MASK]" not in tokens.kept:
        raise ValueError(
            '`tokens` must keep "[MASK]": BertTokens(..., kept=["[MASK]"]). '
            f"Received kept={tokens.kept}."
        )
    head = model.get_layer("head")
    text = keras.Input((), dtype="string", name="text")
    inputs = tokens(text)
    places = TokenPlaces(SpecialIds.of(tokens.vocabulary).mask, masks)(inputs["input_word_ids"])
    hidden = _states_of(model, inputs)
    logits = head([hidden, ops.maximum(places, 0)])
    if nesting_dims is not None:
        kept = [head.nesting_dims.index(dim) for dim in NestingDims(nesting_dims)]
        logits = ops.take(logits, kept, axis=-2)
    found = TopPieces(tokens.vocabulary, k)([logits, places])
    return keras.Model(text, found, name="mask_filler")
