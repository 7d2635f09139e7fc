"""Training a masked language model at every prefix of its tied embedding (Table 7).

Configuration keys beside those that all tasks share:

    head                 "mrl_e", classifiers that are slices of the word embedding table; or "ff"
                         (fixed feature), the slice of `ff_dim` alone
    nesting_dims         M as a tuple; empty takes halves from the width down to `smallest_dim`
    smallest_dim         see `nesting_dims`
    ff_dim               k of FF-k, the only prefix that an "ff" model is trained with
    relative_importance  weights c_m by dim, such as "8:2,16:1.5", or "adaloss", "uw_so" or "famo",
                         whose weights adapt; empty is 1 for all
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
import tensorflow as tf

from mrl_keras import (
    MaskedLMAccuracy,
    MaskedLMCrossentropy,
    MatryoshkaLoss,
    NestingDims,
    per_prefix,
)
from mrl_keras.data import (
    Sampling,
    TextSource,
    masked_lm_batches,
    masked_lm_evaluation,
    masked_lm_stream,
    read_columns,
    streamed_texts,
    text_set,
    token_rows,
)
from mrl_keras.evaluation import EvaluationPass
from mrl_keras.export import ServingOptions
from mrl_keras.models import (
    GardenBert,
    mask_filler,
    masked_lm,
    masked_lm_at,
    masked_lm_embedder,
)
from recipes.common import task
from recipes.common.corpus import Direction, text_corpus
from recipes.common.prefixes import chosen_dims, importance
from recipes.common.vocabulary import RunVocabulary

HEADS = ("mrl_e", "ff")
LITERAL = ("[UNK]",)
"""What stands for unknown words in the training texts, after `data.replace`."""

CHARACTERS_PER_TOKEN = 8
"""Windows of streamed documents are so long that they fill a sequence but rarely overflow far."""


class Task(task.Task):
    """Masked language modelling, see `recipes.common.task.Task`; the module's docstring has the
    keys."""

    def __init__(self, config, workdir=None):
        super().__init__(config, workdir)
        if config.head not in HEADS:
            raise ValueError(f"`head` must be one of {HEADS}. Received {config.head!r}.")
        self.dims = nesting_dims(config)
        self.sources = None if config.data.name == "made" else _sources(config.data)
        self.vocabulary = RunVocabulary(
            workdir, config, config.length, self._vocabulary_texts, kept=LITERAL
        )
        if len(self.vocabulary) > config.vocabulary.size:
            raise ValueError(
                f"`vocabulary.size` must be at least {len(self.vocabulary)}, the pieces of the "
                f"vocabulary beside `init_from`. Received {config.vocabulary.size}."
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
            return masked_lm_stream(texts, self.vocabulary.wordpiece, slots, rate)
        rows, pieces = self._train_rows, len(self.vocabulary)
        special = self.vocabulary.wordpiece.special_ids
        return masked_lm_batches(rows, batch_size, pieces, slots, rate, sampling, special)

    def validation_data(self, batch_size):
        """The evaluation split once, masked in one fixed way, or None without such a split."""
        config = self.config
        if not config.data.eval_split:
            return None
        return masked_lm_evaluation(
            self._evaluation_rows, batch_size, len(self.vocabulary), config.masked_positions,
            config.mask_rate, special_ids=self.vocabulary.wordpiece.special_ids,
        )  # fmt: skip

    def build_model(self):
        """The model: masked sequences -> (batch, positions, prefixes, 2)."""
        config = self.config
        bert = GardenBert(
            config.vocabulary.size,
            max_length=config.length,
            pooler=False,
            name="bert",
            **config.model.to_dict(),
        )
        return masked_lm(bert, self.dims, config.length, config.masked_positions)

    def pretrained_parts(self, model):
        """BERT; the head's own layers are trained from the start."""
        return [(model.get_layer("bert"), None)]

    def loss(self):
        """The Matryoshka loss over the crossentropy of masked tokens (Eq. 1).

        Summed over the masked tokens and divided by the number of slots: a constant, so that the
        loss of several replicas is that of one.
        """
        weights = importance(self.config, self.dims)
        if self.config.head == "ff":
            weights = [float(dim in self.trained_dims) for dim in self.dims]
        return MatryoshkaLoss(MaskedLMCrossentropy(), weights)

    def weighted_metrics(self):
        """Accuracy and crossentropy of every prefix: "top1_d8", ..., "loss_d8", ...; weighted,
        since padded slots must not count."""
        return per_prefix([MaskedLMAccuracy(name="top1"), MaskedLMCrossentropy()], self.dims)

    def evaluation_pass(self, model):
        """Scores of the evaluation split's masked tokens, and counts of the training pieces.

        A streamed training text is too much to count.
        """
        trained, between = self.trained_dims, ()
        if self.config.head != "ff":
            between = self.dims.interpolated()
        scored = NestingDims(sorted({*self.dims, *between}))
        chosen = [i for i, dim in enumerate(scored) if dim in trained or dim in between]
        scorer = masked_lm_at(model, scored)
        scorer.compile(jit_compile=self.config.jit_compile)

        def tokens(get):
            scores, labels = [], []
            for inputs, label, used in self.validation_data(self.config.evaluation.batch_size):
                used = used.numpy() > 0
                scores.append(np.asarray(scorer.predict_on_batch(inputs))[used][:, chosen])
                labels.append(label.numpy()[used])
            return {"token_scores": np.concatenate(scores), "token_labels": np.concatenate(labels)}

        parts = {("token_scores", "token_labels"): tokens} if self.config.data.eval_split else {}
        if self.sources is None or self.config.data.in_memory:
            parts[("piece_counts",)] = lambda get: {"piece_counts": self._piece_counts()}
        return EvaluationPass(trained, parts, between)

    def exported_parts(self, model):
        """An embedder of raw text, and `fill_mask`: the likeliest pieces of every prefix."""
        config = self.config
        most = min(config.masked_positions, config.export.masks)
        filler = mask_filler(model, self._tokens, most, config.export.pieces, self.trained_dims)
        return {
            "encoder": self._embedder(model),
            "nesting_dims": self.trained_dims,
            "options": ServingOptions(functions={"fill_mask": filler}),
        }

    def directions(self, model):
        """Texts find texts, by the word embeddings' space. Made sentences are not indexed."""
        encoder, features = self._embedder(model), [self.config.data.feature.split(",")[0]]
        size = self.config.evaluation.batch_size

        def embed(texts):
            padded = [*texts, *[""] * (size - len(texts))]  # one shape, one graph
            return encoder.predict_on_batch(tf.constant(padded))[: len(texts)]

        def read(source):
            return text_corpus(source, features, embed, size)

        return {"": Direction(read, read, embed, embed)}

    @functools.cached_property
    def _tokens(self):
        return self.vocabulary.layer("[MASK]")

    def _embedder(self, model):
        """Raw strings (batch,) -> the embedding (batch, d)."""
        return masked_lm_embedder(model, self._tokens, self.trained_dims.width)

    @functools.cached_property
    def _train_rows(self):
        return token_rows(self.vocabulary.wordpiece, self._texts("train"), self.config.data.packed)

    @functools.cached_property
    def _evaluation_rows(self):
        return token_rows(self.vocabulary.wordpiece, self._texts("eval"), self.config.data.packed)

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

    def _vocabulary_texts(self):
        """The training texts that the vocabulary is learned from; the same in every process."""
        most = self.config.vocabulary.examples
        if self.sources is not None and not self.config.data.in_memory:
            batches = self._streamed(256, Sampling()).map(lambda texts, seeds: texts)
            return batches.take(-(-(most or 100_000) // 256))
        texts = self._texts("train")
        return texts[:most] if most else texts

    def _piece_counts(self):
        """How often the training text has each piece; -1 for special pieces."""
        counts = np.bincount(self._train_rows.ravel(), minlength=len(self.vocabulary))
        counts[list(self.vocabulary.wordpiece.special_ids)] = -1
        return counts


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
