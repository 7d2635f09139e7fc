"""What is measured of embeddings or logits, as (name, value) pairs; for `evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from mrl_keras.cascade import CurveOptions, cascade_curve
from mrl_keras.evaluation.analysis.disagreement import (
    class_accuracy,
    class_trends,
    first_correct_dim,
    oracle_accuracy,
)
from mrl_keras.evaluation.classification.few_shot import few_shot_accuracy
from mrl_keras.evaluation.classification.linear import head_accuracy, linear_probe_accuracy
from mrl_keras.evaluation.classification.neighbours import among_votes, checked_neighbours
from mrl_keras.evaluation.classification.superclass import superclass_accuracy
from mrl_keras.evaluation.retrieval.tables import PAPER_KS, exact_retrieval_table
from mrl_keras.evaluation.run import Outputs


@dataclasses.dataclass(frozen=True)
class NearestNeighbours:
    """ "top1/1nn/DIM", "top5/5nn/DIM": votes of the nearest neighbours (Tables 2 and 5).

    Args:
        ks: how many neighbours vote; all come from one search. Default (1,).
        tops: k of top-k accuracy, reported for every number of neighbours that is not smaller.
            Default (1,).
    """

    ks: Sequence[int] = (1,)
    tops: Sequence[int] = (1,)

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        train, train_labels, test, labels = outputs.splits()
        most, dims = max(self.ks), outputs.dims
        found = checked_neighbours(train, train_labels, test, labels, dims, most)
        for k in self.ks:
            for top in self.tops:
                if top <= k:
                    for dim, neighbours in found.items():
                        right = among_votes(neighbours[:, :k], labels, top)
                        yield f"top{top}/{k}nn/{dim}", float(right.mean())


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """ "top1/probe/DIM": logistic regression on each frozen prefix.

    Args:
        top: k of top-k accuracy. Default 1.
        inverse_regularization: scikit-learn's C. Default 1.0.
    """

    top: int = 1
    inverse_regularization: float = 1.0

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        found = linear_probe_accuracy(
            *outputs.splits(), outputs.dims, self.inverse_regularization, self.top
        )
        for dim, value in found.items():
            yield f"top{self.top}/probe/{dim}", value


@dataclasses.dataclass(frozen=True)
class FewShot:
    """ "5shot/mean/DIM" and "5shot/half_width/DIM": nearest class means (Table 15).

    Args:
        shots: ints, training examples of each class. Default (1, 5).
        ways: int, classes of each repeat. Default None, all.
        repeats: int. Default 10.
    """

    shots: Sequence[int] = (1, 5)
    ways: int | None = None
    repeats: int = 10

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        for shots in self.shots:
            found = few_shot_accuracy(
                *outputs.splits(), outputs.dims, shots, self.ways, self.repeats, outputs.seed
            )
            for dim, accuracy in found.items():
                yield f"{shots}shot/mean/{dim}", accuracy.mean
                yield f"{shots}shot/half_width/{dim}", accuracy.half_width


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """ "mAP@10/DIM", "P@10/DIM", "top10/DIM", "MFLOPs/DIM": exact search (Tables 8 to 10).

    Args:
        ks: ints. Default the paper's 10, 25, 50, 100.
    """

    ks: Sequence[int] = PAPER_KS

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        train, train_labels, test, labels = outputs.splits()
        found = exact_retrieval_table(test, labels, train, train_labels, outputs.dims, self.ks)
        for dim, row in found.items():
            for name, value in row.items():
                yield f"{name}/{dim}", float(value)


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """ "top1/linear/DIM", "top5/linear/DIM": a trained head's logits (Tables 1 and 4).

    Args:
        tops: k of top-k accuracy, at most the classes. Default (1,).
    """

    tops: Sequence[int] = (1,)

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        for top in self.tops:
            found = head_accuracy(outputs.test, outputs.labels, outputs.dims, top)
            for dim, value in found.items():
                yield f"top{top}/linear/{dim}", value


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """ "oracle/DIM", "first_right/DIM", "first_right/none" and "classes/TREND" (Tables 22, 23).

    "classes/improving", "dipping", "declining" and "constant" are shares of the classes, see
    `class_trends`.

    Args:
        tolerance: float, steps of a class's accuracy up to this are no change. Default 0.0.
    """

    tolerance: float = 0.0

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        # `head_accuracy` refuses NaN, labels outside the classes, and other shapes.
        head_accuracy(outputs.test, outputs.labels, outputs.dims)
        guesses, labels, dims = outputs.test.argmax(axis=-1), outputs.labels, outputs.dims
        for dim, value in zip(dims, oracle_accuracy(guesses, labels), strict=True):
            yield f"oracle/{dim}", float(value)
        for dim, value in first_correct_dim(guesses, labels, dims).items():
            yield f"first_right/{'none' if dim is None else dim}", value
        if len(dims) > 1:
            classes = outputs.test.shape[-1]
            accuracy = class_accuracy(guesses, labels, classes)
            for trend, found in class_trends(accuracy, self.tolerance).items():
                yield f"classes/{trend}", len(found) / classes


@dataclasses.dataclass(frozen=True)
class Superclasses:
    """ "superclass/NAME/DIM", and NAME "all": the right group of classes (Tables 24, 25).

    Args:
        superclasses: for each class the name of its superclass, or None, see `hypernyms_at`.
    """

    superclasses: Sequence[str | None]

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        head_accuracy(outputs.test, outputs.labels, outputs.dims)
        guesses = outputs.test.argmax(axis=-1)
        found = superclass_accuracy(guesses, outputs.labels, self.superclasses)
        for name, values in found.items():
            for dim, value in zip(outputs.dims, values, strict=True):
                yield f"superclass/{name}/{dim}", float(value)


@dataclasses.dataclass(frozen=True)
class Cascade:
    """ "cascade/POLICY/MEASURE/DIM": adaptive classification on random splits (Table 3, Figure 6).

    The measures are accuracy, expected_dim, cumulative_dim and prefix_accuracy, each also with
    "_std", at every early stop, see `cascade_curve`.

    Args:
        splits: int. Default 30.
        held_out: float, the fraction that thresholds are learned on. Default 0.2.
        calibrate: bool, learn temperatures too. Default False.
    """

    splits: int = 30
    held_out: float = 0.2
    calibrate: bool = False

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        options = CurveOptions(
            splits=self.splits,
            held_out=self.held_out,
            seed=outputs.seed,
            calibrate=self.calibrate,
        )
        rows = cascade_curve(outputs.test, outputs.labels, outputs.dims, options)
        for row in rows:
            for name, value in row.summary().items():
                if name not in ("policy", "dim", "splits"):
                    yield f"cascade/{row.policy}/{name}/{row.dim}", value
