"""The task of embedding sentences so that, at every prefix, similar ones are near.

Configuration keys beside those that all tasks share:

    objective            "ranking": the cosines of a batch's pairs shall have the order of their
                         scores; "contrastive": a pair of at least `positive_score` shall be
                         nearest among all second sentences of the batch (in-batch negatives)
    temperature          T of either objective
    positive_score       see `objective`
    nesting_dims         M as a tuple; empty halves the width down to `smallest_dim`
    smallest_dim         8 by default
    relative_importance  weights c_m by dim, such as "8:2,16:1.5"; empty is 1 for all
    model                {width, pooling, length, options}: d (0 is BERT's own), "mean" or "cls",
                         tokens of a text, arguments of `GardenBert`
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
from mrl_keras.data import Wordpiece, learn_vocabulary, read_columns, text_set
from mrl_keras.data.sampling import epochs_of_rows
from mrl_keras.evaluation import rank_correlation, spearman
from mrl_keras.export import export_saved_model
from mrl_keras.models import (
    BertTokens,
    sentence_pairs,
    text_embedder,
)
from recipes.common.prefixes import chosen_dims, importance
from recipes.common.vocabulary import run_vocabulary

OBJECTIVES = {"ranking": "cosine", "contrastive": "similarity"}
"""The output of `sentence_pairs` that an objective trains."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """One split: two object arrays of str and float32 scores, each (pairs,)."""

    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray


class Task:
    """Data, model, loss, evaluation and export of one configuration.

    Args:
        config: `ConfigDict`, see the module's docstring and `recipes/configs/`.
        workdir: folder of the run, which keeps the vocabulary. Default None, kept nowhere.

    Raises:
        ValueError: a value out of range, or a data set that is not there.
    """

    def __init__(self, config, workdir=None):
        self.config = config
        if config.objective not in OBJECTIVES:
            raise ValueError(
                f"`objective` must be one of {tuple(OBJECTIVES)}. Received {config.objective!r}."
            )
        self.train, self.test = (
            _made_pairs(config.data) if config.data.name == "made" else _tfds(config.data)
        )
        words = config.vocabulary
        self.vocabulary = run_vocabulary(
            workdir,
            lambda: learn_vocabulary(
                np.concatenate([self.train.first, self.train.second]),
                words.size,
                lower_case=words.lower_case,
                least_count=words.least_count,
            ),
        )
        self.tokens = Wordpiece(self.vocabulary, config.model.length, words.lower_case)
        width = config.model.width or config.model.options.hidden_size
        self.dims = chosen_dims(config, width)

    def train_data(self, batch_size, sampling):
        """Endless batches of (tokens of both sentences, scores), the same from any step.

        With the contrastive objective the third part is 1 for positive pairs and 0 for others.
        """
        first, second = (tf.constant(list(x)) for x in (self.train.first, self.train.second))
        scores = tf.constant(self.train.scores)

        def read(rows, seeds):
            inputs = {}
            for side, texts in (("first", first), ("second", second)):
                for name, values in self.tokens(tf.gather(texts, rows)).items():
                    shape = (batch_size, self.config.model.length)
                    inputs[f"{side}_{name}"] = tf.ensure_shape(values, shape)
            return self._labelled(inputs, tf.gather(scores, rows))

        return epochs_of_rows(len(self.train.scores), read, batch_size, sampling)

    def validation_data(self, batch_size):
        """None: pairs of one batch say little of the whole split, which `evaluate` reads."""
        return None

    def model(self):
        """The untrained, uncompiled model of pairs of sentences."""
        options = self.config.model
        embedder = text_embedder(
            options.length,
            options.width or None,
            options.pooling,
            vocab_size=len(self.vocabulary),
            **options.options,
        )
        pairs = sentence_pairs(embedder, self.dims, self.config.temperature)
        output = pairs.output[OBJECTIVES[self.config.objective]]
        return keras.Model(pairs.input, output, name="sentence_pairs")

    def loss(self):
        """The Matryoshka loss over the objective's (Eq. 1)."""
        return MatryoshkaLoss(self._inner(), importance(self.config, self.dims))

    def metrics(self):
        """For every prefix the ranking loss, or how often a batch's nearest sentence is right."""
        ranking = self.config.objective == "ranking"
        return per_prefix(self._inner() if ranking else InBatchAccuracy(), self.dims)

    def evaluate(self, model):
        """Yields (name, Spearman's correlation) on the evaluation split.

        "spearman/8" is that of the cosine at 8 dims, trained or interpolated. For comparison:
        "spearman/untrained" of the same network at full width before training, "spearman/words"
        of the sentences' common words (the cosine of 0/1 word vectors), and "spearman/tf_idf", the
        same with words weighted by how rare they are in the training sentences.
        """
        first, second = (self.embed(model, x) for x in (self.test.first, self.test.second))
        dims = self.dims.with_interpolated()
        for dim, value in spearman(first, second, self.test.scores, dims).items():
            yield f"spearman/{dim}", value
        keras.utils.set_random_seed(self.config.seed)
        fresh = self.model()
        first, second = (self.embed(fresh, x) for x in (self.test.first, self.test.second))
        width = self.dims.width
        found = spearman(first, second, self.test.scores, [width])
        yield "spearman/untrained", found[width]
        yield from word_overlap(self.train, self.test)

    def export(self, model, directory):
        """Writes `directory`/VERSION, a SavedModel with `embed` from raw strings."""
        return export_saved_model(directory, self.text_encoder(model), nesting_dims=self.dims)

    def text_encoder(self, model):
        """Raw strings (batch,) -> the embedding (batch, d)."""
        text = keras.Input((), dtype="string", name="text")
        words = self.config.vocabulary
        tokens = BertTokens(self.vocabulary, self.config.model.length, words.lower_case)
        return keras.Model(text, model.get_layer("embedder")(tokens(text)), name="text_encoder")

    def embed(self, model, texts):
        """Embeddings (texts, d) of strings."""
        return embedded(
            model.get_layer("embedder"),
            self.tokens,
            texts,
            self.config.evaluation.batch_size,
            self.config.jit_compile,
        )

    def _inner(self):
        if self.config.objective == "ranking":
            return CoSENT(self.config.temperature)
        return SymmetricContrastive("gathered")

    def _labelled(self, inputs, scores):
        if self.config.objective == "ranking":
            return inputs, scores
        return inputs, scores, tf.cast(scores >= self.config.positive_score, tf.float32)


def embedded(tower, tokens, texts, batch_size, jit_compile=False):
    """Embeddings (texts, d) of strings.

    Args:
        tower: `keras.Model`, tokens -> (batch, d).
        tokens: `Wordpiece`.
        texts: strings.
        batch_size: int, of all batches: the last is filled up, so that shapes are static.
        jit_compile: bool. Default False.
    """
    if not tower.compiled:
        tower.compile(jit_compile=jit_compile)
    parts = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        padded = batch + [""] * (batch_size - len(batch))
        found = tower.predict_on_batch(tokens(tf.constant(padded)))
        parts.append(np.asarray(found, "float32")[: len(batch)])
    return np.concatenate(parts)


def word_overlap(train, test):
    """Spearman of the cosines of word vectors, plain and weighted; yields (name, value)."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    for name, vectorizer in (
        ("words", CountVectorizer(binary=True)),
        ("tf_idf", TfidfVectorizer(binary=True)),
    ):
        vectorizer.fit([*train.first, *train.second])
        first, second = (vectorizer.transform(x) for x in (test.first, test.second))
        norms = [np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel()) for x in (first, second)]
        products = np.asarray(first.multiply(second).sum(axis=1)).ravel()
        cosines = products / np.maximum(norms[0] * norms[1], 1e-12)
        yield f"spearman/{name}", rank_correlation(np.round(cosines, 10), test.scores)


def _tfds(data):
    columns = (data.first, data.second, data.score)
    builder = text_set(data.name, columns[:2], columns[2:], data.data_dir or None)
    splits = []
    for split in (data.train_split, data.eval_split):
        found = read_columns(builder, split, columns, data.max_examples or None)
        scores = np.asarray(found[data.score], "float32")
        splits.append(Pairs(found[data.first], found[data.second], scores))
    return splits


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
