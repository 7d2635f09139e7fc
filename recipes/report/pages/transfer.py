"""Few shots and corrupted images: prefixes on what they were not trained for."""

from __future__ import annotations

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.data.image.corruptions import CORRUPTIONS
from mrl_keras.evaluation import FewShotEvaluator, LinearHeadEvaluator
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, Table, dims_figure, dims_table, not_measured, record
from recipes.report.parts.paper import paper_table
from recipes.report.parts.study import SEVERITIES

SHOTS = (1, 3, 5, 7, 9)
REPEATS = 10


def few_shot_page(study) -> Page:
    parts, verdicts = _few_shot(study, study.sources(), "", "")
    about = (
        f"The nearest class mean over {REPEATS} draws of the shots, which all systems and dims "
        "share. The networks were trained on the classes"
    )
    if study.options.novel:
        more = _few_shot(study, study.novel_sources(), "novel_", ", novel classes")
        parts, verdicts = parts + more[0], verdicts + more[1]
        about += f", but on none of the novel ones ({study.options.novel}): the shots are all "
        about += "that is known of these"
    return Page("few_shot", "Few-shot classification (Table 15)", f"{about}.", parts, verdicts)


def _few_shot(study, sources, prefix, where):
    """Tables, a figure and a verdict of few shots of the classes of some sources."""
    counts = np.bincount(sources[0].outputs()["train_labels"])
    shots = [n for n in SHOTS if n <= min(counts)]
    measured = study.measured(FewShotEvaluator(tuple(shots), repeats=REPEATS), sources)
    found = {n: measured[f"{n}shot/mean"] for n in shots}
    parts = [
        dims_table(
            f"{prefix}few_shot_{n}", f"{n}-shot, {len(counts)}-way{where} (Table 15)",
            f"Accuracy of the nearest class mean of {n} training images of each class.",
            columns, study.dims,
            paper=paper_table(15, {"dims": "dims", f"MRL, {n}-shot": f"shot{n}"},
                              "ResNet50, 1000-way, ImageNet-V2", {"model": "MRL"}),
        )
        for n, columns in found.items()
    ]  # fmt: skip
    panels = {f"{n}-shot": found[n] for n in (shots[0], shots[-1])}
    parts.append(dims_figure(
        f"{prefix}few_shot_figure", f"Few-shot accuracy over the dims{where}",
        "Accuracy with the fewest and with the most shots.", f"{prefix}few_shot_{shots[0]}",
        panels, study.dims, "accuracy (%)", share_y=True,
    ))  # fmt: skip
    claim = "MRL is at least as accurate as FF with few shots, within the noise "
    return parts, claims.mrl_against_ff(f"{claim}({shots[-1]} shots{where})", found[shots[-1]])


def robustness_page(study) -> Page:
    slug, title = "robustness", "Robustness (Table 17)"
    if study.task.test_images() is None:
        wants = "corruptions want a data set in memory (`data.in_memory`)."
        return not_measured(slug, title, wants)
    right = _corrupted(study)
    overall = {
        system: {
            dim: Measured.of_examples({s: v.reshape(-1) for s, v in seeds.items()})
            for dim, seeds in by_dim.items()
        }
        for system, by_dim in right.items()
    }
    images = next(iter(right["MRL"][study.dims[0]].values())).shape[-1]
    clean = _clean(study, overall, images)
    columns = {}
    for system in overall:
        columns[f"{system} clean"] = clean[system]
        columns[f"{system} corrupted"] = overall[system]
    parts = [
        dims_table(
            "robustness", "Mean over kinds and severities",
            "Top-1 accuracy on clean and on corrupted images at every dim.", columns, study.dims,
            paper=paper_table(17, {"data": "dataset", "dims": "dims", "MRL": "mrl",
                                   "MRL-E": "mrl_e", "FF": "ff"},
                              "ResNet50, other domains in place of corruptions"),
        ),
        dims_figure(
            "robustness_figure", "Clean and corrupted accuracy over the dims",
            "The gap between the panels is what corruption costs at each dim.", "robustness",
            {"clean": clean, "corrupted": overall}, study.dims, "top-1 accuracy (%)", share_y=True,
        ),
        _kinds_table(study, right),
    ]  # fmt: skip
    verdicts = claims.mrl_against_ff(
        "MRL is at least as robust as FF at every dim, within the noise (corrupted accuracy)",
        overall,
    )
    return Page(
        slug,
        title,
        f"The first {images:,} test images, clean and corrupted in {len(CORRUPTIONS)} kinds x 5 "
        "severities made by `mrl_keras.data.image.corruptions.corrupt` (not CIFAR-10-C: accuracies "
        "are not to be compared with that set's).",
        parts,
        verdicts,
    )


def _corrupted(study):
    """{system: {dim: {seed: bools (kinds, severities, images)}}}."""
    found = {}
    for run in tqdm(study.prefix_runs, desc="Corrupted images", unit="run"):
        for name, right in study.each(study.corrupted(run), LinearHeadEvaluator()).items():
            by_dim = found.setdefault(run.method, {}).setdefault(int(name.split("/")[-1]), {})
            by_dim[run.seed] = right.reshape(len(CORRUPTIONS), len(SEVERITIES), -1)
    return found


def _clean(study, corrupted, images):
    """{system: {dim: `Measured`}} of the first test images, at the dims of `corrupted`."""
    linear = study.measured(LinearHeadEvaluator())["top1/linear"]
    return {
        system: {
            dim: Measured.of_examples({s: v[:images] for s, v in linear[system][dim].each.items()})
            for dim in by_dim
        }
        for system, by_dim in corrupted.items()
    }


def _kinds_table(study, right):
    """MRL at every severity and kind, at the lowest and the widest dim."""
    ends = study.dims[0], study.dims.width
    header = ["kind", "severity", *(f"MRL, {dim} dims" for dim in ends)]
    rows, records = [], []
    for i, kind in enumerate(CORRUPTIONS):
        for j, severity in enumerate(SEVERITIES):
            cells = []
            for dim in ends:
                seeds = right["MRL"][dim]
                measured = Measured.of_examples({s: v[i, j] for s, v in seeds.items()})
                cells.append(measured.text())
                about = {"kind": kind, "severity": severity, "dims": dim}
                records.append(about | record(measured))
            rows.append([kind.replace("_", " "), severity, *cells])
    return Table(
        "robustness_kinds", "Every kind and severity",
        "MRL's accuracy at the lowest dim and at the full width.",
        header, rows, records,
    )  # fmt: skip
