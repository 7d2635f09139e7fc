"""One change at a time: finetuning, boosted losses, smallest dims, spacing, and any other."""

from __future__ import annotations

import dataclasses

from mrl_keras.evaluation import LinearHeadEvaluator, NearestNeighboursEvaluator, Outputs
from recipes.common.prefixes import adapts, relative_importance
from recipes.report.parts import claims
from recipes.report.parts.page import Page, dims_table, not_measured
from recipes.report.parts.paper import SETTING, paper_table

SECTIONS = {
    "init_from": (
        "finetuning", "Finetuning a model that was trained without nesting (Table 26)",
        "A new MRL head on FF at full width, with the parts named in the column unfrozen.",
        (26, {"dims": "dims", "head": "fc", "last convolution": "l42_conv3_fc",
              "last block": "l42_full_fc", "all, MRL from the start": "all_mrl"}, None),
    ),
    "relative_importance": (
        "importance", "Weights of the losses (Table 27)",
        "MRL with other weights c_m of the losses (dim:weight, 1 elsewhere).",
        (27, {"model": "model", "dims": "dims", "top-1": "top1"}, None),
    ),
    "smallest_dim": (
        "smallest", "The smallest dim (Table 28)",
        "MRL with a smaller m_0 in front of M.",
        (28, {"dims": "dims", "from 4": "mrl_4", "from 6": "mrl_6", "from 8": "mrl_8"}, None),
    ),
    "spacing": (
        "spacing", "Logarithmic or uniform spacing (Table 29)",
        "MRL with as many dims, evenly spaced.",
        (29, {"dims": "dims", "log, 1-NN": "mrl_log", "uniform, 1-NN": "mrl_uniform"}, None),
    ),
}  # fmt: skip
OTHERS = ("others", "Other changes", "Everything else is as in the runs of this report.", None)


def page(study) -> Page:
    slug, title = "ablations", "One change at a time (Tables 26 to 29)"
    if not study.variants:
        wants = "variants want runs with one change each (--variants=FOLDER ...)."
        return not_measured(slug, title, wants)
    parts, verdicts = [], []
    groups = {}
    for name, runs in study.variants.items():
        groups.setdefault(_section(runs, study.dims), {})[name] = runs
    for key in [*SECTIONS, None]:
        if key in groups:
            found = _measured(study, groups[key])
            parts += _tables(study, key, *found)
            verdicts += _verdicts(study, groups[key], key, *found)
    return Page(
        slug,
        title,
        "Each column is a change to the configuration of this report's runs, which stand beside "
        "it. Differences are over the seeds that both have.",
        parts,
        verdicts,
    )


def _section(runs, dims):
    """The key in `SECTIONS` of a variant, or `None`; `dims` are the report's M."""
    variant = next(iter(runs.values()))
    if list(variant.run.dims[1:]) == list(dims):
        return "smallest_dim"  # a dim in front of M, by `nesting_dims` as well
    changed = [name for name, _ in variant.changes]
    return next((key for key in SECTIONS if key in changed), None)


def _measured(study, variants):
    """({system: {dim: linear accuracy}}, the same of 1-NN), at the report's dims too."""
    base = study.sources("MRL")
    if any(run.run.method == "FF" for runs in variants.values() for run in runs.values()):
        base = study.sources("MRL", "FF")
    own = [
        dataclasses.replace(study.source(run.run), system=name)
        for name, runs in variants.items()
        for run in runs.values()
    ]
    linear = study.measured(LinearHeadEvaluator(), base + own)["top1/linear"]
    prefixes = [_at_dims(source, study.dims) for source in base + own]
    nearest = study.measured(NearestNeighboursEvaluator(), prefixes)["top1/1nn"]
    return linear, nearest


def _at_dims(source, dims):
    """A source whose embeddings are read at other dims than its own, up to its widest."""

    def outputs():
        found = source.outputs()
        widest = max(found.dims)
        names = ("embeddings", "labels", "train_embeddings", "train_labels")
        kept = [dim for dim in dims if dim <= widest] if len(found.dims) > 1 else [widest]
        return Outputs(kept, {name: found[name] for name in names})

    return dataclasses.replace(source, key={**source.key, "at": list(dims)}, outputs=outputs)


def _tables(study, key, linear, nearest):
    name, title, says, beside = SECTIONS.get(key, OTHERS)
    paper = ""
    if beside is not None:
        number, columns, where = beside
        paper = paper_table(number, columns, SETTING, where)
    yield dims_table(
        f"{name}_linear", title, f"{says} Linear top-1 accuracy (%).", linear, study.dims,
        paper=paper if key != "spacing" else "",
    )  # fmt: skip
    yield dims_table(
        f"{name}_nearest", f"{title}: 1-NN", "The same by the nearest training image.", nearest,
        study.dims, paper=paper if key == "spacing" else "",
    )  # fmt: skip


def _verdicts(study, variants, key, linear, nearest):
    if key == "relative_importance":
        for name, runs in variants.items():
            text = next(iter(runs.values())).run.run.config[key]
            if adapts(text):
                continue
            weights = relative_importance(text)
            ends = [weights.get(dim, 1.0) for dim in (study.dims[0], study.dims.width)]
            if ends[0] > ends[1]:
                yield claims.better_at_the_lowest(
                    f"Boosted losses are more accurate at the lowest dim ({name}, linear)",
                    linear[name], linear["MRL"],
                )  # fmt: skip
    if key == "spacing":
        yield claims.at_least_as_accurate(
            "Logarithmic spacing is at least as accurate as uniform spacing at its dims, within "
            "the noise (1-NN)", nearest["MRL"], nearest[next(iter(variants))],
        )  # fmt: skip
