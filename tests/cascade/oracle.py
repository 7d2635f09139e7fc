"""What a cascade does, one example and one threshold at a time."""

import functools

import numpy as np


def softmax(row):
    powers = [np.exp(value - max(row)) for value in row]
    return np.array(powers) / sum(powers)


def decide(logits, thresholds, temperatures=None):
    """[(class, probability, place)] of (examples, prefixes, classes) logits."""
    array = np.asarray(logits)
    temperatures = (1.0,) * array.shape[1] if temperatures is None else tuple(temperatures)
    answers = []
    for example in _outcomes(array.tobytes(), array.dtype.str, array.shape, temperatures):
        for place, (best, probability) in enumerate(example):
            if place == len(example) - 1 or probability > thresholds[place]:
                answers.append((best, probability, place))
                break
    return answers


@functools.lru_cache(maxsize=8)
def _outcomes(values, dtype, shape, temperatures):
    """[[(class, probability) of each prefix] of each example]; many thresholds share them."""
    found = []
    for example in np.frombuffer(values, dtype).reshape(shape):
        rows = [softmax(row / t) for row, t in zip(example, temperatures, strict=True)]
        found.append([(row.argmax(), row.max()) for row in rows])
    return found


def greedy(logits, labels, grid):
    """The paper's thresholds: each pair of neighbours alone, the first of the best."""
    found = []
    for place in range(logits.shape[1] - 1):
        pair = logits[:, place : place + 2]
        counts = []
        for threshold in grid:
            answers = decide(pair, [threshold])
            counts.append(
                sum(answer[0] == label for answer, label in zip(answers, labels, strict=True))
            )
        found.append(grid[counts.index(max(counts))])
    return found


def nested_problem(examples=200, prefixes=4, classes=5, seed=0):
    """(logits, labels) where wider prefixes are right more often, and more sure of it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, examples)
    noise = rng.standard_normal((examples, prefixes, classes))
    signal = np.linspace(0.8, 3.0, prefixes)[None, :, None] * np.eye(classes)[labels][:, None]
    return (signal + noise).astype("float32"), labels
