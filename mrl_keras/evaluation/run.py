"""One pass over the data with an embed or predict function, then (name, value) pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.cache import ResultCache
from mrl_keras.nesting import NestingDims

CONTENT = ("weights", "split", "preprocessing")


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """What a function gave for the data, and how it is to be evaluated.

    Attributes:
        test: (examples, d) embeddings or (examples, prefixes, classes) logits, held out.
        labels: ints (examples,).
        train, train_labels: the same of the training data, or None where none was given.
        dims: `NestingDims`, the prefixes.
        seed: int.
    """

    test: np.ndarray
    labels: np.ndarray
    train: np.ndarray | None
    train_labels: np.ndarray | None
    dims: NestingDims
    seed: int

    def splits(self):
        """(train, train_labels, test, labels).

        Raises:
            ValueError: no training data was given.
        """
        if self.train is None:
            raise ValueError("This evaluator learns from training data: give `train`.")
        return self.train, self.train_labels, self.test, self.labels


def evaluate(
    function: Callable,
    test: Iterable,
    dims: Sequence[int],
    evaluators: Sequence[Callable[[Outputs], Iterator]],
    train: Iterable | None = None,
    seed: int = 0,
    cache: ResultCache | None = None,
    content: Mapping | None = None,
    progress: bool = False,
) -> Iterator[tuple[str, float]]:
    """Evaluates an embed or predict function at every prefix, in one pass over each split.

    Args:
        function: inputs of a batch -> embeddings (batch, d) or logits (batch, prefixes, classes).
        test: iterable of batches (inputs, labels), such as a finite `tf.data.Dataset`; each
            example counts once, those of a last, smaller batch too.
        dims: ints, ascending: prefixes of the embedding, trained or interpolated, or those on the
            prefix axis of the logits.
        evaluators: of `NearestNeighbours`, `LinearProbe`, `FewShot`, `Retrieval` for embeddings,
            and `LinearHead`, `Disagreement`, `Superclasses`, `Cascade` for logits; or any function
            from `Outputs` to pairs (name, value).
        train: like `test`, for evaluators that learn. Default None.
        seed: int, of whatever an evaluator draws. Default 0.
        cache: `ResultCache` of outputs and values. Default None, nothing is kept. Then a run with
            the same `content` asks neither the function nor an evaluator again; evaluators must be
            dataclasses.
        content: what the outputs depend on, with "weights", "split" and "preprocessing" among the
            names, see `ResultCache.arrays`. Needed with a cache.
        progress: bool, show a progress bar over the batches. Default False.

    Yields:
        (name, value), such as ("top1/1nn/8", 0.71), and ("seed", `seed`) at the end.

    Raises:
        ValueError: no evaluator, no example, outputs that are not one row for each label, a cache
            without `content`, or what an evaluator refuses.

    Example:

    >>> from mrl_keras.evaluation import NearestNeighbours, evaluate
    >>> batches = [(np.eye(4)[:3], [0, 1, 0]), (np.eye(4)[3:], [1])]
    >>> list(evaluate(lambda x: 2 * x, batches, [4], [NearestNeighbours()], train=batches))
    [('top1/1nn/4', 1.0), ('seed', 0)]
    """
    dims, seed = NestingDims(dims), whole_number(seed, "`seed`", least=0)
    evaluators = list(evaluators)
    if not evaluators:
        raise ValueError("`evaluators` must hold at least one evaluator. Received none.")
    content = _checked_content(cache, content, evaluators)
    made = []

    def outputs():
        if not made:
            splits = [("test", test), *([("train", train)] if train is not None else [])]
            found = [_split(function, *split, cache, content, progress) for split in splits]
            pairs = [*found[0], *(found[1] if len(found) == 2 else (None, None))]
            made.append(Outputs(*pairs, dims, seed))
        return made[0]

    for evaluator in evaluators:
        if cache is None:
            yield from evaluator(outputs())
            continue
        parts = {
            **content,
            "evaluator": type(evaluator).__name__,
            "arguments": dataclasses.asdict(evaluator),
            "dims": list(dims),
            "seed": seed,
        }
        kept = cache.values(parts, lambda one=evaluator: [list(x) for x in one(outputs())])
        yield from ((name, value) for name, value in kept)
    yield "seed", seed


def collect(
    function: Callable, batches: Iterable, progress: bool = False, title: str = "Evaluation"
) -> tuple[np.ndarray, np.ndarray]:
    """What a function gives for all batches, and their labels; each example once.

    Args:
        function: inputs of a batch -> array (batch, ...).
        batches: iterable of (inputs, labels); the last batch may be smaller.
        progress: bool, show a progress bar. Default False.
        title: of the bar. Default "Evaluation".

    Returns:
        (outputs, labels): (examples, ...) and ints (examples,).

    Raises:
        ValueError: no batch, or outputs that are not one row for each label.

    >>> outputs, labels = collect(np.square, [([1.0, 2.0], [0, 1]), ([3.0], [1])])
    >>> outputs.tolist(), labels.tolist()
    ([1.0, 4.0, 9.0], [0, 1, 1])
    """
    try:
        total = len(batches)
    except TypeError:
        total = None
    found, labels = [], []
    with tqdm(total=total, desc=title, disable=not progress, unit_scale=True) as bar:
        for inputs, label in batches:
            output, label = np.asarray(function(inputs)), np.asarray(label)
            if label.ndim != 1 or output.shape[:1] != label.shape:
                raise ValueError(
                    "The function must give one row for each label of a batch. Received outputs "
                    f"{output.shape} and labels {label.shape}."
                )
            found.append(output)
            labels.append(label)
            bar.update(1)
    if not sum(map(len, labels)):
        raise ValueError("There is no example to evaluate: the batches are empty.")
    return np.concatenate(found), np.concatenate(labels)


def _split(function, name, batches, cache, content, progress):
    """(outputs, labels) of a split, from the cache where it has them."""
    if cache is None:
        return collect(function, batches, progress, name)

    def compute():
        outputs, labels = collect(function, batches, progress, name)
        return {"outputs": outputs, "labels": labels}

    found = cache.arrays({**content, "outputs": name}, compute)
    return found["outputs"], found["labels"]


def _checked_content(cache, content, evaluators):
    if cache is None:
        return None
    missing = [name for name in CONTENT if name not in (content or {})]
    if missing:
        raise ValueError(
            f"With a cache `content` must name what the outputs depend on: {list(CONTENT)}. "
            f"Missing: {missing}."
        )
    plain = [one for one in evaluators if not dataclasses.is_dataclass(one)]
    if plain:
        raise ValueError(
            "With a cache every evaluator must be a dataclass, whose fields are its arguments. "
            f"Received {plain}."
        )
    return dict(content)
