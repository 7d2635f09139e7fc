"""One pass over a model's data, then evaluators that read its arrays and yield named values."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.arrays import as_array

_HEAD_ROWS = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """Named arrays that a model gave for its evaluation data.

    The package's docstring lists the names that evaluators know.

    Args:
        dims: `NestingDims` or ints, the trained prefixes: axis 1 of "logits".
        arrays: {name: array}.
        interpolated: ints, further prefixes at which frozen embeddings are evaluated. Default
            none.

    Example:

    >>> from mrl_keras.evaluation import NearestNeighboursEvaluator, Outputs, evaluate
    >>> rows, labels = np.eye(2), np.array([0, 1])
    >>> outputs = Outputs([2], {"embeddings": rows, "labels": labels,
    ...                         "train_embeddings": rows, "train_labels": labels})
    >>> dict(evaluate(outputs, [NearestNeighboursEvaluator()]))
    {'top1/1nn/2': 1.0}
    """

    dims: Sequence[int]
    arrays: Mapping[str, np.ndarray]
    interpolated: Sequence[int] = ()

    def __post_init__(self):
        object.__setattr__(self, "dims", NestingDims(self.dims))
        object.__setattr__(self, "interpolated", tuple(self.interpolated))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self.arrays)

    @property
    def all_dims(self) -> NestingDims:
        """Trained and interpolated prefixes, ascending."""
        return NestingDims(sorted({*self.dims, *self.interpolated}))

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise ValueError(f"There is no array {name!r}. There are {', '.join(self.arrays)}.")
        return self.arrays[name]

    def collect(self, names=None) -> Outputs:
        """Itself: the arrays are there."""
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationPass:
    """How the arrays of an evaluation are computed; nothing is computed before `collect`.

    Args:
        dims: `NestingDims` or ints, the trained prefixes.
        parts: from the names of some arrays, as a tuple, to a function that computes these
            together: it is given `get`, a function from a name to another array of this pass, and
            returns {name: array}.
        interpolated: ints, see `Outputs`. Default none.

    Raises:
        ValueError: a name in two parts.

    Example:

    >>> from mrl_keras.evaluation import EvaluationPass
    >>> parts = {
    ...     ("embeddings", "labels"): lambda get: {"embeddings": np.eye(2), "labels": [0, 1]},
    ...     ("logits",): lambda get: {"logits": get("embeddings")[:, None]},
    ... }
    >>> EvaluationPass([2], parts).collect(["logits"])["logits"].shape
    (2, 1, 2)
    """

    dims: Sequence[int]
    parts: Mapping[tuple[str, ...], Callable[[Callable], Mapping]]
    interpolated: Sequence[int] = ()

    def __post_init__(self):
        object.__setattr__(self, "dims", NestingDims(self.dims))
        object.__setattr__(self, "interpolated", tuple(self.interpolated))
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"An array must be in one part. In several: {', '.join(repeated)}.")

    @classmethod
    def of_embeddings(
        cls,
        embed: Callable,
        test: Iterable,
        dims: Sequence[int],
        train: Iterable | None = None,
        head: Callable | None = None,
        head_at: Callable | None = None,
        interpolated: Sequence[int] = (),
    ) -> EvaluationPass:
        """A pass over labelled data with an encoder and, where there is one, its classifier.

        Args:
            embed: inputs of a batch -> embeddings (batch, d).
            test: batches (inputs, labels), held out, such as a finite `tf.data.Dataset`; each
                example counts once, those of a last, smaller batch too. Read again by every
                `collect`.
            dims: the trained prefixes.
            train: like `test`, for evaluators that learn or search. Default None.
            head: embeddings (rows, d) -> logits (rows, prefixes, classes). Default None.
            head_at: (embeddings, dim) -> logits (rows, classes), for the interpolated prefixes of
                a weight-tied classifier, such as `MatryoshkaDense.prefix_logits`. Default None.
            interpolated: ints, prefixes between the trained ones. Default none.
        """
        parts = {("embeddings", "labels"): lambda get: _collected(embed, test, "")}
        if train is not None:
            names = ("train_embeddings", "train_labels")
            parts[names] = lambda get: _collected(embed, train, "train_")
        if head is not None:
            parts[("logits",)] = lambda get: {"logits": _in_blocks(head, get("embeddings"))}
        if head_at is not None and len(interpolated):
            parts[("interpolated_logits",)] = lambda get: {
                "interpolated_logits": np.stack(
                    [
                        _in_blocks(lambda rows, dim=dim: head_at(rows, dim), get("embeddings"))
                        for dim in interpolated
                    ],
                    axis=1,
                )
            }
        return cls(dims, parts, interpolated)

    @classmethod
    def of_logits(cls, predict: Callable, test: Iterable, dims: Sequence[int]) -> EvaluationPass:
        """A pass with a classifier alone.

        Args:
            predict: inputs of a batch -> logits (batch, prefixes, classes).
            test: batches (inputs, labels), as for `of_embeddings`.
            dims: the trained prefixes.
        """

        def compute(get):
            logits, labels = collect(predict, test)
            return {"logits": logits, "labels": labels}

        return cls(dims, {("logits", "labels"): compute})

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all arrays that this pass can give."""
        return tuple(name for names in self.parts for name in names)

    def collect(self, names: Sequence[str] | None = None) -> Outputs:
        """Computes arrays; what they are not needed for is not read.

        Args:
            names: which ones. Default None, all.

        Raises:
            ValueError: a name that this pass does not give, or no example.
        """
        names, found = list(self.names if names is None else names), {}
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(
                f"This pass does not give {', '.join(unknown)}. It gives {', '.join(self.names)}."
            )

        def get(name):
            if name not in found:
                (compute,) = (part for part_names, part in self.parts.items() if name in part_names)
                found.update({key: as_array(value) for key, value in compute(get).items()})
            return found[name]

        return Outputs(self.dims, {name: get(name) for name in names}, self.interpolated)


class Evaluator(abc.ABC):
    """What is measured of `Outputs`, as pairs (name, value).

    A subclass is a frozen dataclass whose fields are its options, a seed among them where it
    draws.

    Attributes:
        needs: names of the arrays that it reads.
        uses: names of arrays that it reads where they are there. Default none.

    Example:

    >>> import dataclasses
    >>> from mrl_keras.evaluation import EvaluationPass, Evaluator, evaluate
    >>> @dataclasses.dataclass(frozen=True)
    ... class NormEvaluator(Evaluator):
    ...     needs = ("embeddings",)
    ...     primary_metric = "norm/mean/*"
    ...     def __call__(self, outputs):
    ...         for dim in outputs.dims:
    ...             norms = np.linalg.norm(outputs["embeddings"][:, :dim], axis=1)
    ...             yield f"norm/mean/{dim}", float(norms.mean())
    >>> batches = [(np.array([[3.0, 4.0]]), [0])]
    >>> list(evaluate(EvaluationPass.of_embeddings(np.asarray, batches, [1, 2]), [NormEvaluator()]))
    [('norm/mean/1', 3.0), ('norm/mean/2', 5.0)]
    """

    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()

    @property
    @abc.abstractmethod
    def primary_metric(self) -> str:
        """The name of the value to compare models by, with "*" for the dim."""

    @abc.abstractmethod
    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        """Yields (name, value); a name is GROUP/NAME/DIM."""


class ExampleEvaluator(Evaluator):
    """An evaluator whose values are means over examples, such as accuracies."""

    @abc.abstractmethod
    def each(self, outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (name, bools or floats (examples,)), such as which examples are right."""

    def __call__(self, outputs: Outputs) -> Iterator[tuple[str, float]]:
        """Yields (name, mean over the examples)."""
        for name, values in self.each(outputs):
            yield name, float(np.mean(values))


def evaluate(
    source: EvaluationPass | Outputs, evaluators: Sequence[Evaluator]
) -> Iterator[tuple[str, float]]:
    """Evaluates a model at every prefix, in one pass over the data that the evaluators need.

    Args:
        source: `EvaluationPass`, or `Outputs` of an earlier one.
        evaluators: of the classes `...Evaluator`, or of your own subclass of `Evaluator`.

    Returns:
        Iterator of (name, value), such as ("top1/1nn/8", 0.71). What is wrong with the evaluators
        is an error of this call; the work begins with the first pair.

    Raises:
        ValueError: no evaluator, something else than an evaluator, one that needs what `source`
            does not give, a result that is named twice or not GROUP/NAME/DIM, or what an evaluator
            refuses.

    Example:

    >>> from mrl_keras.evaluation import EvaluationPass, NearestNeighboursEvaluator, evaluate
    >>> batches = [(np.eye(4)[:3], [0, 1, 0]), (np.eye(4)[3:], [1])]
    >>> source = EvaluationPass.of_embeddings(lambda x: 2 * x, batches, [4], train=batches)
    >>> list(evaluate(source, [NearestNeighboursEvaluator()]))
    [('top1/1nn/4', 1.0)]
    """
    evaluators = list(evaluators)
    return _values(source, evaluators, needed_names(source, evaluators))


def needed_names(
    source: EvaluationPass | Outputs, evaluators: Sequence[Evaluator]
) -> tuple[str, ...]:
    """The names of the arrays that evaluators read of a source: what to collect, or to cache.

    Args:
        source: `EvaluationPass` or `Outputs`.
        evaluators: `Evaluator`s.

    Raises:
        ValueError: no evaluator, something else, or one that needs what `source` does not give.
    """
    if not evaluators:
        raise ValueError("`evaluators` must hold at least one evaluator. Received none.")
    names = {}
    for one in evaluators:
        if not isinstance(one, Evaluator):
            raise ValueError(
                "Each of `evaluators` must be an `Evaluator` (`EvaluatorClass(options)`, not the "
                f"class). Received {one!r}."
            )
        missing = [name for name in one.needs if name not in source.names]
        if missing:
            raise ValueError(
                f"{type(one).__name__} needs {', '.join(missing)}, which the evaluation does not "
                f"give. It gives {', '.join(source.names)}."
            )
        names |= dict.fromkeys(name for name in (*one.needs, *one.uses) if name in source.names)
    return tuple(names)


def collect(
    function: Callable, batches: Iterable
) -> tuple[np.ndarray | dict[str, np.ndarray], np.ndarray]:
    """What a function gives for all batches, and their labels; each example once.

    Args:
        function: inputs of a batch -> array (batch, ...), or {name: array}.
        batches: iterable of (inputs, labels); the last batch may be smaller. For a progress bar
            give `tqdm(batches)`.

    Returns:
        (outputs, labels): (examples, ...), or {name: (examples, ...)}, and ints (examples,).

    Raises:
        ValueError: no example, or outputs that are not one row for each label.

    >>> outputs, labels = collect(np.square, [([1.0, 2.0], [0, 1]), ([3.0], [1])])
    >>> outputs.tolist(), labels.tolist()
    ([1.0, 4.0, 9.0], [0, 1, 1])
    """
    found, labels, named = {}, [], False
    for inputs, label in batches:
        given, label = function(inputs), as_array(label)
        named = isinstance(given, Mapping)
        for name, output in (given if named else {None: given}).items():
            output = as_array(output)
            if label.ndim != 1 or output.shape[:1] != label.shape:
                raise ValueError(
                    "The function must give one row for each label of a batch. Received outputs "
                    f"{output.shape} and labels {label.shape}."
                )
            found.setdefault(name, []).append(output)
        labels.append(label)
    if not sum(map(len, labels)):
        raise ValueError("There is no example to evaluate: the batches are empty.")
    outputs = {name: np.concatenate(parts) for name, parts in found.items()}
    return outputs if named else outputs[None], np.concatenate(labels)


def _values(source, evaluators, names):
    outputs, seen = source.collect(names), set()
    for one in evaluators:
        for name, value in one(outputs):
            if name.count("/") != 2 or name in seen:
                raise ValueError(
                    "Each result needs a name of its own, GROUP/NAME/DIM. "
                    f"{type(one).__name__} yielded {name!r}{' again' if name in seen else ''}."
                )
            seen.add(name)
            yield name, value


def _collected(embed, batches, prefix):
    embeddings, labels = collect(embed, batches)
    return {f"{prefix}embeddings": embeddings, f"{prefix}labels": labels}


def _in_blocks(function, rows):
    """`function` of some rows at a time, so that wide outputs of many rows need no second copy."""
    starts = range(0, len(rows), _HEAD_ROWS)
    return np.concatenate([as_array(function(rows[i : i + _HEAD_ROWS])) for i in starts])
