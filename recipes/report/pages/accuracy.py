"""Linear and nearest-neighbour accuracy at trained and interpolated dims, beside the baselines."""

from __future__ import annotations

import dataclasses

import numpy as np
import tqdm

from mrl_keras.baselines import (
    PCA,
    SVD,
    ClassifierSVD,
    RandomFeatures,
    RandomProjection,
    Truncation,
)
from mrl_keras.evaluation import among_votes, linear_probe_accuracy
from mrl_keras.evaluation.classification.linear import among_top
from mrl_keras.retrieval import exact_search
from recipes.report.parts import claims
from recipes.report.parts.fit import training_accuracy, why_below
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, dims_figure, dims_table

VOTES = 5
REDUCTIONS = {
    "SVD": SVD,
    "PCA": PCA,
    "Rand. FS": RandomFeatures,
    "JL": RandomProjection,
    "Truncation": Truncation,
}
PROBED = {"Rand. LP": RandomFeatures, "PCA, LP": PCA, "JL, LP": RandomProjection}


def page(study) -> Page:
    linear, nearest = linear_accuracy(study), nearest_accuracy(study)
    probes, fit = probe_accuracy(study), training_accuracy(study)
    baselines, left_out = baseline_accuracy(study)
    slim, missing = slimmable_accuracy(study)
    left_out = [*left_out, *missing, *_missing_methods(study)]
    linear_all = linear | baselines["linear"] | slim["linear"]
    nearest_all = nearest | baselines["1nn"] | slim["1nn"]
    return Page(
        "accuracy",
        "Accuracy at every prefix (Tables 1, 2, 4, 5; Figures 2, 3)",
        _about(study),
        [
            *_parts(study, (linear, linear_all), (nearest, nearest_all), probes),
            *_fit_part(study, fit),
        ],
        _verdicts(study, (linear, fit), nearest, probes, baselines),
        left_out,
    )


def linear_accuracy(study, top=1) -> dict[str, dict[int, Measured]]:
    """{system: {dim: accuracy of its own classifiers, the label among the `top` classes}}."""
    found = {}
    for run in (run for run in study.runs if run.method in study.systems()):
        arrays, by_dim = study.of_test(run), found.setdefault(run.method, {})
        kinds = [("logits", run.dims)]
        if "between" in arrays:
            kinds.append(("between", run.dims.interpolated()))
        for name, dims in kinds:
            logits = arrays[name]
            right = among_top(logits, arrays["labels"], min(top, logits.shape[-1]))
            for place, dim in enumerate(dims):
                by_dim.setdefault(dim, {})[run.seed] = right[:, place]
    return {
        system: {dim: Measured.of_examples(by_dim[dim]) for dim in sorted(by_dim)}
        for system, by_dim in found.items()
    }


def nearest_accuracy(study, decide=None) -> dict[str, dict[int, Measured]]:
    """{system: {dim: accuracy of a decision from the neighbours' labels}}.

    Args:
        study: `Study`.
        decide: function (neighbour labels (queries, k), labels (queries,)) -> bools. Default
            None, whether the nearest is right.
    """
    decide = decide or (lambda found, labels: found[:, 0] == labels)
    systems = {}
    for system in study.systems():
        by_dim = {}
        for run in (run for run in study.runs if run.method == system):
            labels = study.of_test(run)["labels"]
            for dim, found in zip(study.dims_of(run), study.neighbours(run), strict=True):
                by_dim.setdefault(dim, {})[run.seed] = decide(found, labels)
        systems[system] = {dim: Measured.of_examples(by_dim[dim]) for dim in sorted(by_dim)}
    return systems


def probe_accuracy(study) -> dict[str, dict[int, Measured]]:
    """{system: {dim: accuracy of a logistic regression on the frozen prefix}}."""
    runs = [run for run in study.runs if run.method in study.systems()]
    found = {}
    for run in tqdm.tqdm(runs, desc="Linear probes", unit="run"):
        arrays = study.of_test(run)
        for dim, value in _probe(study, run, study.dims_of(run), "none", arrays).items():
            found.setdefault(run.method, {}).setdefault(dim, {})[run.seed] = value
    examples = len(study.of_test(study.runs[0])["labels"])
    return {
        system: {dim: Measured(by_dim[dim], examples=examples) for dim in sorted(by_dim)}
        for system, by_dim in found.items()
    }


def baseline_accuracy(study):
    """({"linear" | "1nn": {baseline: {dim: `Measured`}}}, sentences on what is left out)."""
    width, runs = study.dims.width, study.fixed(study.dims.width)
    if not runs:
        needed = (
            f"the baselines SVD, PCA, random features, JL and truncation want an FF-{width} run"
        )
        return {"linear": {}, "1nn": {}}, [f"{needed} (--config.head=ff --config.ff_dim={width})."]
    right = {"linear": {}, "1nn": {}}
    values = {}
    for seed, run in tqdm.tqdm(runs.items(), desc="Baselines", unit="run"):
        for kind, name, dim, bools in _reduced(study, run):
            right[kind].setdefault(name, {}).setdefault(dim, {})[seed] = bools
        for name, made in PROBED.items():
            probed = _reduction_probe(study, run, name, made)
            for dim, value in probed.items():
                values.setdefault(name, {}).setdefault(dim, {})[seed] = value
    examples = len(study.of_test(study.runs[0])["labels"])
    found = {
        kind: {
            name: {dim: Measured.of_examples(each) for dim, each in by_dim.items()}
            for name, by_dim in systems.items()
        }
        for kind, systems in right.items()
    }
    for name, by_dim in values.items():
        found["linear"][name] = {d: Measured(each, examples=examples) for d, each in by_dim.items()}
    return found, []


def slimmable_accuracy(study):
    """({"linear" | "1nn": {"Slimmable": {width: `Measured`}}}, what is left out)."""
    runs = [run for run in study.runs if run.method not in ("MRL", "MRL-E", "FF")]
    if not runs:
        return {"linear": {}, "1nn": {}}, ["slimmable networks want a run of that baseline."]
    found = {"linear": {}, "1nn": {}}
    examples = len(study.of_test(study.of("MRL")[min(study.of("MRL"))])["labels"])
    for run in runs:
        for name, value in study.task_values(run).items():
            _, kind, dim = name.split("/")
            if kind in found:
                by_dim = found[kind].setdefault(_shown(run.method), {})
                by_dim.setdefault(int(dim), {})[run.seed] = value
    return {
        kind: {
            name: {dim: Measured(each, examples=examples) for dim, each in by_dim.items()}
            for name, by_dim in systems.items()
        }
        for kind, systems in found.items()
    }, []


def _shown(method):
    return method.capitalize()


def _probe(study, run, dims, reduction, arrays):
    """{dim: accuracy} of probes on nested prefixes of `arrays`, cached."""
    most = study.options.probe_examples

    def compute():
        train, labels = arrays["train"][:most], arrays["train_labels"][:most]
        found = linear_probe_accuracy(train, labels, arrays["test"], arrays["labels"], dims)
        return {"values": np.array([found[dim] for dim in dims])}

    key = {"dims": list(dims), "most": most, "reduction": reduction}
    return dict(zip(dims, study.values("probe", run, key, compute)["values"].tolist(), strict=True))


def _reduction_probe(study, run, name, made):
    arrays = study.of_test(run)
    reduction = made().fit(arrays["train"])
    width = run.dims.width
    reduced = {key: reduction.transform(arrays[key], width) for key in ("train", "test")}
    return _probe(study, run, study.dims, name, arrays | reduced)


def _reduced(study, run):
    """Yields (kind, name, dim, bools) of the reductions that need no probe."""
    arrays, dims = study.of_test(run), study.dims
    labels = arrays["labels"]
    svd = ClassifierSVD().fit(arrays["kernel"], arrays["bias"])
    for dim in dims:
        if dim <= min(arrays["kernel"].shape):
            yield "linear", "SVD", dim, svd.logits(arrays["test"], dim).argmax(1) == labels
        cut = arrays["test"][:, :dim] @ arrays["kernel"][:dim] + arrays["bias"]
        yield "linear", "Truncation", dim, cut.argmax(axis=1) == labels
    for name, made in REDUCTIONS.items():

        def compute(made=made):
            reduction = made().fit(arrays["train"])
            train, test = (reduction.transform(arrays[k], dims.width) for k in ("train", "test"))
            nearest = exact_search(test, train, dims, k=1).indices[:, :, 0]
            return {"labels": arrays["train_labels"][nearest].astype("int32")}

        # Every reduction here is nested: its first dims are the reduction to fewer dims, up to a
        # factor (JL) that cosine does not see. So one search serves all dims.
        key = {"name": name, "dims": list(dims)}
        found = study.values("reduced", run, key, compute)["labels"]
        for dim, nearest in zip(dims, found, strict=True):
            yield "1nn", name, dim, nearest == labels


def _missing_methods(study):
    for method, head in (("MRL-E", "mrl_e"), ("FF", "ff")):
        if method not in study.systems():
            yield f"{method} wants runs with --config.head={head}."
    absent = [str(dim) for dim in study.dims if dim not in study.fixed_dims()]
    if absent and study.fixed_dims():
        yield f"FF at {', '.join(absent)} dims wants runs with --config.ff_dim of these."


def _about(study):
    test = len(study.of_test(study.runs[0])["labels"])
    train = len(study.of_test(study.runs[0])["train_labels"])
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


def _parts(study, linear, nearest, probes):
    (own, everything), (near, near_all) = linear, nearest
    trained = study.dims
    votes = {top: nearest_accuracy(study, _votes(top)) for top in (1, VOTES)}
    yield dims_table(
        "linear", "Linear top-1 accuracy (Table 1)",
        "How accurate each prefix is with its trained classifier, beside independently trained "
        "models (FF), slimmable networks and reductions of one wide model.", everything, trained,
    )  # fmt: skip
    yield dims_figure(
        "linear_figure", "Linear top-1 accuracy over the dims (Figure 2)",
        "Left: prefixes of one model beside models trained at each dim alone; right: with "
        "reductions of a model that was not trained for it. Hollow markers are interpolated dims, "
        "error bars one standard deviation over seeds.",
        "linear", _panels(own, everything), trained, "top-1 accuracy (%)",
    )  # fmt: skip
    yield dims_table(
        "nearest", "1-NN top-1 accuracy (Table 2)",
        "The same without a classifier: the label of the nearest training image.",
        near_all, trained,
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
        "The label is among the five likeliest classes.",
        linear_accuracy(study, 5), trained,
    )  # fmt: skip
    yield dims_table(
        "votes", f"{VOTES}-NN top-1 accuracy",
        f"The majority of the {VOTES} nearest training images.", votes[1], trained,
    )  # fmt: skip
    yield dims_table(
        "votes_top5", f"{VOTES}-NN top-{VOTES} accuracy (Table 5)",
        f"The label is among those of the {VOTES} nearest training images.", votes[VOTES], trained,
    )  # fmt: skip


def _votes(top):
    return lambda found, labels: among_votes(found[:, :VOTES], labels, top)


def _panels(own, everything):
    return {"trained with prefixes or at one dim": own, "with the baselines": everything}


def _fit_part(study, fit):
    if fit:
        yield dims_table(
            "fit", "Accuracy on the training images of the last epoch",
            "Augmented images, while the weights still move: a model below another one here too is "
            "fitted less, not overfitted.", fit, study.dims,
        )  # fmt: skip


def _verdicts(study, linear, nearest, probes, baselines):
    linear, fit = linear
    kinds = {"linear": linear, "1-NN": nearest}
    found = []
    for kind, systems in kinds.items():
        if "FF" not in systems:
            continue
        sides = systems["MRL"], systems["FF"]
        least = claims.at_least_as_accurate(
            f"MRL is at least as accurate as FF at every dim, within the noise ({kind})", *sides
        )
        why = why_below(*sides, fit.get("MRL", {}), fit.get("FF", {}))
        found.append(dataclasses.replace(least, numbers=least.numbers + why))
        found.append(claims.better_at_the_lowest(
            f"MRL is more accurate than FF at the lowest dim ({kind})",
            systems["MRL"], systems["FF"],
        ))  # fmt: skip
    chance = 1.0 / study.of_test(study.runs[0])["kernel"].shape[1]
    for kind, name in (("linear", "linear"), ("1-NN", "1nn")):
        if baselines[name]:
            found.append(claims.collapse(
                f"SVD, random and truncation baselines collapse at the lowest dim ({kind}): they "
                "keep less than half of MRL's accuracy above chance",
                kinds[kind]["MRL"], baselines[name], chance,
            ))  # fmt: skip
    between = {"1-NN": nearest["MRL"], "linear probe": probes["MRL"]}
    for kind, values in between.items():
        if set(values) - set(study.dims):
            found.append(claims.lies_between(
                f"MRL's interpolated dims lie between the trained ones, within the noise ({kind})",
                values, study.dims,
            ))  # fmt: skip
    return found
