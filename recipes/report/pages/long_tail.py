"""A long-tailed stream with novel classes: tested, then learned (Table 16)."""

from __future__ import annotations

import numpy as np

from mrl_keras.evaluation import LongTailEvaluator, long_tailed_rows
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
    labels = study.first["labels"]
    examples, known = len(long_tailed_rows(labels, MOST, LEAST)), len(np.unique(labels)[::2])
    measured = study.measured(LongTailEvaluator(MOST, LEAST, HEAD_ABOVE))
    shown = {
        name: measured[f"long_tail/{name}"] for name in GROUPS if f"long_tail/{name}" in measured
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
    of_stream = {
        system: {dim: Measured(v.by_seed, examples=examples) for dim, v in by_dim.items()}
        for system, by_dim in shown["overall"].items()
    }
    verdicts = claims.mrl_against_ff(
        "MRL is at least as accurate as FF over a long-tailed stream, within the noise", of_stream
    )
    return Page(
        slug,
        title,
        f"{examples:,} test images as a stream, from {MOST:,} of the most frequent class down "
        f"to {LEAST} of the rarest where there are so many; each is classified by the nearest "
        f"class mean and then learned. The means of {known} classes start with their "
        "training images, the other classes are novel to the means (the network was trained on "
        f"all). Head: more than {HEAD_ABOVE} images in the stream.",
        parts,
        verdicts,
    )
