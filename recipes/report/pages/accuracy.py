"""Linear and nearest-neighbour accuracy at trained and interpolated dims, beside the baselines."""

from __future__ import annotations

import dataclasses

import numpy as np

from mrl_keras.baselines import (
    PCA,
    SVD,
    ClassifierSVD,
    ClassifierTruncation,
    RandomFeatures,
    RandomProjection,
    Truncation,
)
from mrl_keras.evaluation import (
    LinearHeadEvaluator,
    LinearProbeEvaluator,
    NearestNeighboursEvaluator,
    Outputs,
)
from recipes.report.parts import claims
from recipes.report.parts.cache import call_content
from recipes.report.parts.fit import training_accuracy, why_below
from recipes.report.parts.page import Page, dims_figure, dims_table
from recipes.report.parts.paper import paper_table
from recipes.report.parts.runs import METHODS
from recipes.report.parts.study import Source

TOP = VOTES = 5
REDUCTIONS = {
    "SVD": SVD,
    "PCA": PCA,
    "Rand. FS": RandomFeatures,
    "JL": RandomProjection,
    "Truncation": Truncation,
}
PROBED = {"Rand. LP": RandomFeatures, "PCA, LP": PCA, "JL, LP": RandomProjection}


def page(study) -> Page:
    linear = study.measured(LinearHeadEvaluator())["top1/linear"]
    nearest = study.measured(NearestNeighboursEvaluator(ks=(1, VOTES), tops=(1, VOTES)))
    probes = study.measured(_probe(study))["top1/probe"]
    fit = training_accuracy(study)
    baselines, left_out = baseline_accuracy(study)
    slim, missing = slimmable_accuracy(study)
    left_out = [*left_out, *missing, *_missing_methods(study)]
    beside = {kind: baselines[kind] | slim[kind] for kind in baselines}
    return Page(
        "accuracy",
        "Accuracy at every prefix (Tables 1, 2, 4, 5; Figures 2, 3)",
        _about(study),
        [*_parts(study, linear, nearest, probes, beside), *_fit_part(study, fit)],
        _verdicts(study, (linear, fit), nearest["top1/1nn"], probes, baselines, slim),
        left_out,
    )


def baseline_accuracy(study):
    """({"linear" | "1nn": {baseline: {dim: `Measured`}}}, sentences on what is left out)."""
    width = study.dims.width
    runs = study.fixed(width).values()
    if not runs:
        needed = (
            f"the baselines SVD, PCA, random features, JL and truncation want an FF-{width} run"
        )
        return {"linear": {}, "1nn": {}}, [f"{needed} (--config.head=ff --config.ff_dim={width})."]
    cut = [source for run in runs for source in _cut_classifiers(study, run)]
    reduced, probed = (
        [_reduced(study, run, name, made) for run in runs for name, made in some.items()]
        for some in (REDUCTIONS, PROBED)
    )
    linear = study.measured(LinearHeadEvaluator(), cut)["top1/linear"]
    linear |= study.measured(_probe(study), probed)["top1/probe"]
    nearest = study.measured(NearestNeighboursEvaluator(), reduced)["top1/1nn"]
    return {"linear": linear, "1nn": nearest}, []


def slimmable_accuracy(study):
    """({"linear" | "1nn": {"Slimmable": {width: `Measured`}}}, what is left out)."""
    sources = [
        dataclasses.replace(study.source(run), system=run.method.capitalize())
        for run in study.runs
        if run.method not in METHODS.values()
    ]
    if not sources:
        return {"linear": {}, "1nn": {}}, ["slimmable networks want a run of that baseline."]
    linear = study.measured(LinearHeadEvaluator(), sources)["top1/linear"]
    nearest = study.measured(NearestNeighboursEvaluator(), sources)["top1/1nn"]
    return {"linear": linear, "1nn": nearest}, []


def _probe(study):
    return LinearProbeEvaluator(examples=study.options.probe_examples)


def _cut_classifiers(study, run):
    """A run's classifier of low rank, and its first rows alone, at the dims of M."""

    def source(system, dims, made):
        def outputs():
            found = study.outputs(run)
            classifier = made().fit(*study.classifier(run))
            nested = [classifier.logits(found["embeddings"], dim) for dim in dims]
            return Outputs(dims, {"logits": np.stack(nested, 1), "labels": found["labels"]})

        key = {**study.source(run).key, "classifier": system, "dims": list(dims)}
        return Source(system, run.seed, key, outputs)

    ranks = [dim for dim in study.dims if dim <= min(study.classifier(run)[0].shape)]
    yield source("SVD", ranks, ClassifierSVD)
    yield source("Truncation", study.dims, ClassifierTruncation)


def _reduced(study, run, system, made):
    """A run's embeddings, reduced.

    Every reduction here is nested: its first dims are the reduction to fewer dims, up to a factor
    (JL) that cosine does not see. So one reduction serves all dims.
    """

    def outputs():
        found, width = study.outputs(run), study.dims.width
        reduction = made().fit(found["train_embeddings"])
        reduced = {
            name: reduction.transform(found[name], width)
            for name in ("embeddings", "train_embeddings")
        }
        labels = {name: found[name] for name in ("labels", "train_labels")}
        return Outputs(study.dims, reduced | labels)

    key = {**study.source(run).key, "reduction": call_content(made), "dims": list(study.dims)}
    return Source(system, run.seed, key, outputs)


def _missing_methods(study):
    for method, head in (("MRL-E", "mrl_e"), ("FF", "ff")):
        if not study.of(method):
            yield f"{method} wants runs with --config.head={head}."
    absent = [str(dim) for dim in study.dims if not study.fixed(dim)]
    if absent and study.of("FF"):
        yield f"FF at {', '.join(absent)} dims wants runs with --config.ff_dim of these."


def _about(study):
    test, train = len(study.first["labels"]), len(study.first["train_labels"])
    probed = min(train, study.options.probe_examples)
    return (
        f"Measured on the {test:,} test images. Linear: the trained classifier of each prefix; "
        "MRL-E slices its classifier at interpolated dims (~). 1-NN: cosine of prefixes against "
        f"{train:,} training images. Probes (LP) are logistic regressions on {probed:,} "
        "training images. SVD, PCA, Rand. FS, JL and Truncation reduce the embedding of "
        f"FF-{study.dims.width}, fitted on training data only; linear SVD is of its classifier's "
        "weights, whose rank the number of classes bounds; linear Truncation keeps the first rows "
        "of its classifier. Cells: mean ± standard deviation over seeds, percent."
    )


def _parts(study, linear, nearest, probes, beside):
    trained, near = study.dims, nearest["top1/1nn"]
    linear_all, near_all = linear | beside["linear"], near | beside["1nn"]
    top = min(TOP, study.classes)
    top5 = study.measured(LinearHeadEvaluator(tops=(top,)))[f"top{top}/linear"]
    yield dims_table(
        "linear", "Linear top-1 accuracy (Table 1)",
        "How accurate each prefix is with its trained classifier, beside independently trained "
        "models (FF), slimmable networks and reductions of one wide model.", linear_all, trained,
        paper=paper_table(1, {"dims": "dims", "MRL": "mrl", "MRL-E": "mrl_e", "FF": "ff",
                              "SVD": "svd", "Rand. LP": "rand_lp", "Slimmable": "slimmable"}),
    )  # fmt: skip
    yield dims_figure(
        "linear_figure", "Linear top-1 accuracy over the dims (Figure 2)",
        "Left: prefixes of one model beside models trained at each dim alone; right: with "
        "reductions of a model that was not trained for it. Hollow markers are interpolated dims, "
        "error bars one standard deviation over seeds.",
        "linear", _panels(linear, linear_all), trained, "top-1 accuracy (%)",
    )  # fmt: skip
    yield dims_table(
        "nearest", "1-NN top-1 accuracy (Table 2)",
        "The same without a classifier: the label of the nearest training image.",
        near_all, trained,
        paper=paper_table(2, {"dims": "dims", "MRL": "mrl", "MRL-E": "mrl_e", "FF": "ff",
                              "SVD": "svd", "Rand. FS": "rand_fs", "Slimmable": "slimmable"}),
    )  # fmt: skip
    yield dims_figure(
        "nearest_figure", "1-NN top-1 accuracy over the dims (Figure 3)",
        "Accuracy of the nearest neighbour over the dims.",
        "nearest", _panels(near, near_all), trained, "1-NN accuracy (%)",
    )  # fmt: skip
    yield dims_table(
        "probe", "Linear probe on frozen prefixes, interpolated dims included",
        "A classifier fitted afterwards on each frozen prefix, also at dims without a loss.",
        probes, trained,
    )  # fmt: skip
    yield dims_table(
        "linear_top5", "Linear top-5 accuracy (Table 4)",
        "The label is among the five likeliest classes.", top5, trained,
    )  # fmt: skip
    yield dims_table(
        "votes", f"{VOTES}-NN top-1 accuracy",
        f"The majority of the {VOTES} nearest training images.",
        nearest[f"top1/{VOTES}nn"], trained,
    )  # fmt: skip
    yield dims_table(
        "votes_top5", f"{VOTES}-NN top-{VOTES} accuracy (Table 5)",
        f"The label is among those of the {VOTES} nearest training images.",
        nearest[f"top{VOTES}/{VOTES}nn"], trained,
    )  # fmt: skip


def _panels(own, everything):
    return {"trained with prefixes or at one dim": own, "with the baselines": everything}


def _fit_part(study, fit):
    if fit:
        yield dims_table(
            "fit", "Accuracy on the training images of the last epoch",
            "Augmented images, while the weights still move: a model below another one here too is "
            "fitted less, not overfitted.", fit, study.dims,
        )  # fmt: skip


def _verdicts(study, linear, nearest, probes, baselines, slim):
    linear, fit = linear
    kinds = {"linear": linear, "1-NN": nearest}
    found = []
    for kind, systems in kinds.items():
        claim = f"MRL is at least as accurate as FF at every dim, within the noise ({kind})"
        for least in claims.mrl_against_ff(claim, systems):
            sides = systems["MRL"], systems["FF"]
            why = why_below(*sides, fit.get("MRL", {}), fit.get("FF", {}))
            found.append(dataclasses.replace(least, numbers=least.numbers + why))
            claim = f"MRL is more accurate than FF at the lowest dim ({kind})"
            found.append(claims.better_at_the_lowest(claim, *sides))
    for kind, name in (("linear", "linear"), ("1-NN", "1nn")):
        if baselines[name]:
            found.append(claims.collapse(
                f"SVD, random and truncation baselines collapse at the lowest dim ({kind}): they "
                "keep less than half of MRL's accuracy above chance",
                kinds[kind]["MRL"], baselines[name], 1.0 / study.classes,
            ))  # fmt: skip
        for system, widths in slim[name].items():
            found.append(claims.at_least_as_accurate(
                f"MRL is at least as accurate as a {system.lower()} network at each of its widths, "
                f"within the noise ({kind})", kinds[kind]["MRL"], widths,
            ))  # fmt: skip
    between = {"1-NN": nearest["MRL"], "linear probe": probes["MRL"]}
    for kind, values in between.items():
        if set(values) - set(study.dims):
            found.append(claims.lies_between(
                f"MRL's interpolated dims lie between the trained ones, within the noise ({kind})",
                values, study.dims,
            ))  # fmt: skip
    return found
