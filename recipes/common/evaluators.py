"""The evaluators that a config can list, by name, and their options.

    config.evaluators = evaluator_options("linear", "neighbours")
    python recipes/train.py ... --config.evaluators.neighbours.ks=1,5

`config.evaluators` is {name: options}; the options are the fields of the evaluator's class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import ml_collections
import numpy as np
from scipy.stats import spearmanr

from mrl_keras.evaluation import (
    CascadeEvaluator,
    CosineSpanEvaluator,
    DisagreementEvaluator,
    Evaluator,
    FewShotEvaluator,
    ImageTextRecallEvaluator,
    LinearHeadEvaluator,
    LinearProbeEvaluator,
    LongTailEvaluator,
    MaskedTokensEvaluator,
    NearestNeighboursEvaluator,
    PairSimilarityEvaluator,
    RetrievalEvaluator,
    SuperclassEvaluator,
    ZeroShotEvaluator,
    spearman,
)


@dataclasses.dataclass(frozen=True)
class UntrainedEvaluator(Evaluator):
    """ "spearman/untrained/DIM": the same network at full width before training."""

    needs = ("untrained_first", "untrained_second", "scores")
    primary_metric = "spearman/untrained/*"

    def __call__(self, outputs) -> Iterator[tuple[str, float]]:
        pairs, width = (outputs[name] for name in self.needs), outputs.dims.width
        yield f"spearman/untrained/{width}", spearman(*pairs, [width])[width]


@dataclasses.dataclass(frozen=True)
class WordOverlapEvaluator(Evaluator):
    """ "spearman/words/all" and "spearman/tf_idf/all": the cosines of word vectors, no model.

    Words are 0 or 1, and with tf-idf weighted by how rare they are in the training texts.
    """

    needs = ("first_texts", "second_texts", "scores", "train_texts")
    primary_metric = "spearman/tf_idf/all"

    def __call__(self, outputs) -> Iterator[tuple[str, float]]:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

        for name, vectorizer in (
            ("words", CountVectorizer(binary=True)),
            ("tf_idf", TfidfVectorizer(binary=True)),
        ):
            vectorizer.fit(outputs["train_texts"])
            first, second = (vectorizer.transform(outputs[text]) for text in self.needs[:2])
            norms = [
                np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel()) for x in (first, second)
            ]
            products = np.asarray(first.multiply(second).sum(axis=1)).ravel()
            cosines = np.round(products / np.maximum(norms[0] * norms[1], 1e-12), 10)
            yield f"spearman/{name}/all", float(spearmanr(cosines, outputs["scores"]).statistic)


EVALUATORS = {
    "cascade": CascadeEvaluator,
    "cosine_span": CosineSpanEvaluator,
    "disagreement": DisagreementEvaluator,
    "few_shot": FewShotEvaluator,
    "image_text_recall": ImageTextRecallEvaluator,
    "linear": LinearHeadEvaluator,
    "long_tail": LongTailEvaluator,
    "masked_tokens": MaskedTokensEvaluator,
    "neighbours": NearestNeighboursEvaluator,
    "pair_similarity": PairSimilarityEvaluator,
    "probe": LinearProbeEvaluator,
    "retrieval": RetrievalEvaluator,
    "superclass": SuperclassEvaluator,
    "untrained": UntrainedEvaluator,
    "word_overlap": WordOverlapEvaluator,
    "zero_shot": ZeroShotEvaluator,
}


def evaluator_options(*names: str) -> ml_collections.ConfigDict:
    """`config.evaluators` of some evaluators, with all options at their defaults.

    An option without a default is empty and must be set.
    """
    return ml_collections.ConfigDict(
        {
            name: {f.name: _default(f) for f in dataclasses.fields(EVALUATORS[name])}
            for name in names
        }
    )


def make_evaluators(options) -> list[Evaluator]:
    """The evaluators of `config.evaluators`, in its order.

    Args:
        options: {name: {option: value}}, a dict or `ConfigDict`.

    Raises:
        ValueError: an unknown name or option, or a value that the evaluator refuses.
    """
    found = []
    for name, given in options.items():
        if name not in EVALUATORS:
            raise ValueError(
                f"`config.evaluators` has no evaluator named {name!r}. "
                f"There are {', '.join(EVALUATORS)}."
            )
        made = EVALUATORS[name]
        known = [field.name for field in dataclasses.fields(made)]
        unknown = [option for option in given if option not in known]
        if unknown:
            raise ValueError(
                f"`config.evaluators.{name}` takes {', '.join(known) or 'no options'}. "
                f"Received {', '.join(unknown)}."
            )
        try:
            found.append(made(**{key: _plain(value) for key, value in given.items()}))
        except ValueError as error:
            raise ValueError(f"`config.evaluators.{name}`: {error}") from None
    return found


def _default(field):
    if field.default is dataclasses.MISSING:
        return ()
    # A ConfigDict takes any int for None only if it is told that an int may come.
    return ml_collections.config_dict.placeholder(int) if field.default is None else field.default


def _plain(value):
    return tuple(value) if isinstance(value, list) else value
