"""The evaluators: what each measures, which arrays it needs, and its results' names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from mrl_keras.cascade import CurveOptions, cascade_curve
from mrl_keras.checks import whole_number
from mrl_keras.evaluation.analysis.cosine_spans import cosine_spans, same_class_rows
from mrl_keras.evaluation.analysis.disagreement import (
    class_accuracy,
    class_trends,
    first_correct_dim,
    oracle_accuracy,
)
from mrl_keras.evaluation.checks import checked_logits
from mrl_keras.evaluation.classification.few_shot import ShotDraws, few_shot_accuracy
from mrl_keras.evaluation.classification.linear import among_top, linear_probe_accuracy
from mrl_keras.evaluation.classification.long_tail import long_tail_accuracy, long_tailed_rows
from mrl_keras.evaluation.classification.neighbours import among_votes, neighbour_labels
from mrl_keras.evaluation.classification.superclass import superclass_accuracy
from mrl_keras.evaluation.classification.zero_shot import zero_shot_accuracy
from mrl_keras.evaluation.retrieval.graded import (
    checked_gains,
    gains_at,
    ndcg_of_queries,
    pair_recall,
)
from mrl_keras.evaluation.retrieval.tables import PAPER_KS
from mrl_keras.evaluation.run import Evaluator, ExampleEvaluator, Outputs
from mrl_keras.evaluation.text.similarity import spearman
from mrl_keras.retrieval import SearchPlan, exact_search, mflops_per_query
from mrl_keras.retrieval.metrics import average_precision

_LABELLED = ("embeddings", "labels", "train_embeddings", "train_labels")


@dataclasses.dataclass(frozen=True)
class NearestNeighboursEvaluator(ExampleEvaluator):
    """ "top1/1nn/DIM", "top5/5nn/DIM": votes of the nearest neighbours (Tables 2 and 5).

    Args:
        ks: how many neighbours vote; all come from one search. Default (1,).
        tops: k of top-k accuracy, reported for every number of neighbours that is not smaller.
            Default (1,).

    Embeddings (examples, prefixes, d) are one embedding for each trained prefix, of which the
    first DIM components count, such as those of a slimmable network.
    """

    ks: Sequence[int] = (1,)
    tops: Sequence[int] = (1,)

    needs = _LABELLED

    def __post_init__(self):
        _check_numbers(self, "ks", "tops")
        if min(self.tops) > max(self.ks):
            raise ValueError(
                f"The least of `tops` must not exceed the most neighbours, {max(self.ks)}. "
                f"Received {list(self.tops)}."
            )

    @property
    def primary_metric(self) -> str:
        k = next(k for k in self.ks if k >= min(self.tops))
        return f"top{min(self.tops)}/{k}nn/*"

    def each(self, outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, bools (examples,)), whether each example's label is among the votes."""
        labels, found = outputs["labels"], self._neighbours(outputs)
        for k in self.ks:
            for top in (top for top in self.tops if top <= k):
                for dim, neighbours in found.items():
                    yield f"top{top}/{k}nn/{dim}", among_votes(neighbours[:, :k], labels, top)

    def _neighbours(self, outputs):
        test, labels, train, train_labels = (outputs[name] for name in _LABELLED)
        most = max(self.ks)
        if test.ndim == 2:
            return neighbour_labels(train, train_labels, test, labels, outputs.all_dims, most)
        found = {}
        for place, dim in enumerate(outputs.dims):
            rows, queries = train[:, place, :dim], test[:, place, :dim]
            found |= neighbour_labels(rows, train_labels, queries, labels, [dim], most)
        return found


@dataclasses.dataclass(frozen=True)
class LinearHeadEvaluator(ExampleEvaluator):
    """ "top1/linear/DIM", "top5/linear/DIM": a trained head's logits (Tables 1 and 4).

    Interpolated prefixes are reported where the head has logits for them.

    Args:
        tops: k of top-k accuracy, at most the classes. Default (1,).
    """

    tops: Sequence[int] = (1,)

    needs = ("logits", "labels")
    uses = ("interpolated_logits",)

    def __post_init__(self):
        _check_numbers(self, "tops")

    @property
    def primary_metric(self) -> str:
        return f"top{self.tops[0]}/linear/*"

    def each(self, outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, bools (examples,)), whether each example's label is among the highest."""
        for top in self.tops:
            right = _right(outputs["logits"], outputs["labels"], outputs.dims, top)
            if "interpolated_logits" in outputs:
                between = outputs["interpolated_logits"], outputs["labels"], outputs.interpolated
                right |= _right(*between, top)
            for dim in sorted(right):
                yield f"top{top}/linear/{dim}", right[dim]


@dataclasses.dataclass(frozen=True)
class LinearProbeEvaluator(Evaluator):
    """ "top1/probe/DIM": logistic regression on each frozen prefix.

    Args:
        top: k of top-k accuracy. Default 1.
        inverse_regularization: scikit-learn's C. Default 1.0.
        examples: int, fit on the first so many training examples. Default 0, all.
    """

    top: int = 1
    inverse_regularization: float = 1.0
    examples: int = 0

    needs = _LABELLED

    @property
    def primary_metric(self) -> str:
        return f"top{self.top}/probe/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        test, labels, train, train_labels = (outputs[name] for name in _LABELLED)
        some = slice(self.examples or None)
        found = linear_probe_accuracy(
            train[some],
            train_labels[some],
            test,
            labels,
            outputs.all_dims,
            self.inverse_regularization,
            self.top,
        )
        for dim, value in found.items():
            yield f"top{self.top}/probe/{dim}", value


@dataclasses.dataclass(frozen=True)
class FewShotEvaluator(Evaluator):
    """ "5shot/mean/DIM" and "5shot/half_width/DIM": nearest class means (Table 15).

    Args:
        shots: ints, training examples of each class. Default (1, 5).
        ways: int, classes of each repeat. Default None, all.
        repeats: int. Default 10.
        seed: int, of the draws. Default 0.
    """

    shots: Sequence[int] = (1, 5)
    ways: int | None = None
    repeats: int = 10
    seed: int = 0

    needs = _LABELLED

    def __post_init__(self):
        _check_numbers(self, "shots")

    @property
    def primary_metric(self) -> str:
        return f"{self.shots[-1]}shot/mean/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        test, labels, train, train_labels = (outputs[name] for name in _LABELLED)
        arrays = train, train_labels, test, labels
        draws = ShotDraws(self.ways, self.repeats, self.seed)
        for shots in self.shots:
            found = few_shot_accuracy(*arrays, outputs.dims, shots, draws)
            for dim, accuracy in found.items():
                yield f"{shots}shot/mean/{dim}", accuracy.mean
                yield f"{shots}shot/half_width/{dim}", accuracy.half_width


@dataclasses.dataclass(frozen=True)
class LongTailEvaluator(Evaluator):
    """ "long_tail/overall/DIM" and the groups of `LongTailAccuracy`: a stream (Table 16).

    The stream is drawn from the test examples by `long_tailed_rows`. Every second class is known
    before it, by its training examples; the others are novel to the class means. Groups without an
    example are left out.

    Args:
        most, least: ints, examples of the most frequent and of the rarest class. Default 1000
            and 10.
        head_above: int, a class with more examples in the stream is of the head. Default 50.
        seed: int, of the stream. Default 0.
    """

    most: int = 1000
    least: int = 10
    head_above: int = 50
    seed: int = 0

    needs = _LABELLED
    primary_metric = "long_tail/overall/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        test, labels, train, train_labels = (outputs[name] for name in _LABELLED)
        rows = long_tailed_rows(labels, self.most, self.least, self.seed)
        start = np.isin(train_labels, np.unique(labels)[::2])
        found = long_tail_accuracy(
            test[rows],
            labels[rows],
            outputs.dims,
            train[start],
            train_labels[start],
            self.head_above,
        )
        for dim, accuracy in found.items():
            for group, value in dataclasses.asdict(accuracy).items():
                if not np.isnan(value):
                    yield f"long_tail/{group}/{dim}", value


@dataclasses.dataclass(frozen=True)
class RetrievalEvaluator(ExampleEvaluator):
    """ "retrieval/mAP@10/DIM", ".../P@10", ".../top10", ".../MFLOPs": exact search (Tables 8, 9).

    Test examples are the queries, training examples the database.

    Args:
        ks: ints, at most the training examples. Default the paper's 10, 25, 50, 100.
    """

    ks: Sequence[int] = PAPER_KS

    needs = _LABELLED

    def __post_init__(self):
        _check_numbers(self, "ks")

    @property
    def primary_metric(self) -> str:
        return f"retrieval/mAP@{self.ks[0]}/*"

    def each(self, outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, bools or floats (queries,)) of all but the MFLOPs."""
        queries, labels, rows, row_labels = (np.asarray(outputs[name]) for name in _LABELLED)
        found = neighbour_labels(rows, row_labels, queries, labels, outputs.all_dims, max(self.ks))
        for dim, neighbours in found.items():
            relevant = neighbours == labels[:, None]
            measured = {"top1": relevant[:, 0]}
            for k in self.ks:
                measured[f"mAP@{k}"] = average_precision(relevant, k)
                measured[f"P@{k}"] = relevant[:, :k].mean(axis=1)
                measured[f"top{k}"] = relevant[:, :k].any(axis=1)
            for name, values in measured.items():
                yield f"retrieval/{name}/{dim}", values

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        yield from super().__call__(outputs)
        rows = len(outputs["train_embeddings"])
        for dim in outputs.all_dims:
            plan = SearchPlan((dim,), k=max(self.ks))
            yield f"retrieval/MFLOPs/{dim}", mflops_per_query(rows, plan)


@dataclasses.dataclass(frozen=True)
class JudgedRetrievalEvaluator(ExampleEvaluator):
    """ "retrieval/nDCG@10/DIM", ".../recall@100", ".../mAP@10": exact search, judged documents.

    nDCG is `ndcg`; recall@k the share of a query's relevant documents among the first k; mAP@k is
    divided by k, as everywhere here, so that queries with R < k relevant documents reach R / k at
    most. Queries without a relevant document are left out.

    Args:
        ndcg, recall, mean_ap: ints, the k of each metric. Default (10,), (100,) and (10,).

    "judgements" are the triples (row of "queries", row of "documents", degree of relevance); a
    degree of 0, and what has no triple, is irrelevant.

    >>> from mrl_keras.evaluation import JudgedRetrievalEvaluator, Outputs, evaluate
    >>> judgements = [[0, 0, 1], [1, 2, 1]]
    >>> arrays = {"queries": np.eye(3)[:2], "documents": np.eye(3), "judgements": judgements}
    >>> evaluator = JudgedRetrievalEvaluator(ndcg=(1,), recall=(3,), mean_ap=(2,))
    >>> dict(evaluate(Outputs([3], arrays), [evaluator]))
    {'retrieval/nDCG@1/3': 0.5, 'retrieval/recall@3/3': 1.0, 'retrieval/mAP@2/3': 0.25}

    Source: arXiv 2104.08663 (BEIR) takes nDCG@10 and recall@100; arXiv 2205.13147, Section 4.3.
    """

    ndcg: Sequence[int] = (10,)
    recall: Sequence[int] = (100,)
    mean_ap: Sequence[int] = (10,)

    needs = ("queries", "documents", "judgements")

    def __post_init__(self):
        _check_numbers(self, "ndcg", "recall", "mean_ap")

    @property
    def primary_metric(self) -> str:
        return f"retrieval/nDCG@{self.ndcg[0]}/*"

    def each(self, outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, floats (queries with a relevant document,))."""
        queries, documents = outputs["queries"], outputs["documents"]
        gains = _gains(outputs["judgements"], len(queries), len(documents))
        some = np.array([any(gain.values()) for gain in gains])
        judged = [gain for gain, relevant in zip(gains, some, strict=True) if relevant]
        wanted = np.array([sum(degree > 0 for degree in gain.values()) for gain in judged])
        most = max(*self.ndcg, *self.recall, *self.mean_ap)
        found = exact_search(queries[some], documents, outputs.all_dims, k=most)
        for dim, indices in zip(found.dims, found.indices, strict=True):
            relevant = gains_at(indices, judged) > 0
            for k in self.ndcg:
                yield f"retrieval/nDCG@{k}/{dim}", ndcg_of_queries(indices, judged, k)
            for k in self.recall:
                yield f"retrieval/recall@{k}/{dim}", relevant[:, :k].sum(axis=1) / wanted
            for k in self.mean_ap:
                yield f"retrieval/mAP@{k}/{dim}", average_precision(relevant, k)


@dataclasses.dataclass(frozen=True)
class CosineSpanEvaluator(Evaluator):
    """ "cosine/positive/DIM", "cosine/random/DIM", "cosine/span/DIM": how far apart (Table 6).

    A positive pair is a test example and a training example of its class, drawn once.

    Args:
        seed: int, of the pairs. Default 0.
    """

    seed: int = 0

    needs = _LABELLED
    primary_metric = "cosine/span/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        test, labels, train, train_labels = (outputs[name] for name in _LABELLED)
        pairs = train[same_class_rows(labels, train_labels, self.seed)]
        for dim, span in cosine_spans(test, pairs, outputs.dims).items():
            for name in ("positive", "random", "span"):
                yield f"cosine/{name}/{dim}", getattr(span, name)


@dataclasses.dataclass(frozen=True)
class DisagreementEvaluator(Evaluator):
    """Where prefixes disagree (Tables 22 and 23).

    "oracle/accuracy/DIM"; "first_right/share/DIM" and "first_right/never/all"; with two prefixes or
    more "classes/improving/all", ".../dipping", ".../declining" and ".../constant", the shares of
    the classes, see `class_trends`.

    Args:
        tolerance: float, steps of a class's accuracy up to this do not count. Default 0.0.
    """

    tolerance: float = 0.0

    needs = ("logits", "labels")
    primary_metric = "oracle/accuracy/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        guesses, labels, dims = _guesses(outputs)
        for dim, value in zip(dims, oracle_accuracy(guesses, labels), strict=True):
            yield f"oracle/accuracy/{dim}", float(value)
        for dim, value in first_correct_dim(guesses, labels, dims).items():
            yield "first_right/never/all" if dim is None else f"first_right/share/{dim}", value
        if len(dims) > 1:
            classes = outputs["logits"].shape[-1]
            accuracy = class_accuracy(guesses, labels, classes)
            for trend, found in class_trends(accuracy, self.tolerance).items():
                yield f"classes/{trend}/all", len(found) / classes


@dataclasses.dataclass(frozen=True)
class SuperclassEvaluator(Evaluator):
    """ "superclass/NAME/DIM", and NAME "all": the right group of classes (Tables 24 and 25).

    Args:
        superclasses: for each class the name of its superclass, or None, see `hypernyms_at`.
    """

    superclasses: Sequence[str | None]

    needs = ("logits", "labels")
    primary_metric = "superclass/all/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        guesses, labels, dims = _guesses(outputs)
        for name, values in superclass_accuracy(guesses, labels, self.superclasses).items():
            for dim, value in zip(dims, values, strict=True):
                yield f"superclass/{name}/{dim}", float(value)


@dataclasses.dataclass(frozen=True)
class CascadeEvaluator(Evaluator):
    """ "cascade-POLICY/MEASURE/DIM": adaptive classification on random splits (Table 3, Figure 6).

    The policies are greedy and joint; the measures accuracy, expected_dim, cumulative_dim and
    prefix_accuracy, each also with "_std", at every early stop, see `cascade_curve`.

    Args:
        splits: int. Default 30.
        held_out: float, the fraction that thresholds are learned on. Default 0.2.
        calibrate: bool, learn temperatures too. Default False.
        seed: int, of the splits. Default 0.
    """

    splits: int = 30
    held_out: float = 0.2
    calibrate: bool = False
    seed: int = 0

    needs = ("logits", "labels")
    primary_metric = "cascade-greedy/accuracy/*"

    def each(self, outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, floats (splits,)) of each measure; all policies share the splits."""
        options = CurveOptions(**dataclasses.asdict(self))
        rows = cascade_curve(outputs["logits"], outputs["labels"], outputs.dims, options)
        for row in rows:
            for name in ("accuracy", "expected_dim", "cumulative_dim", "prefix_accuracy"):
                yield f"cascade-{row.policy}/{name}/{row.dim}", getattr(row, name)

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        for name, values in self.each(outputs):
            group, measure, dim = name.split("/")
            yield name, float(values.mean())
            yield f"{group}/{measure}_std/{dim}", float(values.std(ddof=1))


@dataclasses.dataclass(frozen=True)
class PairSimilarityEvaluator(Evaluator):
    """ "spearman/cosine/DIM": how well the cosines of pairs order them as their scores do."""

    needs = ("first", "second", "scores")
    primary_metric = "spearman/cosine/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        pairs = (outputs[name] for name in self.needs)
        for dim, value in spearman(*pairs, outputs.all_dims).items():
            yield f"spearman/cosine/{dim}", value


@dataclasses.dataclass(frozen=True)
class ImageTextRecallEvaluator(Evaluator):
    """ "recall@10/text_to_image/DIM" and "recall@10/image_to_text/DIM", see `pair_recall`.

    Args:
        ks: ints; those above the number of images are left out. Default (1, 10).
    """

    ks: Sequence[int] = (1, 10)

    needs = ("images", "texts", "text_images")

    def __post_init__(self):
        _check_numbers(self, "ks")

    @property
    def primary_metric(self) -> str:
        return f"recall@{self.ks[-1]}/text_to_image/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        images, texts, owners = (outputs[name] for name in self.needs)
        own, dims = np.arange(len(images)), outputs.all_dims
        ks = [k for k in self.ks if k <= len(images)]
        for name, found in (
            ("text_to_image", pair_recall(texts, owners, images, own, dims, ks)),
            ("image_to_text", pair_recall(images, own, texts, owners, dims, ks)),
        ):
            for k in ks:
                for dim in dims:
                    yield f"recall@{k}/{name}/{dim}", found[dim][k]


@dataclasses.dataclass(frozen=True)
class ZeroShotEvaluator(Evaluator):
    """ "top1/zero_shot/DIM": images of classes that prompts describe (Table 18)."""

    needs = ("prompt_embeddings", "zero_shot_images", "zero_shot_labels")
    primary_metric = "top1/zero_shot/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        arrays = (outputs[name] for name in self.needs)
        for dim, value in zero_shot_accuracy(*arrays, outputs.all_dims).items():
            yield f"top1/zero_shot/{dim}", value


@dataclasses.dataclass(frozen=True)
class MaskedTokensEvaluator(Evaluator):
    """ "top1/mlm/DIM" and "crossentropy/mlm/DIM": masked tokens (Table 7).

    Where the pieces of the training text were counted, also what answers without a model reach:
    the most frequent piece, "top1/majority/all", and the pieces' frequencies (each counted once
    more than seen), "crossentropy/unigram/all".
    """

    needs = ("token_scores", "token_labels")
    uses = ("piece_counts",)
    primary_metric = "top1/mlm/*"

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        scores, labels = outputs["token_scores"], outputs["token_labels"]
        means = np.asarray(scores, "float64").mean(axis=0)
        for dim, (crossentropy, right) in zip(outputs.all_dims, means, strict=True):
            yield f"top1/mlm/{dim}", float(right)
            yield f"crossentropy/mlm/{dim}", float(crossentropy)
        if "piece_counts" in outputs:
            counts = outputs["piece_counts"]
            known = np.asarray(counts) >= 0  # special pieces count -1: they are never an answer
            shares = np.where(known, counts + 1.0, 0.0) / (counts[known] + 1.0).sum()
            yield "top1/majority/all", float(np.mean(labels == counts.argmax()))
            yield "crossentropy/unigram/all", float(-np.log(shares[labels]).mean())


def _right(logits, labels, dims, top):
    """{dim: bools (examples,)}, whether the label is among the `top` classes."""
    logits, labels, dims = checked_logits(logits, labels, dims)
    return dict(zip(dims, among_top(logits, labels, top).T, strict=True))


def _guesses(outputs):
    """(classes (examples, prefixes), labels, dims) of checked logits."""
    logits, labels, dims = checked_logits(outputs["logits"], outputs["labels"], outputs.dims)
    return logits.argmax(axis=-1), labels, dims


def _gains(judgements, queries, documents):
    """{document: degree} of each query."""
    triples = np.asarray(judgements)
    if triples.ndim != 2 or triples.shape[1] != 3 or triples.dtype.kind not in "iuf":
        raise ValueError(
            "`judgements` must be numbers (judgements, 3): row of the query, row of the document, "
            f"degree of relevance. Received {triples.dtype} {triples.shape}."
        )
    gains = [{} for _ in range(queries)]
    for query, document, degree in triples.tolist():
        if not 0 <= query < queries:
            raise ValueError(
                f"`judgements` must name queries 0 to {queries - 1}. Received {query:g}."
            )
        gains[int(query)][int(document)] = degree
    return checked_gains(gains, queries, documents)


def _check_numbers(evaluator, *names):
    """Turns some fields into tuples of ints; other values are an error."""
    for name in names:
        given = getattr(evaluator, name)
        if isinstance(given, (str, int)) or not len(given):
            raise ValueError(f"`{name}` must be at least one int in a tuple. Received {given!r}.")
        numbers = tuple(whole_number(number, f"Each of `{name}`") for number in given)
        object.__setattr__(evaluator, name, numbers)
