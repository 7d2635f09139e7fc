"""What weights and losses of the prefixes are compared on: frozen features, and their measures."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from mrl_keras import NestingDims
from mrl_keras.data import image_set, load_images, read_split
from mrl_keras.evaluation import JudgedRetrievalEvaluator, Outputs
from mrl_keras.retrieval.exact.search import exact_search
from recipes.common.corpus import Source
from recipes.common.run import Run
from recipes.common.training import load_trained
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.prefix_training import (
    class_batches,
    random_batches,
    train_adaptor,
    train_classifier,
)
from recipes.report.text.encoders import wordllama
from recipes.report.text.judged import read_judged
from recipes.report.text.study import JUDGE, LEARN, TextStudy

SHORTLIST = 200
RECALL = f"recall@{SHORTLIST}"
QUERIES = 500


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Features with labels, and rows and queries of these classes or of others.

    Args:
        name, title, about: str, for the page.
        dims: `NestingDims`.
        learn, judge, rows, queries: (features, labels) each; shortlists hold `rows`.
        k: int, what a batch has in the place of a shortlist: its positives at least.
        steps: int, of training.
    """

    name: str
    title: str
    about: str
    dims: NestingDims
    learn: tuple
    judge: tuple
    rows: tuple
    queries: tuple
    k: int = 7
    steps: int = 600

    @property
    def small(self):
        """The measure of the smallest prefix: (name, dim)."""
        return "top-1", self.dims[0]

    @property
    def full(self):
        """The measure of the full width."""
        return "top-1", self.dims[-1]

    def train(self, method, seed, steps):
        """{(measure, dim): value between 0 and 1} after one training."""
        batches = class_batches(self.learn[1], 12, 8, steps or self.steps, seed)
        model = train_classifier(*self.learn, self.dims, method, batches, self.k, seed)
        right = _outputs(model, self.judge[0])["logits"].argmax(-1)
        found = {
            ("top-1", dim): float(np.mean(right[:, place] == self.judge[1]))
            for place, dim in enumerate(self.dims)
        }
        rows, queries = (_outputs(model, of[0])["embedding"] for of in (self.rows, self.queries))
        dims = [*self.dims[:2], self.dims[-1]]
        nearest = exact_search(queries, rows, dims, k=min(SHORTLIST, len(rows)))
        relevant = np.bincount(self.rows[1])[self.queries[1]]
        for place, dim in enumerate(dims):
            same = self.rows[1][nearest.indices[place]] == self.queries[1][:, None]
            found[RECALL, dim] = float(np.mean(same.sum(axis=1) / relevant))
        found["1-NN", dims[-1]] = float(np.mean(same[:, 0]))
        return found


@dataclasses.dataclass(frozen=True)
class Judged:
    """Embeddings of documents and queries with judgements.

    Args:
        name, title, about: str, for the page.
        dims: `NestingDims`.
        arrays: {"documents", "learn", "judge"}, each (rows, d).
        judgements: {"learn", "judge"}, each (judgements, 3) of query, document and gain.
        steps: int, of training.
    """

    name: str
    title: str
    about: str
    dims: NestingDims
    arrays: dict
    judgements: dict
    steps: int = 60

    @property
    def small(self):
        """The measure of the smallest prefix: (name, dim)."""
        return "nDCG@10", self.dims[0]

    @property
    def full(self):
        """The measure of the full width."""
        return "nDCG@10", self.dims[-1]

    def train(self, method, seed, steps):
        """{(measure, dim): value between 0 and 1} after one training."""
        documents, pairs = self.arrays["documents"], self.judgements[LEARN]
        batches = random_batches(len(pairs), (steps or self.steps, min(128, len(pairs))), seed)
        k = max(1, round(batches.shape[1] * SHORTLIST / len(documents)))
        sides = self.arrays[LEARN][pairs[:, 0]], documents[pairs[:, 1]]
        adaptor = train_adaptor(*sides, self.dims, method, batches, k, seed)
        made = {
            name: np.concatenate(list(adaptor.chunks(self.arrays[name])))
            for name in ("documents", JUDGE)
        }
        given = {"queries": made[JUDGE], "documents": made["documents"]}
        given["judgements"] = self.judgements[JUDGE]
        evaluator = JudgedRetrievalEvaluator(recall=(min(SHORTLIST, len(documents)),))
        found = {}
        for name, values in evaluator.each(Outputs(self.dims, given)):
            measure, dim = name.rpartition("/")[0].rpartition("/")[2], int(name.rpartition("/")[2])
            shown = measure.startswith("nDCG") or (
                measure.startswith("recall") and dim in (*self.dims[:2], self.dims[-1])
            )
            if shown:
                found[RECALL if measure.startswith("recall") else measure, dim] = float(
                    np.mean(values)
                )
        return found


def tiny_imagenet(options):
    """Tiny ImageNet through the trunk of a trained run: its pooled channels."""
    task, model = load_trained(Run.open(options.run))
    layer = model.get_layer("embedding")
    trunk = keras.Model(model.input, layer.input if layer.weights else layer.output)
    cache = ResultCache(options.cache)

    def features(of):
        def compute():
            return {"features": trunk.predict(of.images, 500, verbose=0)}

        key = {"run": options.run, "images": of.images}
        return cache.arrays(key, compute)["features"], of.labels

    data = task.config.data
    builder = image_set(f"{data.name}_novel", data.data_dir or None)
    rows, queries = (features(read_split(builder, split)) for split in ("train", "test"))
    few = slice(None, None, max(1, len(queries[1]) // QUERIES))
    queries = queries[0][few], queries[1][few]
    about = (
        f"The trunk is that of {options.run}, {task.config.steps} steps of "
        f"`tiny_imagenet_resnet` with the head {task.config.head}. Top-1 is of the 100 classes "
        f"that are learned, {len(task.source.test):,} test images. {RECALL} and 1-NN are of 100 "
        f"others, which neither the trunk nor the head has seen: {len(queries[1]):,} test images "
        f"find those of their class among {len(rows[1]):,}, 200 of each class."
    )
    splits = features(task.source.train), features(task.source.test)
    title = "Tiny ImageNet, and 100 novel classes"
    dims = NestingDims.halving(128, 8)
    return Labelled("tiny_imagenet", title, about, dims, *_standard(*splits, rows, queries))


def digit_pairs(options):
    """The pixels of two digits side by side."""
    found = load_images("digit_pairs")
    learn, judge = (
        (of.images.reshape(len(of), -1).astype("float32"), of.labels)
        for of in (found.train, found.test)
    )
    queries = judge[0][::4], judge[1][::4]
    about = (
        f"The features are the {learn[0].shape[1]} pixels. {len(judge[1]):,} test pairs, of which "
        f"every fourth one looks for the 40 rows of its number among the {len(learn[1]):,} that "
        f"are learned."
    )
    splits = _standard(learn, judge, learn, queries)
    return Labelled("digit_pairs", "Digit pairs", about, NestingDims([4, 8, 16, 32]), *splits)


def scifact(options):
    """SciFact through the static token embeddings of wordllama, behind an adaptor."""
    documents = Source("scifact_corpus", "train", ids="id", texts=["title", "text"])
    queries = Source("scifact_queries", texts=["text"], relevant="relevant_ids")
    texts = read_judged(documents, queries, {LEARN: "train", JUDGE: "test"})
    encoder = wordllama()
    study = TextStudy([encoder], texts, ResultCache(options.cache))
    about = (
        f"{encoder.name}: {encoder.about}. A `MatryoshkaAdaptor` behind it learns from the "
        f"{len(texts.judgements[LEARN]):,} judgements of the training queries, "
        f"`SymmetricContrastive` at every prefix; {len(texts.queries[JUDGE]):,} other queries "
        f"judge {len(texts.documents):,} documents."
    )
    dims = NestingDims.halving(encoder.width, 8)
    arrays = study.arrays(encoder)
    return Judged("scifact", "SciFact", about, dims, arrays, texts.judgements)


SETTINGS = {"tiny_imagenet": tiny_imagenet, "digit_pairs": digit_pairs, "scifact": scifact}
"""Functions of the script's options, which make a setting."""


def _outputs(model, features):
    """A small network's outputs, without the tracing that `predict` begins with."""
    return {name: np.asarray(output) for name, output in model(features).items()}


def _standard(learn, *others):
    """Pairs (features, labels), by the mean and deviation of the first."""
    mean, deviation = learn[0].mean(axis=0), learn[0].std(axis=0) + 1e-6
    return [((x - mean) / deviation, labels) for x, labels in (learn, *others)]
