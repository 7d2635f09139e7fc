"""The task of masked language modelling with every prefix of the tied embedding (Table 7).

Configuration keys beside those that all tasks share:

    head                 "mrl_e", classifiers that are slices of the word embedding table; or "ff"
                         (fixed feature), the slice of `ff_dim` alone
    nesting_dims         M as a tuple; empty takes halves from the width down to `smallest_dim`
    smallest_dim         see `nesting_dims`
    ff_dim               k of FF-k, the only prefix that an "ff" model is trained with
    relative_importance  weights c_m by dim, such as "8:2,16:1.5"; empty is 1 for all
    length               tokens of a sequence, with "[CLS]" and "[SEP]"
    masked_positions     the slots of a sequence for masked tokens
    mask_rate            part of the tokens that is masked
    model                {hidden_size, num_layers, num_heads, inner_dim, dropout, attention_dropout}
    vocabulary           {size, lower_case, examples}: rows of the word embedding table; the pieces
                         are learned from at most so many training texts (0: all; of a streamed set
                         100,000), and kept in the work directory, vocabulary.txt
    data                 {name, ...}: a TFDS set or several, as "wiki40b/en,pg19"; or
                         "made" for artificial sentences. `feature` names the text of each set,
                         or of all; `share` is each set's part of a streamed batch. `packed` fills
                         each sequence over the ends of texts; `replace` are pairs of (old, new) to
                         change in every text, where new may have "[UNK]"
"""

from __future__ import annotations

import functools

import numpy as np

from mrl_keras import (
    MaskedLMAccuracy,
    MaskedLMCrossentropy,
    MatryoshkaLoss,
    NestingDims,
    per_prefix,
)
from mrl_keras.data import (
    SPECIAL_PIECES,
    Sampling,
    TextSource,
    Wordpiece,
    learn_vocabulary,
    masked_lm_batches,
    masked_lm_evaluation,
    masked_lm_stream,
    read_columns,
    streamed_texts,
    text_set,
    token_rows,
)
from mrl_keras.export import ServingOptions, export_saved_model
from mrl_keras.models import (
    BertTokens,
    GardenBert,
    mask_filler,
    masked_lm,
    masked_lm_at,
    masked_lm_embedder,
)
from recipes.common.prefixes import chosen_dims, importance
from recipes.common.vocabulary import run_vocabulary

HEADS = ("mrl_e", "ff")
LITERAL = ("[UNK]",)
"""What stands for unknown words in the training texts, after `data.replace`."""

CHARACTERS_PER_TOKEN = 8
"""Windows of streamed documents are so long that they fill a sequence but rarely overflow far."""


class Task:
    """Data, model, loss, evaluation and export of one configuration.

    Args:
        config: `ConfigDict`, see the module's docstring and `recipes/configs/`.
        workdir: folder that has or gets vocabulary.txt. Default None, none.

    Raises:
        ValueError: a value out of range, or a data set that is not there.
    """

    def __init__(self, config, workdir=None):
        self.config = config
        if config.head not in HEADS:
            raise ValueError(f"`head` must be one of {HEADS}. Received {config.head!r}.")
        self.dims = nesting_dims(config)
        self.sources = None if config.data.name == "made" else _sources(config.data)
        self.vocabulary = run_vocabulary(workdir, self._learned_vocabulary)
        self.wordpiece = Wordpiece(
            self.vocabulary, config.length, config.vocabulary.lower_case, kept=LITERAL
        )

    @property
    def trained_dims(self):
        """The prefixes that the loss reads: M, or the one of FF-k."""
        return NestingDims([self.config.ff_dim]) if self.config.head == "ff" else self.dims

    def train_data(self, batch_size, sampling):
        """Endless batches of (inputs, labels, weights), the same for the same `Sampling`."""
        config = self.config
        slots, rate = config.masked_positions, config.mask_rate
        if self.sources is not None and not config.data.in_memory:
            texts = self._streamed(batch_size, sampling)
            return masked_lm_stream(texts, self.wordpiece, slots, rate)
        rows, pieces = self._train_rows, len(self.vocabulary)
        return masked_lm_batches(rows, batch_size, pieces, slots, rate, sampling)

    def validation_data(self, batch_size):
        """The evaluation split once, masked in one fixed way, or None without such a split."""
        config = self.config
        if not config.data.eval_split:
            return None
        return masked_lm_evaluation(
            self._evaluation_rows, batch_size, len(self.vocabulary), config.masked_positions,
            config.mask_rate,
        )  # fmt: skip

    def model(self):
        """The untrained, uncompiled model: masked sequences -> (batch, positions, prefixes, 2)."""
        config = self.config
        bert = GardenBert(
            config.vocabulary.size,
            max_length=config.length,
            pooler=False,
            name="bert",
            **config.model.to_dict(),
        )
        return masked_lm(bert, self.dims, config.length, config.masked_positions)

    def loss(self):
        """The Matryoshka loss over the crossentropy of masked tokens (Eq. 1).

        Summed over the masked tokens and divided by the number of slots: a constant, so that the
        loss of several replicas is that of one.
        """
        weights = importance(self.config, self.dims)
        if self.config.head == "ff":
            weights = [float(dim in self.trained_dims) for dim in self.dims]
        return MatryoshkaLoss(MaskedLMCrossentropy(), weights)

    def metrics(self):
        """None: padded slots must not count."""
        return []

    def weighted_metrics(self):
        """Accuracy and crossentropy of every prefix: "top_1_d8", ..., "loss_d8", ..."""
        return per_prefix([MaskedLMAccuracy(name="top_1"), MaskedLMCrossentropy()], self.dims)

    def evaluate(self, model):
        """Yields (name, value) over the masked tokens of the evaluation split.

        "top1/mlm/8" and "crossentropy/mlm/8" of every trained and interpolated prefix, and of
        answers without a model: the most frequent piece of the training text, "top1/majority", and
        the pieces' frequencies there, "crossentropy/unigram".
        """
        dims = self.dims if self.config.head == "ff" else self.dims.with_interpolated()
        scorer = masked_lm_at(model, dims)
        scorer.compile(jit_compile=self.config.jit_compile)
        totals, weight, labels = 0.0, 0.0, []
        for inputs, label, used in self.validation_data(self.config.evaluation.batch_size):
            scores = np.asarray(scorer.predict_on_batch(inputs), "float64")
            used = used.numpy()
            totals = totals + (scores * used[:, :, None, None]).sum((0, 1))
            weight += used.sum()
            labels.append(label.numpy()[used > 0])
        for i, dim in enumerate(dims):
            if self.config.head != "ff" or dim in self.trained_dims:
                yield f"top1/mlm/{dim}", totals[i, 1] / weight
                yield f"crossentropy/mlm/{dim}", totals[i, 0] / weight
        yield from self._without_a_model(np.concatenate(labels))

    def export(self, model, directory):
        """Writes `directory`/VERSION, a SavedModel that takes raw text.

        Signatures: `fill_mask`, texts with "[MASK]" -> the likeliest pieces by every prefix; and
        `embed`, `embed_dim`, `embed_dim_batch`, see `masked_lm_embedder`.
        """
        config = self.config
        tokens = BertTokens(
            self.vocabulary,
            config.length,
            config.vocabulary.lower_case,
            kept=("[MASK]", *LITERAL),
        )
        most = min(config.masked_positions, config.export.masks)
        filler = mask_filler(model, tokens, most, config.export.pieces, self.trained_dims)
        return export_saved_model(
            directory,
            masked_lm_embedder(model, tokens, self.trained_dims.width),
            nesting_dims=self.trained_dims,
            options=ServingOptions(functions={"fill_mask": filler}),
        )

    @functools.cached_property
    def _train_rows(self):
        return token_rows(self.wordpiece, self._texts("train"), self.config.data.packed)

    @functools.cached_property
    def _evaluation_rows(self):
        return token_rows(self.wordpiece, self._texts("eval"), self.config.data.packed)

    def _texts(self, kind):
        """The texts of the training or the evaluation split, all in memory."""
        data = self.config.data
        if self.sources is None:
            return made_sentences(data.made_examples, seed=("train", "eval").index(kind))
        split = data.train_split if kind == "train" else data.eval_split
        most = (data.max_examples if kind == "train" else data.max_eval_examples) or None
        found = []
        for source in self.sources:
            columns = read_columns(source.builder, split, [source.feature], most)
            found += [_replaced(text, data.replace) for text in columns[source.feature]]
        return found

    def _streamed(self, batch_size, sampling):
        import tensorflow as tf

        texts = streamed_texts(
            self.sources,
            batch_size,
            CHARACTERS_PER_TOKEN * self.config.length,
            sampling,
            self.config.data.shuffle_buffer,
        )
        for old, new in self.config.data.replace:
            quoted = tf.constant(_quoted(old))
            texts = texts.map(
                lambda text, seeds, q=quoted, n=new: (tf.strings.regex_replace(text, q, n), seeds)
            )
        return texts

    def _learned_vocabulary(self):
        """The pieces of the training texts; the same in every process."""
        wanted, data = self.config.vocabulary, self.config.data
        if self.sources is not None and not data.in_memory:
            batches = self._streamed(256, Sampling()).map(lambda texts, seeds: texts)
            texts = batches.take(-(-(wanted.examples or 100_000) // 256))
        else:
            texts = self._texts("train")
            texts = texts[: wanted.examples] if wanted.examples else texts
        return learn_vocabulary(texts, wanted.size, wanted.lower_case, kept=LITERAL)

    def _without_a_model(self, labels):
        if self.sources is not None and not self.config.data.in_memory:
            return  # the training text is too much to count
        specials = len(SPECIAL_PIECES)
        pieces = self._train_rows[self._train_rows >= specials] - specials
        counts = np.bincount(pieces, minlength=len(self.vocabulary) - specials)
        # Each piece once more than seen, so that none has probability 0.
        shares = (counts + 1.0) / (counts + 1.0).sum()
        yield "top1/majority", np.mean(labels == counts.argmax() + specials)
        yield "crossentropy/unigram", -np.log(shares[labels - specials]).mean()


def nesting_dims(config):
    """The prefixes that the model scores: M, or for FF-k (k, d), of which d is not trained.

    Raises:
        ValueError: dims that don't fit the width.
    """
    width = config.model.hidden_size
    if config.head == "ff":
        if config.ff_dim > width:
            raise ValueError(
                f"`ff_dim` must not exceed the embedding width {width}. Received {config.ff_dim}."
            )
        return NestingDims(sorted({config.ff_dim, width}))
    return chosen_dims(config, width)


def made_sentences(count, seed):
    """Artificial sentences, each of the three words of one of eight topics: context tells."""
    letters = np.random.default_rng(0).choice(list("abcdefgh"), (24, 5))
    words = np.array(["".join(row) for row in letters]).reshape(8, 3)
    rng = np.random.default_rng([1, seed])
    return [
        " ".join(rng.choice(words[rng.integers(8)], rng.integers(8, 20))) + "."
        for _ in range(count)
    ]


def _sources(data):
    """The sets of `data.name` as `TextSource`s."""
    names = [name.strip() for name in data.name.split(",")]
    features = _for_each("feature", [f.strip() for f in data.feature.split(",")], names)
    shares = _for_each("share", list(data.share), names)
    return [
        TextSource(
            text_set(name, (feature,), data_dir=data.data_dir or None),
            data.train_split,
            feature,
            share,
        )
        for name, feature, share in zip(names, features, shares, strict=True)
    ]


def _for_each(key, values, names):
    """One value for each name: as many, or one for all."""
    if len(values) not in (1, len(names)):
        raise ValueError(
            f"`data.{key}` must have one value, or one for each of {names}. Received {values}."
        )
    return values * len(names) if len(values) == 1 else values


def _replaced(text, pairs):
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _quoted(text):
    """A regular expression for exactly `text`."""
    return "".join(c if c.isalnum() or ord(c) > 127 else f"\\x{ord(c):02x}" for c in text)
