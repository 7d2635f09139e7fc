"""Adaptive classification: accuracy against the expected number of dims (Table 3, Figure 6)."""

from __future__ import annotations

import numpy as np
import tqdm

from mrl_keras.cascade import CurveOptions, cascade_curve
from mrl_keras.cascade.curve import POLICIES
from mrl_keras.evaluation import PanelStyle, line_panels
from recipes.report.pages.accuracy import linear_accuracy
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Figure, Page, Table, record

MEASURES = ("accuracy", "expected_dim", "cumulative_dim", "prefix_accuracy")
SHOWN = {"greedy": "MRL cascade, greedy thresholds", "joint": "MRL cascade, joint thresholds"}


def page(study) -> Page:
    curves = _curves(study)
    points = {
        policy: {dim: _measured(curves, policy, i) for i, dim in enumerate(study.dims)}
        for policy in POLICIES
    }
    return Page(
        "cascade",
        "Adaptive classification (Table 3, Figure 6)",
        f"MRL's smallest prefix whose confidence passes its threshold answers. Thresholds are "
        f"learned on a random fifth of the test images and measured on the rest, over "
        f"{study.options.splits} splits for each seed, with early stopping at every dim. Greedy: "
        "the paper's thresholds, step by step; joint: optimised together, within the dims that "
        "greedy spends on the held-out part. They often spend less, so their claim compares them "
        "with greedy's curve, interpolated between its early stops, at the dims that they spend in "
        "each split. Expected dims are counted both ways: the dim that "
        "answers, and the sum of all dims asked on the way. The paper's (ImageNet-1K, ResNet50): "
        "the cascade has 76.3 % at about 37 expected dims, as FF-512 has.",
        [_table(study, points, curves), _figure(study, points)],
        list(_verdicts(study, curves, points)),
    )


def _curves(study):
    """{seed: floats (policies, dims, splits, measures)}."""
    found = {}
    runs = study.of("MRL").items()
    for seed, run in tqdm.tqdm(runs, desc="Cascades", unit="run"):
        arrays = study.of_test(run)

        def compute(arrays=arrays):
            options = CurveOptions(splits=study.options.splits)
            rows = cascade_curve(arrays["logits"], arrays["labels"], study.dims, options)
            values = np.array([[getattr(row, name) for name in MEASURES] for row in rows])
            shape = (len(POLICIES), len(study.dims), *values.shape[1:])
            return {"values": values.reshape(shape).swapaxes(2, 3)}

        key = {"splits": study.options.splits}
        found[seed] = study.values("cascade", run, key, compute)["values"]
    return found


def _measured(curves, policy, place):
    """{measure: `Measured` over seeds, each the mean of its splits}, of one early stop."""
    at = POLICIES.index(policy), place
    return {
        name: Measured({seed: float(v[at][:, i].mean()) for seed, v in curves.items()})
        for i, name in enumerate(MEASURES)
    }


def _table(study, points, curves):
    header = ["early stop at", "thresholds", "accuracy (%)", "deviation over splits"]
    header += ["expected dims", "summed dims", "that prefix alone (%)"]
    rows, records = [], []
    for policy, by_dim in points.items():
        for place, (dim, found) in enumerate(by_dim.items()):
            over_splits = np.mean(
                [v[POLICIES.index(policy), place, :, 0].std(ddof=1) for v in curves.values()]
            )
            costs = [found[name].text(1.0) for name in ("expected_dim", "cumulative_dim")]
            rows.append(
                [dim, policy, found["accuracy"].text(), f"{100 * over_splits:.2f}", *costs,
                 found["prefix_accuracy"].text()]
            )  # fmt: skip
            for name, measured in found.items():
                about = {"policy": policy, "early_stop": dim, "measure": name}
                records.append(about | record(measured))
    return Table(
        "cascade", "Cascades with early stopping (Table 3)",
        "Accuracy and dims spent by cascades that may go up to each dim; means over the splits, ± "
        "over seeds. Joint rows may use all dims within greedy's dims.",
        header, rows, records,
    )  # fmt: skip


def _figure(study, points):
    alone = linear_accuracy(study)

    def lines(cost):
        found = {}
        for policy, by_dim in points.items():
            found[SHOWN[policy]] = [
                (v[cost].mean, 100 * v["accuracy"].mean, 100 * v["accuracy"].spread)
                for v in by_dim.values()
            ]
        for system in ("MRL", "FF"):
            found[f"{system}, one dim for all images"] = [
                (dim, 100 * v.mean, 100 * v.spread)
                for dim, v in alone.get(system, {}).items()
                if dim in study.dims
            ]
        return {name: line for name, line in found.items() if line}

    panels = {
        "dims of the prefix that answers": lines("expected_dim"),
        "sum of the dims that were asked": lines("cumulative_dim"),
    }

    def draw(path):
        xlabel, ylabel = "expected dims", "top-1 accuracy (%)"
        style = PanelStyle(ticks=list(study.dims), share_y=True)
        line_panels(path, panels, xlabel, ylabel, style)

    return Figure(
        "cascade_figure", "Accuracy against expected dims (Figure 6)",
        "A point above and left of the lines without a cascade spends fewer dims for the accuracy.",
        "cascade", draw,
    )  # fmt: skip


def _verdicts(study, curves, points):
    def early_stops():
        for place, found in enumerate(points["greedy"].values()):
            gaps = [v[0, place, :, 0] - v[0, -1, :, 3] for v in curves.values()]
            costs = found["expected_dim"].mean, found["cumulative_dim"].mean
            yield found["accuracy"], np.concatenate(gaps), *costs

    yield claims.fraction_of_the_dims(
        "The cascade reaches the full width's accuracy with a fraction of the dims (greedy)",
        list(early_stops()), points["greedy"][study.dims.width]["prefix_accuracy"],
        study.dims.width,
    )  # fmt: skip
    yield claims.at_least_as_accurate(
        "Joint thresholds are at least as accurate as greedy ones at equal dims (not in the "
        "paper), within the noise over seeds and splits",
        {dim: _over_splits(curves, study, dim, joint_accuracy) for dim in study.dims[1:]},
        {dim: _over_splits(curves, study, dim, greedy_at_equal_dims) for dim in study.dims[1:]},
    )


def joint_accuracy(values, place):
    """Floats (splits,) of one early stop; `values` (policies, dims, splits, measures)."""
    return values[POLICIES.index("joint"), place, :, MEASURES.index("accuracy")]


def greedy_at_equal_dims(values, place):
    """Greedy's accuracy in each split at the dims that the joint thresholds spend there.

    Between greedy's own early stops it is interpolated: a random choice between the two for each
    image has that accuracy and those dims.
    """
    accuracy, expected = MEASURES.index("accuracy"), MEASURES.index("expected_dim")
    greedy, joint = (values[POLICIES.index(policy)] for policy in ("greedy", "joint"))
    return np.array(
        [
            np.interp(joint[place, i, expected], greedy[:, i, expected], greedy[:, i, accuracy])
            for i in range(values.shape[2])
        ]
    )


def _over_splits(curves, study, dim, of_splits):
    """A `Measured` whose "seeds" are all splits of all seeds, which both policies share."""
    place = study.dims.index(dim)
    values = [value for v in curves.values() for value in of_splits(v, place)]
    return Measured(dict(enumerate(map(float, values))))
