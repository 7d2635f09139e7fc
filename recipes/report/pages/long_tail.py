"""A long-tailed stream with novel classes: tested, then learned (Table 16)."""

from __future__ import annotations

import numpy as np

from mrl_keras.evaluation import LongTailEvaluator, Outputs, long_tailed_rows
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, dims_figure, dims_table
from recipes.report.parts.paper import paper_table
from recipes.report.parts.study import Source

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
    sources = study.sources()
    if study.options.novel:
        sources = [_with_novel(study, run) for run in study.prefix_runs]
    labels = sources[0].outputs()["labels"]
    rows = long_tailed_rows(labels, MOST, LEAST)
    examples, known = len(rows), len(np.unique(labels)[::2])
    measured = study.measured(LongTailEvaluator(MOST, LEAST, HEAD_ABOVE), sources)
    shown = {
        name: measured[f"long_tail/{name}"] for name in GROUPS if f"long_tail/{name}" in measured
    }
    parts = [
        dims_table(
            f"long_tail_{name}", f"Accuracy: {GROUPS[name]}",
            f"Accuracy over the stream of {GROUPS[name]}.", columns, study.dims,
            paper=paper_table(16, {"dims": "dims", f"MRL, {GROUPS[name]}": name},
                              "ResNet50, FLUID", {"model": "MRL"}),
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
    counts = np.bincount(labels[rows])
    novel = f"{study.options.novel}, which no run was trained on" if study.options.novel else (
        "other classes, novel to the means (the network was trained on all)"
    )  # fmt: skip
    absent = ", ".join(text for name, text in GROUPS.items() if name not in shown)
    return Page(
        slug,
        title,
        f"{examples:,} images as a stream, from {counts.max():,} of the most frequent class down "
        f"to {counts[counts > 0].min():,} of the rarest; each is classified by the nearest class "
        f"mean and then learned. The means of {known} classes start with their training images; "
        f"the others are of {novel}. Head: more than {HEAD_ABOVE} images in the stream"
        + (f"; no class is in the group: {absent}." if absent else "."),
        parts,
        verdicts,
    )


def _with_novel(study, run):
    """Test images of known classes (even labels) and all images of novel ones (odd labels)."""
    known, novel = study.source(run), study.novel(run)

    def outputs():
        one, other = known.outputs(), novel.outputs()
        embeddings = [one["embeddings"], other["embeddings"], other["train_embeddings"]]
        labels = [2 * one["labels"], 2 * other["labels"] + 1, 2 * other["train_labels"] + 1]
        arrays = {"embeddings": np.concatenate(embeddings), "labels": np.concatenate(labels)}
        arrays["train_embeddings"] = one["train_embeddings"]
        return Outputs(run.dims, arrays | {"train_labels": 2 * one["train_labels"]})

    return Source(run.method, run.seed, {"known": known.key, "novel": novel.key}, outputs)
