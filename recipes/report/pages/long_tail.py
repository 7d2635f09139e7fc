"""A long-tailed stream with novel classes: tested, then learned (Table 16)."""

from __future__ import annotations

import dataclasses

import numpy as np
import tqdm

from mrl_keras.evaluation import LongTailAccuracy, long_tail_accuracy
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, dims_figure, dims_table

MOST, LEAST, HEAD_ABOVE = 1000, 10, 50
GROUPS = {
    "pretrain_head": "known classes, head",
    "pretrain_tail": "known classes, tail",
    "novel_head": "novel classes, head",
    "novel_tail": "novel classes, tail",
    "mean_per_class": "mean over classes",
    "overall": "all",
}


def page(study) -> Page:
    slug, title = "long_tail", "Long-tailed stream (Table 16)"
    arrays = study.of_test(study.runs[0])
    stream, known = long_tailed(arrays["labels"])
    found = _accuracies(study, stream, known)
    shown = {
        name: {
            system: {dim: Measured(v[name]) for dim, v in by_dim.items()}
            for system, by_dim in found.items()
        }
        for name in GROUPS
        if not np.isnan(next(iter(found["MRL"][study.dims[0]][name].values())))
    }
    parts = [
        dims_table(
            f"long_tail_{name}", f"Accuracy: {GROUPS[name]}",
            f"Accuracy over the stream of {GROUPS[name]}.", columns, study.dims,
        )
        for name, columns in shown.items()
    ]  # fmt: skip
    panels = {GROUPS[name]: shown[name] for name in list(shown)[-2:]}
    parts.append(dims_figure(
        "long_tail_figure", "Accuracy over the stream, by dims",
        "How many dims a stream of few and many examples can use.", "long_tail_overall", panels,
        study.dims, "accuracy (%)",
    ))  # fmt: skip
    verdicts = []
    if "FF" in shown["overall"]:
        columns = {
            system: {dim: Measured(v.by_seed, examples=len(stream)) for dim, v in by_dim.items()}
            for system, by_dim in shown["overall"].items()
        }
        verdicts.append(claims.at_least_as_accurate(
            "MRL is at least as accurate as FF over a long-tailed stream, within the noise",
            columns["MRL"], columns["FF"],
        ))  # fmt: skip
    return Page(
        slug,
        title,
        f"{len(stream):,} test images as a stream, from {MOST:,} of the most frequent class down "
        f"to {LEAST} of the rarest where there are so many; each is classified by the nearest "
        f"class mean and then learned. The means of {len(known)} classes start with their "
        "training images, the other classes are novel to the means (the network was trained on "
        f"all). Head: more than {HEAD_ABOVE} images in the stream.",
        parts,
        verdicts,
    )


def long_tailed(labels):
    """(rows of the stream in a fixed random order, the classes known before it).

    Class counts fall geometrically from `MOST` to `LEAST`, at most what there is; every second
    class is known.
    """
    generator = np.random.default_rng(0)
    classes = np.unique(labels)
    steps = np.linspace(0.0, 1.0, len(classes))
    rows = []
    for label, step in zip(classes, steps, strict=True):
        here = generator.permutation(np.flatnonzero(labels == label))
        rows.append(here[: round(MOST * (LEAST / MOST) ** step)])
    return generator.permutation(np.concatenate(rows)), classes[::2]


def _accuracies(study, stream, known):
    """{system: {dim: {group: {seed: accuracy}}}}."""
    names, found = [field.name for field in dataclasses.fields(LongTailAccuracy)], {}
    runs = [run for run in study.runs if run.method in study.systems()]
    for run in tqdm.tqdm(runs, desc="Long-tailed streams", unit="run"):
        arrays = study.of_test(run)

        def compute(run=run, arrays=arrays):
            start = np.isin(arrays["train_labels"], known)
            accuracy = long_tail_accuracy(
                arrays["test"][stream], arrays["labels"][stream], run.dims,
                arrays["train"][start], arrays["train_labels"][start], HEAD_ABOVE,
            )  # fmt: skip
            return {n: np.array([getattr(accuracy[dim], n) for dim in run.dims]) for n in names}

        key = {"most": MOST, "least": LEAST, "head_above": HEAD_ABOVE}
        for name, values in study.values("long_tail", run, key, compute).items():
            for dim, value in zip(run.dims, values.tolist(), strict=True):
                by_dim = found.setdefault(run.method, {}).setdefault(dim, {})
                by_dim.setdefault(name, {})[run.seed] = value
    return {system: dict(sorted(by_dim.items())) for system, by_dim in found.items()}
