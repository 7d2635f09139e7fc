"""Disagreement of prefixes, superclasses, and spans of cosines."""

from __future__ import annotations

import collections
import csv
import pathlib

import numpy as np

from mrl_keras.evaluation import (
    CosineSpanEvaluator,
    DisagreementEvaluator,
    LinearHeadEvaluator,
    Outputs,
    SuperclassEvaluator,
    class_accuracy,
    class_trends,
    relative_class_accuracy,
)
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, Table, dims_figure, dims_table, not_measured, record
from recipes.report.parts.paper import paper_table
from recipes.report.parts.study import Source

SUPERCLASSES = pathlib.Path(__file__).resolve().parents[1] / "superclasses"
"""SET.csv has the columns class and superclass; classes without a line have no superclass."""
LARGEST = 6
"""So many superclasses are drawn."""
MOST_CLASSES = 12
"""So many classes have columns and lines of their own."""


def disagreement_page(study) -> Page:
    sources = _nested_sources(study)
    values = study.measured(DisagreementEvaluator(), sources)
    alone = study.measured(LinearHeadEvaluator(), sources)["top1/linear"]
    return Page(
        "disagreement",
        "Where prefixes disagree (Figure 12, Tables 22, 23)",
        f"The classes that MRL's prefixes name for the {len(study.first['labels']):,} test images.",
        [*_class_parts(study), _first_right(values), _oracles(study, values, alone)],
    )


def _nested_sources(study):
    """The test images through MRL and MRL-E, and through the FF models of a seed side by side."""
    found = study.sources("MRL", "MRL-E")
    for seed in sorted(study.fixed(study.dims.width)):
        runs = [study.fixed(dim).get(seed) for dim in study.dims]
        if all(runs):
            found.append(_side_by_side(study, seed, runs))
    return found


def _side_by_side(study, seed, runs):
    def outputs():
        each = [study.outputs(run) for run in runs]
        logits = np.concatenate([one["logits"] for one in each], axis=1)
        return Outputs(study.dims, {"logits": logits, "labels": each[0]["labels"]})

    key = {"side by side": [study.source(run).key for run in runs]}
    return Source("FF", seed, key, outputs)


def _class_parts(study):
    accuracies = {}
    for seed, run in study.of("MRL").items():
        guesses = study.outputs(run)["logits"].argmax(axis=-1)
        accuracies[seed] = class_accuracy(guesses, study.first["labels"], study.classes)
    names = study.task.class_names()
    relative = {s: relative_class_accuracy(a) for s, a in accuracies.items()}
    shown, which = range(len(names)), ""
    if len(names) > MOST_CLASSES:
        order = np.argsort(np.mean([a[:, 0] for a in relative.values()], axis=0), kind="stable")
        half = MOST_CLASSES // 2
        shown = [*order[:half], *order[-half:]]
        which = (
            f"; the {half} classes that lose most at the lowest dim and the {half} that gain most"
        )
    columns = {
        names[i]: {
            dim: Measured({s: float(a[i, j]) for s, a in relative.items()})
            for j, dim in enumerate(study.dims)
        }
        for i in shown
    }
    yield dims_table(
        "class_accuracy", "Accuracy of each class relative to the full width (Figure 12)",
        "Points above or below the class's accuracy at the full width"
        f"{which}.", columns, study.dims,
    )  # fmt: skip
    yield dims_figure(
        "class_accuracy_figure", "Relative accuracy of each class over the dims (Figure 12)",
        "Points relative to the class's accuracy at the full width, mean over seeds.",
        "class_accuracy", {"": columns}, study.dims, "points",
    )  # fmt: skip
    header, rows, records = ["trend", "classes by seed"], [], []
    trends = {seed: class_trends(a) for seed, a in accuracies.items()}
    for trend in next(iter(trends.values())):
        texts = []
        for seed, found in sorted(trends.items()):
            listed = [names[i] for i in found[trend]]
            texts.append(f"seed {seed}: {', '.join(listed[:20]) or 'none'}")
            records.append({"trend": trend, "seed": seed, "classes": ";".join(listed)})
        rows.append([trend, "<br>".join(texts)])
    yield Table(
        "class_trends", "Classes that improve, dip or decline with the dims",
        "Improving classes never lose accuracy as dims grow; dipping ones lose some on the way.",
        header, rows, records,
    )  # fmt: skip


def _first_right(values):
    columns = {
        **values["first_right/share"]["MRL"],
        "never": values["first_right/never"]["MRL"]["all"],
    }
    return Table(
        "first_right", "The first dim that is right (Table 22)",
        "The share of test images that each prefix of MRL is the smallest to classify rightly; the "
        "shares sum to 100 %.", ["dims", "images (%)"],
        [[dim, measured.text()] for dim, measured in columns.items()],
        [{"first_right_at": dim} | record(measured) for dim, measured in columns.items()],
        paper_table(22, {"dims": "dims", "images (%)": "percent"}),
    )  # fmt: skip


def _oracles(study, values, alone):
    columns = {}
    for system, oracle in values["oracle/accuracy"].items():
        columns[f"{system}, oracle up to the dim"] = oracle
        columns[f"{system}, that dim alone"] = {dim: alone[system][dim] for dim in study.dims}
    return dims_table(
        "oracle", "Oracle over the prefixes (Table 23)",
        "What could be reached by always picking the right one of the prefixes (of FF: of the "
        "separate models); the more the models disagree, the higher.",
        columns, study.dims,
        paper=paper_table(23, {"data": "dataset", "MRL, oracle over all dims": "mrl_oracle"},
                          "ResNet50, trained on ImageNet-1K"),
    )  # fmt: skip


def superclass_page(study) -> Page:
    slug, title = "superclass", "Superclasses (Tables 24, 25; Figures 10, 11)"
    name = study.runs[0].run.config.data.name
    table = SUPERCLASSES / f"{name.split(':')[0].replace('/', '_')}.csv"
    if not table.is_file():
        known = ", ".join(sorted(path.stem for path in SUPERCLASSES.glob("*.csv")))
        wants = f"superclasses are known for {known}; add {name}'s (class, superclass) there"
        return not_measured(slug, title, f"{wants} (recipes/report/superclasses).")
    with open(table, newline="") as file:
        above = {row["class"]: row["superclass"] for row in csv.DictReader(file)}
    superclasses = tuple(above.get(name) for name in study.task.class_names())
    classes = study.measured(LinearHeadEvaluator(), study.sources("MRL"))["top1/linear"]["MRL"]
    measured = study.measured(SuperclassEvaluator(superclasses), _nested_sources(study))
    columns = {"MRL, classes": classes}
    for system, values in measured["superclass/all"].items():
        columns[f"{system}, superclasses"] = values
    sizes = collections.Counter(above.values())
    each = {
        f"{name} ({size})": measured[f"superclass/{name}"]["MRL"]
        for name, size in sizes.most_common()
        if f"superclass/{name}" in measured
    }
    largest = dict(list(each.items())[:LARGEST])
    parts = [
        dims_table("superclass", "Accuracy of superclasses",
                   "How often the class named belongs to the right superclass, beside the accuracy "
                   "of the classes themselves.", columns, study.dims,
                   paper=paper_table(25, {"dims": "dims", "MRL, 30 and reject": "mrl"})),
        dims_figure("superclass_figure", "Superclass accuracy over the dims",
                    "Left: all images; a class without a superclass counts as its own. Right: MRL "
                    "on the images of the superclasses with the most classes.", "superclass",
                    {"all images": columns, "of one superclass": largest}, study.dims,
                    "accuracy (%)"),
        dims_table("superclass_each", "Accuracy of each superclass",
                   "MRL on the images of one superclass; in brackets how many classes it has.",
                   each, study.dims),
    ]  # fmt: skip
    verdict = claims.falls_less(
        "Superclass accuracy falls less at few dims than class accuracy",
        columns["MRL, superclasses"], classes,
    )  # fmt: skip
    names = [name for name in superclasses if name is not None]
    about = (
        f"{len(names)} of {len(superclasses)} classes have one of {len(set(names))} superclasses "
        f"({table.name} of recipes/report/superclasses); each other class is its own, as a "
        "mistake between two of them is one."
    )
    return Page(slug, title, about, parts, [verdict])


def spans_page(study) -> Page:
    measured = study.measured(CosineSpanEvaluator())
    spans = measured["cosine/span"]
    columns = {
        f"{system} {name}": measured[f"cosine/{name}"][system]
        for system in spans
        for name in ("positive", "random", "span")
    }
    table = dims_table(
        "spans", "Mean cosine of positive and random pairs (Table 6)",
        "The wider the span between positive and random pairs, the easier they are told apart.",
        columns, study.dims, scale=1.0, digits=3,
    )  # fmt: skip
    figure = dims_figure(
        "spans_figure", "Span of cosines over the dims", "Positive less random.", "spans",
        {"": spans}, study.dims, "positive less random cosine", scale=1.0,
    )  # fmt: skip
    return Page(
        "spans",
        "Cosine spans (Table 6)",
        "A positive pair is a test image and a training image of its class, drawn once with a "
        "fixed seed; random pairs are all others, of which some are of one class too.",
        [table, figure],
    )
