"""What a report on text retrieval measures: each encoder's embeddings and their reductions."""

from __future__ import annotations

import functools

import numpy as np

from mrl_keras.baselines import PCA, SVD, RandomProjection, Truncation
from mrl_keras.evaluation import JudgedRetrievalEvaluator, Outputs
from mrl_keras.evaluation.checks import unit_rows
from recipes.report.parts.cache import ResultCache, call_content
from recipes.report.parts.measured import Measured
from recipes.report.text.encoders import TextEncoder
from recipes.report.text.judged import JudgedTexts, embedded

FIRST, MATRICES = "first dims", 5
LEARN, JUDGE = "learn", "judge"


class TextStudy:
    """All encoders on all judged texts.

    Args:
        encoders: list of `TextEncoder`, of which at most one is nested and one is not where
            claims compare them; further ones have tables only.
        texts: `JudgedTexts` with the splits "learn", which plans are tuned on, and "judge".
        cache: `ResultCache`.
    """

    def __init__(self, encoders: list[TextEncoder], texts: JudgedTexts, cache: ResultCache):
        self.encoders, self.texts, self.cache = encoders, texts, cache
        self.arrays = functools.lru_cache(maxsize=None)(self._arrays)

    @property
    def nested(self) -> TextEncoder | None:
        """The first encoder that was trained with MRL."""
        return next((one for one in self.encoders if one.nested), None)

    @property
    def plain(self) -> TextEncoder | None:
        """The first encoder that was not."""
        return next((one for one in self.encoders if not one.nested), None)

    @functools.cached_property
    def measured(self) -> dict[str, dict[str, dict[str, dict[int, Measured]]]]:
        """{encoder: {metric: {system: {dim: `Measured` over the judging queries}}}}.

        "JL" is each query's mean over some random matrices.
        """
        found = {}
        for encoder in self.encoders:
            systems = {name: [made] for name, made in _reductions().items()}
            systems["JL"] = [RandomProjection(seed) for seed in range(MATRICES)]
            by_metric = found.setdefault(encoder.name, {})
            for system, reductions in systems.items():
                for name, values in self._of_queries(encoder, system, reductions).items():
                    metric, dim = name.split("/")
                    by_dim = by_metric.setdefault(metric, {}).setdefault(system, {})
                    by_dim[int(dim)] = Measured.of_examples({0: values})
        return found

    def key(self, encoder) -> dict:
        """What depends on an encoder and all texts, for `ResultCache`."""
        return {**encoder.key, "judged": self.texts.digest}

    def reduced(self, encoder, system) -> dict[str, np.ndarray]:
        """`arrays` of an encoder through "first dims", "PCA" or "SVD"."""
        arrays = self.arrays(encoder)
        reduction = _reductions()[system].fit(arrays["documents"])
        width = reduction.directions.shape[1]
        return {name: reduction.transform(value, width) for name, value in arrays.items()}

    def _arrays(self, encoder):
        """L2-normalised embeddings: "documents", "learn" and "judge"."""
        given = {"documents": self.texts.documents, **self.texts.queries}
        return {
            name: unit_rows(embedded(encoder, texts, self.cache)).astype(np.float32)
            for name, texts in given.items()
        }

    def _of_queries(self, encoder, system, reductions):
        """{"METRIC/DIM": each query's mean over the reductions}."""
        evaluator = JudgedRetrievalEvaluator(recall=(min(100, len(self.texts.documents)),))

        def compute():
            arrays, sums = self.arrays(encoder), {}
            for reduction in reductions:
                reduction.fit(arrays["documents"])
                width = reduction.directions.shape[1]
                outputs = Outputs(
                    [dim for dim in measured_dims(encoder.width) if dim <= width],
                    {
                        "queries": reduction.transform(arrays[JUDGE], width),
                        "documents": reduction.transform(arrays["documents"], width),
                        "judgements": self.texts.judgements[JUDGE],
                    },
                )
                for name, values in evaluator.each(outputs):
                    name = name.partition("/")[2]
                    sums[name] = sums.get(name, 0.0) + values / len(reductions)
            return sums

        parts = {"system": system, "matrices": len(reductions), **call_content(evaluator)}
        return self.cache.arrays({**self.key(encoder), **parts}, compute)


def measured_dims(width: int) -> list[int]:
    """8, 16, 32, ... and the dims half-way between, up to the width.

    >>> measured_dims(40)
    [8, 12, 16, 24, 32, 40]
    """
    steps = (start << step for start in (8, 12) for step in range(16))
    return sorted({width, *(dim for dim in steps if dim < width)})


def index_dims(width: int) -> list[int]:
    """The nesting dims of an index: 8, 16, 32, ... and the width."""
    return [d for d in measured_dims(width) if d == width or d & (d - 1) == 0]


def _reductions():
    return {FIRST: Truncation(), "PCA": PCA(), "SVD": SVD()}
