"""Few shots and corrupted images: does the prefix still do where training did not prepare it?"""

from __future__ import annotations

import numpy as np
import tqdm

from mrl_keras.data.image.corruptions import CORRUPTIONS
from mrl_keras.evaluation import ShotDraws, few_shot_accuracy
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, Table, dims_figure, dims_table, record

SHOTS = (1, 3, 5, 7, 9)
REPEATS = 10


def few_shot_page(study) -> Page:
    least = min(np.bincount(study.of_test(study.runs[0])["train_labels"]))
    shots = [n for n in SHOTS if n <= least]
    found = {n: _few_shot(study, n) for n in shots}
    classes = study.of_test(study.runs[0])["kernel"].shape[1]
    parts = [
        dims_table(
            f"few_shot_{n}", f"{n}-shot, {classes}-way (Table 15)",
            f"Accuracy of the nearest class mean of {n} training images of each class.",
            columns, study.dims,
        )
        for n, columns in found.items()
    ]  # fmt: skip
    panels = {f"{n}-shot": found[n] for n in (shots[0], shots[-1])}
    parts.append(dims_figure(
        "few_shot_figure", "Few-shot accuracy over the dims",
        "Accuracy with the fewest and with the most shots.", f"few_shot_{shots[0]}",
        panels, study.dims, "accuracy (%)", share_y=True,
    ))  # fmt: skip
    verdicts = []
    if "FF" in found[shots[-1]]:
        verdicts.append(claims.at_least_as_accurate(
            f"MRL is at least as accurate as FF with few shots, within the noise ({shots[-1]} "
            "shots)", found[shots[-1]]["MRL"], found[shots[-1]]["FF"],
        ))  # fmt: skip
    return Page(
        "few_shot",
        "Few-shot classification (Table 15)",
        f"The nearest class mean over {REPEATS} draws of the shots, which all systems and dims "
        "share. The classes were trained on: these are the paper's mechanics on this data, not "
        "new classes.",
        parts,
        verdicts,
    )


def _few_shot(study, shots):
    found, examples = {}, 0
    runs = [run for run in study.runs if run.method in study.systems()]
    for run in tqdm.tqdm(runs, desc=f"{shots}-shot", unit="run"):
        arrays = study.of_test(run)

        def compute(run=run, arrays=arrays):
            accuracy = few_shot_accuracy(
                arrays["train"], arrays["train_labels"], arrays["test"], arrays["labels"],
                run.dims, shots, ShotDraws(repeats=REPEATS),
            )  # fmt: skip
            return {"values": [accuracy[dim].mean for dim in run.dims]}

        key = {"shots": shots, "repeats": REPEATS}
        values = study.values("few_shot", run, key, compute)["values"].tolist()
        examples = len(arrays["labels"])
        for dim, value in zip(run.dims, values, strict=True):
            found.setdefault(run.method, {}).setdefault(dim, {})[run.seed] = value
    return {
        system: {dim: Measured(v, examples=examples) for dim, v in sorted(by_dim.items())}
        for system, by_dim in found.items()
    }


def robustness_page(study) -> Page:
    slug, title = "robustness", "Robustness (Table 17)"
    if study.images() is None:
        sentence = "corruptions want a data set in memory (`data.in_memory`)."
        return Page(slug, title, "Not measured.", left_out=[sentence])
    right, clean = _corrupted(study)
    overall = {
        system: {
            dim: Measured.of_examples({s: v.reshape(-1) for s, v in seeds.items()})
            for dim, seeds in by_dim.items()
        }
        for system, by_dim in right.items()
    }
    images = next(iter(next(iter(right["MRL"].values())).values())).shape[-1]
    columns = {}
    for system in overall:
        columns[f"{system} clean"] = clean[system]
        columns[f"{system} corrupted"] = overall[system]
    parts = [
        dims_table(
            "robustness", "Mean over kinds and severities",
            "Top-1 accuracy on clean and on corrupted images at every dim.", columns, study.dims,
        ),
        dims_figure(
            "robustness_figure", "Clean and corrupted accuracy over the dims",
            "The gap between the panels is what corruption costs at each dim.", "robustness",
            {"clean": clean, "corrupted": overall}, study.dims, "top-1 accuracy (%)", share_y=True,
        ),
        _kinds_table(study, right),
    ]  # fmt: skip
    verdicts = []
    if "FF" in overall:
        verdicts.append(claims.at_least_as_accurate(
            "MRL is at least as robust as FF at every dim, within the noise (corrupted accuracy)",
            overall["MRL"], overall["FF"],
        ))  # fmt: skip
    return Page(
        slug,
        title,
        f"The first {images:,} test images, clean and corrupted in {len(CORRUPTIONS)} kinds x 5 "
        "severities made by `mrl_keras.data.corrupt` (not CIFAR-10-C: accuracies are not to be "
        "compared with that set's).",
        parts,
        verdicts,
    )


def _corrupted(study):
    """({system: {dim: {seed: bools (kinds, severities, images)}}}, {system: {dim: clean}})."""
    right, clean = {}, {}
    runs = [run for run in study.runs if run.method in study.systems()]
    for run in tqdm.tqdm(runs, desc="Corrupted images", unit="run"):
        arrays = study.of_test(run)
        logits = study.of_corrupted(run)["logits"]
        labels = arrays["labels"][: logits.shape[2]]
        hits = logits.argmax(axis=-1) == labels[None, None, :, None]
        beside = arrays["logits"][: len(labels)].argmax(axis=-1) == labels[:, None]
        for place, dim in enumerate(run.dims):
            right.setdefault(run.method, {}).setdefault(dim, {})[run.seed] = hits[..., place]
            by_dim = clean.setdefault(run.method, {}).setdefault(dim, {})
            by_dim[run.seed] = beside[:, place]
    right = {system: dict(sorted(by_dim.items())) for system, by_dim in right.items()}
    return right, {
        system: {dim: Measured.of_examples(v) for dim, v in sorted(by_dim.items())}
        for system, by_dim in clean.items()
    }


def _kinds_table(study, right):
    """MRL at every severity and kind, at the lowest and the widest dim."""
    ends = study.dims[0], study.dims.width
    header = ["kind", "severity", *(f"MRL, {dim} dims" for dim in ends)]
    rows, records = [], []
    for i, kind in enumerate(CORRUPTIONS):
        for j in range(5):
            cells = []
            for dim in ends:
                seeds = right["MRL"][dim]
                measured = Measured.of_examples({s: v[i, j] for s, v in seeds.items()})
                cells.append(measured.text())
                about = {"kind": kind, "severity": j + 1, "dims": dim}
                records.append(about | record(measured))
            rows.append([kind.replace("_", " "), j + 1, *cells])
    return Table(
        "robustness_kinds", "Every kind and severity",
        "MRL's accuracy at the lowest dim and at the full width.",
        header, rows, records,
    )  # fmt: skip
