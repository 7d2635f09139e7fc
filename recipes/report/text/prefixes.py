"""Retrieval with judged documents at every dim: prefixes, and reductions of the embedding."""

from __future__ import annotations

import numpy as np

from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, Table, dims_figure, dims_table, record
from recipes.report.text.study import FIRST, JUDGE, MATRICES, index_dims


def page(study) -> Page:
    metrics = list(study.measured[study.encoders[0].name])
    parts = []
    for metric in metrics:
        stem = metric.replace("@", "_")
        for encoder in study.encoders:
            parts.append(
                dims_table(
                    f"{stem}_{encoder.name.lower()}",
                    f"{metric} of {encoder.name}",
                    _says(metric, encoder),
                    study.measured[encoder.name][metric],
                    encoder.dims,
                )
            )
        parts.append(_figure(study, metric, stem))
    verdicts = []
    if study.nested and study.plain:
        share, more = _kept(study, metrics[0])
        parts.append(share)
        verdicts = more
    return Page(
        "prefixes",
        "Judged retrieval at every prefix",
        _about(study),
        parts,
        [*verdicts, *_own_verdicts(study, metrics[0])],
    )


def _about(study):
    queries = study.texts.queries[JUDGE]
    wanted = np.bincount(study.texts.judgements[JUDGE][:, 0], minlength=len(queries))
    best = np.mean(np.minimum(wanted, 10)) / 10
    return (
        f"{len(queries):,} queries with {wanted.sum():,} judgements, "
        f"{len(study.texts.documents):,} documents (title and text). Exact search by the cosine of "
        "each reduction alone. nDCG@10 and recall@100 as BEIR takes them; mAP@10 is divided by 10, "
        f"as everywhere here, so that with these judgements no search has more than "
        f"{100 * best:.2f} %. “{FIRST}” are the embedding's first components: the MRL prefixes "
        "of a nested encoder, plain truncation of another one. PCA and SVD (PCA without its mean) "
        "are fitted on the documents, after L2 normalisation; JL is a Gaussian random projection, "
        f"the mean of {MATRICES} matrices. PCA at all dims is not the embedding itself, since the "
        "mean is taken away before the cosine."
    )


def _says(metric, encoder):
    what = "trained" if encoder.nested else "the full width"
    trained = ", ".join(map(str, encoder.dims))
    return f"{metric} (%); {trained} is {what}, ~ marks the other dims."


def _figure(study, metric, stem):
    panels = {one.name: study.measured[one.name][metric] for one in study.encoders}
    ticks = sorted({dim for one in study.encoders for dim in index_dims(one.width)})
    trained = "; ".join(f"{e.name} {', '.join(map(str, e.dims))}" for e in study.encoders)
    return dims_figure(
        f"{stem}_figure",
        f"{metric} over the dims",
        f"Hollow markers lie half-way between. Trained dims: {trained}.",
        f"{stem}_{study.encoders[0].name.lower()}",
        panels,
        ticks,
        f"{metric} (%)",
        share_y=True,
    )


def kept(value: Measured, full: Measured) -> Measured:
    """The share of `full` that `value` keeps, with each query's part of its error.

        r = mean(v) / mean(f),    each query has r + (v_q - r f_q) / mean(f)

    whose mean is r and whose deviation is that of a ratio of means, to first order: differences
    of two shares are then tested query by query.

    >>> kept(Measured.of_examples({0: [1, 0]}), Measured.of_examples({0: [1, 1]})).mean
    0.5
    """
    if full.mean == 0.0:
        raise ValueError("The full width finds no relevant document: there is no share of it.")
    share = value.mean / full.mean
    each = {s: share + (value.each[s] - share * full.each[s]) / full.mean for s in value.each}
    return Measured.of_examples(each)


def _kept(study, metric):
    """(table of shares kept, verdicts that compare the nested encoder with the plain one)."""
    one, other = study.nested, study.plain
    shares = {}
    for encoder in (one, other):
        systems = study.measured[encoder.name][metric]
        full = systems[FIRST][encoder.width]
        for system in (FIRST, "PCA"):
            by_part = {
                encoder.width // dim: kept(value, full)
                for dim, value in systems[system].items()
                if encoder.width % dim == 0 and dim < encoder.width
            }
            shares[f"{encoder.name}, {system}"] = dict(sorted(by_part.items()))
    parts = sorted(set.intersection(*(set(by_part) for by_part in shares.values())), reverse=True)
    rows, records = [], []
    for part in parts:
        rows.append([f"1/{part}", *(by_part[part].text() for by_part in shares.values())])
        for system, by_part in shares.items():
            records.append({"share_of_the_dims": f"1/{part}", "system": system})
            records[-1] |= record(by_part[part])
    table = Table(
        "kept",
        f"{metric} kept of the full width",
        f"{metric} at a share of the dims over that of the encoder's full width (%), each "
        f"encoder with its own width: {one.width} and {other.width}.",
        ["share of the dims", *shares],
        rows,
        records,
    )
    # By the share kept, most first: "the lowest" of a claim is the smallest share of the dims.
    at = {name: {-p: by[p] for p in parts} for name, by in shares.items()}
    ours, theirs = at[f"{one.name}, {FIRST}"], at[f"{other.name}, {FIRST}"]
    gains = {
        encoder.name: {
            dim: _gain(study.measured[encoder.name][metric], dim)
            for dim in study.measured[encoder.name][metric]["PCA"]
            if dim < min(one.width, other.width)
        }
        for encoder in (one, other)
    }
    return table, [
        shares_compared(
            f"MRL prefixes keep more of their full width's {metric} than plain truncation of an "
            "encoder trained without nesting, at every share of the dims",
            ours,
            theirs,
        ),
        shares_compared(
            f"They keep more of it than PCA to the same share of the dims of that encoder "
            f"({metric})",
            ours,
            at[f"{other.name}, PCA"],
        ),
        claims.at_least_as_accurate(
            f"PCA gains at least as much {metric} over the first dims for the encoder trained "
            "without nesting as for the nested one",
            gains[other.name],
            gains[one.name],
        ),
    ]


def shares_compared(claim, ours, theirs):
    """Holds if `ours` is above `theirs` by more than the noise at every share of the dims.

    Args:
        claim: str.
        ours, theirs: {-n: `Measured` share kept with 1/n of the dims}.
    """
    found = {dim: claims.difference(ours[dim], theirs[dim]) for dim in sorted(ours)}
    shown = ", ".join(f"1/{-dim}: {gap.text()}" for dim, gap in found.items())
    holds = all(gap.above for gap in found.values())
    numbers = f"difference in points of the share kept, by share of the dims: {shown}"
    missed = [f"1/{-dim}" for dim, gap in found.items() if not gap.above]
    if missed:
        numbers += f"; not above the noise at {', '.join(missed)}"
    return claims.verdict(claim, holds, numbers)


def _gain(systems, dim):
    """PCA less the first dims, query by query."""
    pair = systems["PCA"][dim], systems[FIRST][dim]
    return Measured.of_examples({0: pair[0].each[0] - pair[1].each[0]})


def _own_verdicts(study, metric):
    """Claims about one encoder's own dims."""
    if study.nested is None:
        return
    encoder = study.nested
    systems = study.measured[encoder.name][metric]
    first = systems[FIRST]
    trained = {dim: first[dim] for dim in encoder.dims if dim < encoder.width and dim in first}
    below = {dim: value for dim, value in first.items() if dim < min(encoder.dims)}
    between = {dim: value for dim, value in first.items() if dim >= min(encoder.dims)}
    name = encoder.name
    if trained:
        yield claims.at_least_as_accurate(
            f"At the trained dims MRL prefixes are at least as accurate as PCA of the same "
            f"embedding ({name}, {metric})",
            trained,
            systems["PCA"],
        )
    if below:
        yield claims.at_least_as_accurate(
            f"So are they below the smallest trained dim, {min(encoder.dims)} ({name}, {metric})",
            below,
            systems["PCA"],
        )
    if set(between) - set(encoder.dims):
        yield claims.lies_between(
            f"Interpolated dims lie between their trained neighbours ({name}, {metric})",
            between,
            encoder.dims,
        )
