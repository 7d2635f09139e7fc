"""What a cascade does, one example and one threshold at a time."""

import numpy as np


def softmax(row):
    powers = [np.exp(value - max(row)) for value in row]
    return np.array(powers) / sum(powers)


def decide(logits, thresholds, temperatures=None):
    """[(class, probability, place)] of (examples, prefixes, classes) logits."""
    answers = []
    for example in logits:
        for place, row in enumerate(example):
            probability = softmax(row / (1.0 if temperatures is None else temperatures[place]))
            last = place == len(example) - 1
            if last or probability.max() > thresholds[place]:
                answers.append((probability.argmax(), probability.max(), place))
                break
    return answers


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
