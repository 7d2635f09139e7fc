"""Where prefixes disagree, superclasses, and the span of cosines."""

from __future__ import annotations

import numpy as np

from mrl_keras.evaluation import (
    PanelStyle,
    class_accuracy,
    class_trends,
    cosine_spans,
    first_correct_dim,
    line_panels,
    oracle_accuracy,
    relative_class_accuracy,
    superclass_accuracy,
)
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Figure, Page, Table, dims_figure, dims_table, record

SUPERCLASSES = {
    "cifar10": {
        "animals": ("bird", "cat", "deer", "dog", "frog", "horse"),
        "vehicles": ("airplane", "automobile", "ship", "truck"),
    }
}
"""{data set: {superclass: names of its classes}} that the report knows by itself."""


def disagreement_page(study) -> Page:
    predicted = _predictions(study)
    classes = study.of_test(study.runs[0])["kernel"].shape[1]
    labels = study.of_test(study.runs[0])["labels"]
    accuracies = {s: class_accuracy(p, labels, classes) for s, p in predicted["MRL"].items()}
    parts = [
        *_class_parts(study, accuracies),
        _first_correct(study, predicted["MRL"], labels),
        _oracles(study, predicted, labels),
    ]
    return Page(
        "disagreement",
        "Where prefixes disagree (Figure 12, Tables 22, 23)",
        f"The classes that MRL's prefixes name for the {len(labels):,} test images. The paper's "
        "(ImageNet-1K, ResNet50): an oracle that picks the right one of MRL's prefixes has "
        "81.54 %, since no prefix is right for 18.46 % of the images.",
        parts,
    )


def _predictions(study):
    """{system: {seed: ints (examples, prefixes)}}; for FF one column for each of its models."""
    found = {
        system: {s: study.of_test(r)["logits"].argmax(axis=-1) for s, r in study.of(system).items()}
        for system in ("MRL", "MRL-E")
    }
    found["FF"] = {}
    for seed in {run.seed for run in study.runs if run.method == "FF"}:
        columns = [study.fixed(dim).get(seed) for dim in study.dims]
        if all(columns):
            each = [study.of_test(run)["logits"][:, 0].argmax(axis=-1) for run in columns]
            found["FF"][seed] = np.stack(each, axis=1)
    return {system: seeds for system, seeds in found.items() if seeds}


def _class_parts(study, accuracies):
    names = study.class_names()
    shown = names if len(names) <= 20 else names[:20]
    relative = {s: relative_class_accuracy(a) for s, a in accuracies.items()}
    columns = {
        name: {
            dim: Measured({s: float(a[i, j]) for s, a in relative.items()})
            for j, dim in enumerate(study.dims)
        }
        for i, name in enumerate(shown)
    }
    yield dims_table(
        "class_accuracy", "Accuracy of each class relative to the full width (Figure 12)",
        "Points above or below the class's accuracy at the full width"
        f"{'' if len(shown) == len(names) else '; the first 20 classes'}.", columns, study.dims,
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


def _first_correct(study, predicted, labels):
    shares = {s: first_correct_dim(p, labels, study.dims) for s, p in predicted.items()}
    rows, records = [], []
    for dim in (*study.dims, None):
        measured = Measured({seed: found[dim] for seed, found in shares.items()})
        rows.append(["never" if dim is None else dim, measured.text()])
        records.append({"first_right_at": "never" if dim is None else dim} | record(measured))
    return Table(
        "first_right", "The first dim that is right (Table 22)",
        "The share of test images that each prefix of MRL is the smallest to classify rightly; the "
        "shares sum to 100 %.", ["dims", "images (%)"], rows, records,
    )  # fmt: skip


def _oracles(study, predicted, labels):
    columns = {}
    for system, seeds in predicted.items():
        values = {seed: oracle_accuracy(p, labels) for seed, p in seeds.items()}
        columns[f"{system}, oracle up to the dim"] = {
            dim: Measured({seed: float(v[j]) for seed, v in values.items()})
            for j, dim in enumerate(study.dims)
        }
        columns[f"{system}, that dim alone"] = {
            dim: Measured({seed: float((p[:, j] == labels).mean()) for seed, p in seeds.items()})
            for j, dim in enumerate(study.dims)
        }
    return dims_table(
        "oracle", "Oracle over the prefixes (Table 23)",
        "What could be reached by always picking the right one of the prefixes (of FF: of the "
        "separate models); the more the models disagree, the higher.",
        columns, study.dims,
    )  # fmt: skip


def superclass_page(study) -> Page:
    slug, title = "superclass", "Superclasses (Tables 24, 25; Figures 10, 11)"
    names = study.class_names()
    groups = SUPERCLASSES.get(study.runs[0].run.config.data.name)
    if groups is None:
        known = ", ".join(SUPERCLASSES)
        sentence = f"superclasses are known for {known}; add the data set's to SUPERCLASSES."
        return Page(slug, title, "Not measured.", left_out=[sentence])
    above = {name: group for group, members in groups.items() for name in members}
    mapping = [above[name] for name in names]
    labels = study.of_test(study.runs[0])["labels"]
    predicted = _predictions(study)
    columns = {}
    for system in predicted:
        by_seed = {s: superclass_accuracy(p, labels, mapping) for s, p in predicted[system].items()}
        for group in next(iter(by_seed.values())):
            name = f"{system}, {'all superclasses' if group == 'all' else group}"
            columns[name] = {
                dim: Measured({s: float(v[group][j]) for s, v in by_seed.items()})
                for j, dim in enumerate(study.dims)
            }
    classes = {
        dim: Measured({s: float((p[:, j] == labels).mean()) for s, p in predicted["MRL"].items()})
        for j, dim in enumerate(study.dims)
    }
    columns = {"MRL, classes": classes, **columns}
    chosen = (
        "MRL, classes",
        *(n for n in columns if n.startswith("MRL, ") and n != "MRL, classes"),
    )
    parts = [
        dims_table("superclass", "Accuracy of superclasses",
                   "How often the class named belongs to the right superclass, beside the accuracy "
                   "of the classes themselves.", columns, study.dims),
        dims_figure("superclass_figure", "Superclass accuracy over the dims",
                    "Accuracy of superclasses beside that of classes.", "superclass",
                    {"MRL": {name: columns[name] for name in chosen}}, study.dims, "accuracy (%)"),
    ]  # fmt: skip
    verdict = claims.falls_less(
        "Superclass accuracy falls less at few dims than class accuracy",
        columns["MRL, all superclasses"], classes,
    )  # fmt: skip
    about = "; ".join(f"{group}: {', '.join(members)}" for group, members in groups.items())
    return Page(slug, title, f"{about}.", parts, [verdict])


def spans_page(study) -> Page:
    columns, systems = {}, {}
    for run in (run for run in study.runs if run.method in study.systems()):
        arrays = study.of_test(run)
        pairs = _same_class(arrays)
        found = cosine_spans(arrays["test"], arrays["train"][pairs], run.dims)
        for dim, span in found.items():
            for name in ("positive", "random", "span"):
                by_dim = columns.setdefault(f"{run.method} {name}", {})
                by_dim.setdefault(dim, {})[run.seed] = getattr(span, name)
            systems.setdefault(run.method, {}).setdefault(dim, {})[run.seed] = span.span
    measured = {
        name: {dim: Measured(v) for dim, v in sorted(by_dim.items())}
        for name, by_dim in columns.items()
    }
    spans = {
        name.removesuffix(" span"): v for name, v in measured.items() if name.endswith(" span")
    }
    table = dims_table(
        "spans", "Mean cosine of positive and random pairs (Table 6)",
        "The wider the span between positive and random pairs, the easier they are told apart.",
        measured, study.dims, scale=1.0, digits=3,
    )  # fmt: skip
    lines = {
        system: [(dim, v.mean, v.spread) for dim, v in by_dim.items()]
        for system, by_dim in spans.items()
    }

    def draw(path):
        style = PanelStyle(ticks=list(study.dims))
        line_panels(path, {"": lines}, "dims", "positive less random cosine", style)

    figure = Figure("spans_figure", "Span of cosines over the dims", "Positive less random.",
                    "spans", draw)  # fmt: skip
    return Page(
        "spans",
        "Cosine spans (Table 6)",
        "A positive pair is a test image and a training image of its class, drawn once with a "
        "fixed seed; random pairs are all others, of which some are of one class too.",
        [table, figure],
    )


def _same_class(arrays):
    """For each test image the row of a random training image of its class."""
    generator = np.random.default_rng(0)
    rows = np.empty(len(arrays["labels"]), int)
    for label in np.unique(arrays["labels"]):
        here = np.flatnonzero(arrays["labels"] == label)
        rows[here] = generator.choice(np.flatnonzero(arrays["train_labels"] == label), len(here))
    return rows


__all__ = ["disagreement_page", "spans_page", "superclass_page"]
