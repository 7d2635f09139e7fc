"""Training a text embedder on scored pairs of sentences, at every prefix.

Configuration keys beside those that all tasks share:

    objective            "ranking": CoSENT, which orders the cosines of a batch's pairs by their
                         scores; "contrastive": in-batch negatives for the pairs with a score
                         of at least `positive_score`
    temperature          T of either objective
    positive_score       see `objective`
    nesting_dims         M as a tuple; empty halves the width down to `smallest_dim`
    smallest_dim         8 by default
    embedding_width      d; 0 is BERT's own
    relative_importance  weights c_m by dim, such as "8:2,16:1.5", or "adaloss", "uw_so" or "famo",
                         whose weights adapt; empty is 1 for all
    model                {pooling, length, options}: "mean" or "cls", tokens of a text, arguments
                         of `GardenBert`
    vocabulary           {size, least_count, lower_case}: learned from the training sentences, and
                         kept in the work directory
    data                 {name, first, second, score, ...}: a TFDS set and its features, or "made"
                         for artificial sentences
    evaluation           {batch_size}
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import CoSENT, InBatchAccuracy, MatryoshkaLoss, SymmetricContrastive, per_prefix
from mrl_keras.data import read_columns, text_set
from mrl_keras.data.sampling import epochs_of_rows
from mrl_keras.evaluation import EvaluationPass
from mrl_keras.models import (
    sentence_pairs,
    text_embedder,
)
from recipes.common import task
from recipes.common.corpus import Direction, Rows, array_corpus, made_ids, text_corpus
from recipes.common.prefixes import chosen_dims, importance
from recipes.common.towers import embed_texts
from recipes.common.vocabulary import RunVocabulary

OBJECTIVES = {"ranking": "cosine", "contrastive": "similarity"}
"""The output of `sentence_pairs` that an objective trains."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """One split: two object arrays of str and float32 scores, each (pairs,)."""

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray


class Task(task.Task):
    """Text embedding, see `recipes.common.task.Task`; the module's docstring has the keys."""

    def __init__(self, config, workdir=None):
        super().__init__(config, workdir)
        if config.objective not in OBJECTIVES:
            raise ValueError(
                f"`objective` must be one of {tuple(OBJECTIVES)}. Received {config.objective!r}."
            )
        self.train, self.test = (
            _made_pairs(config.data) if config.data.name == "made" else _tfds(config.data)
        )
        self.vocabulary = RunVocabulary(workdir, config, config.model.length, self._train_texts)
        self.dims = chosen_dims(config, config.embedding_width or config.model.options.hidden_size)

    def train_data(self, batch_size, sampling):
        """Endless batches of (tokens of both sentences, scores), the same from any step.

        With the contrastive objective the third part is 1 for positive pairs and 0 for others.
        """
        first, second = (tf.constant(list(x)) for x in (self.train.first, self.train.second))
        scores = tf.constant(self.train.scores)

        def read(rows, seeds):
            inputs = {}
            for side, texts in (("first", first), ("second", second)):
                for name, values in self.vocabulary.wordpiece(tf.gather(texts, rows)).items():
                    shape = (batch_size, self.config.model.length)
                    inputs[f"{side}_{name}"] = tf.ensure_shape(values, shape)
            return self._labelled(inputs, tf.gather(scores, rows))

        return epochs_of_rows(len(self.train.scores), read, batch_size, sampling)

    def build_model(self):
        """The model of pairs of sentences; its layer "embedder" is the encoder of one."""
        options = self.config.model
        embedder = text_embedder(
            options.length,
            self.config.embedding_width or None,
            options.pooling,
            vocab_size=len(self.vocabulary),
            **options.options,
        )
        pairs = sentence_pairs(embedder, self.dims, self.config.temperature)
        output = pairs.output[OBJECTIVES[self.config.objective]]
        return keras.Model(pairs.input, output, name="sentence_pairs")

    def pretrained_parts(self, model):
        """BERT, without a linear layer after it."""
        return [(model.get_layer("embedder").get_layer("bert"), None)]

    def loss(self):
        """The Matryoshka loss over the objective's (Eq. 1)."""
        return MatryoshkaLoss(self._inner(), importance(self.config, self.dims))

    def metrics(self):
        """For every prefix the ranking loss, or how often a batch's nearest sentence is right."""
        ranking = self.config.objective == "ranking"
        return per_prefix(self._inner() if ranking else InBatchAccuracy(), self.dims)

    def evaluation_pass(self, model):
        """Embeddings of the evaluation split's pairs with their scores, and the texts themselves.

        "untrained_first" and "untrained_second" are those of the same network before training, as
        the config's seed makes it.
        """

        def pairs(embedder, prefix=""):
            found = (self.embed(embedder, texts) for texts in (self.test.first, self.test.second))
            return dict(zip((f"{prefix}first", f"{prefix}second"), found, strict=True))

        def untrained(get):
            keras.utils.set_random_seed(self.config.seed)
            return pairs(self.build_model(), "untrained_")

        def texts(get):
            return {
                "first_texts": self.test.first.astype(str),
                "second_texts": self.test.second.astype(str),
                "train_texts": self._train_texts().astype(str),
            }

        parts = {
            ("first", "second"): lambda get: pairs(model),
            ("scores",): lambda get: {"scores": self.test.scores},
            ("untrained_first", "untrained_second"): untrained,
            ("first_texts", "second_texts", "train_texts"): texts,
        }
        return EvaluationPass(self.dims, parts, self.dims.interpolated())

    def exported_parts(self, model):
        """The encoder of raw strings."""
        return {"encoder": self.text_encoder(model), "nesting_dims": self.dims}

    def directions(self, model):
        """Texts find texts: of this run's set the sentences of both sides, each once.

        The second sentence of a pair of at least `positive_score` is relevant to the first. Of
        other sets the texts are those of the option `texts`, else of the feature "text".
        """

        def embed(texts):
            return self.embed(model, texts)

        def rows(source):
            if source.name != self.config.data.name:
                return text_corpus(source, ["text"], embed, self.config.evaluation.batch_size)
            pairs = self._pairs(source)
            texts = np.array(list(dict.fromkeys([*pairs.first, *pairs.second])))
            made = Rows(texts, made_ids(0, texts), None, texts)
            return self._array_corpus(source, made, embed)

        def queries(source):
            if source.name != self.config.data.name:
                return text_corpus(source, ["text"], embed, self.config.evaluation.batch_size)
            pairs = self._pairs(source)
            positive = pairs.scores >= self.config.positive_score
            relevant = [
                (text,) * bool(is_one) for text, is_one in zip(pairs.second, positive, strict=True)
            ]
            texts = pairs.first.astype(str)
            made = Rows(texts, np.arange(len(texts)), None, texts, relevant)
            return self._array_corpus(source, made, embed)

        return {"": Direction(rows, queries, embed, embed)}

    def _pairs(self, source):
        """The pairs of a split of this run's set."""
        data = self.config.data
        if source.split in (data.train_split, data.eval_split):
            return self.train if source.split == data.train_split else self.test
        return _read_pairs(data, _builder(data), source.split)

    def _array_corpus(self, source, made, embed):
        about = {"kind": "texts", "set": source.name, "split": source.split, "ids": "row"}
        rows = self.config.evaluation.batch_size
        return array_corpus(about, made, embed, rows, most=source.most)

    def text_encoder(self, model):
        """Raw strings (batch,) -> the embedding (batch, d)."""
        text = keras.Input((), dtype="string", name="text")
        embedding = model.get_layer("embedder")(self.vocabulary.layer()(text))
        return keras.Model(text, embedding, name="text_encoder")

    def embed(self, model, texts):
        """Embeddings (texts, d) of strings."""
        return embed_texts(
            model.get_layer("embedder"),
            self.vocabulary.wordpiece,
            texts,
            self.config.evaluation.batch_size,
            self.config.jit_compile,
        )

    def _train_texts(self):
        return np.concatenate([self.train.first, self.train.second])

    def _inner(self):
        if self.config.objective == "ranking":
            return CoSENT(self.config.temperature)
        return SymmetricContrastive("gathered")

    def _labelled(self, inputs, scores):
        if self.config.objective == "ranking":
            return inputs, scores
        return inputs, scores, tf.cast(scores >= self.config.positive_score, tf.float32)


def _tfds(data):
    builder = _builder(data)
    return [_read_pairs(data, builder, split) for split in (data.train_split, data.eval_split)]


def _builder(data):
    return text_set(data.name, (data.first, data.second), (data.score,), data.data_dir or None)


def _read_pairs(data, builder, split):
    columns = (data.first, data.second, data.score)
    found = read_columns(builder, split, columns, data.max_examples or None)
    scores = np.asarray(found[data.score], "float32")
    return Pairs(found[data.first], found[data.second], scores)


def _made_pairs(data):
    """Seeded artificial sentences of eight words; the score is five times the common part."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop"))
    words = np.array(["".join(rng.choice(letters, 4)) for _ in range(40)])

    def split(examples):
        first = rng.choice(40, (examples, 8))
        common = rng.integers(0, 9, examples)
        other = rng.choice(40, (examples, 8))
        second = np.where(np.arange(8) < common[:, None], first, other)
        scores = [5 * np.mean(np.isin(b, a)) for a, b in zip(first, second, strict=True)]
        texts = ([" ".join(words[row]) for row in rows] for rows in (first, second))
        return Pairs(*(np.array(x, object) for x in texts), np.array(scores, "float32"))

    return split(data.made_examples), split(max(data.made_examples // 4, 2))
