"""Adaptive classification: accuracy against the expected number of dims (Table 3, Figure 6)."""

from __future__ import annotations

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.cascade.curve import POLICIES
from mrl_keras.evaluation import CascadeEvaluator, LinearHeadEvaluator, PanelStyle, line_panels
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Figure, Page, Table, record
from recipes.report.parts.paper import paper_table

MEASURES = ("accuracy", "expected_dim", "cumulative_dim", "prefix_accuracy")
SHOWN = {"greedy": "MRL cascade, greedy thresholds", "joint": "MRL cascade, joint thresholds"}


def page(study) -> Page:
    evaluator = CascadeEvaluator(splits=study.options.splits)
    sources = tqdm(study.sources("MRL"), desc="Cascades", unit="run")
    curves = {source.seed: study.each(source, evaluator) for source in sources}
    points = {
        policy: {
            dim: {name: _measured(curves, policy, name, dim) for name in MEASURES}
            for dim in study.dims
        }
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
        "answers, and the sum of all dims asked on the way.",
        [_table(study, points, curves), _figure(study, points)],
        list(_verdicts(study, curves, points)),
    )


def _at(curve, policy, measure, dim):
    """Floats (splits,) of one early stop; `curve` is what `CascadeEvaluator.each` yields."""
    return curve[f"cascade-{policy}/{measure}/{dim}"]


def _measured(curves, *at):
    """`Measured` over seeds, each the mean of its splits."""
    return Measured({seed: float(_at(curve, *at).mean()) for seed, curve in curves.items()})


def _table(study, points, curves):
    header = ["early stop at", "thresholds", "accuracy (%)", "deviation over splits"]
    header += ["expected dims", "summed dims", "that prefix alone (%)"]
    rows, records = [], []
    for policy, by_dim in points.items():
        for dim, found in by_dim.items():
            over_splits = np.mean(
                [_at(curve, policy, "accuracy", dim).std(ddof=1) for curve in curves.values()]
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
        paper_table(3, {"early stop at": "max_dims", "accuracy (%)": "top1_mean",
                        "deviation over splits": "top1_std",
                        "expected dims": "expected_dims_mean"}),
    )  # fmt: skip


def _figure(study, points):
    alone = study.measured(LinearHeadEvaluator())["top1/linear"]

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
        style = PanelStyle(ticks=list(study.dims), share_y=True)
        line_panels(path, panels, "expected dims", "top-1 accuracy (%)", style)

    return Figure(
        "cascade_figure", "Accuracy against expected dims (Figure 6)",
        "A point above and left of the lines without a cascade spends fewer dims for the accuracy.",
        "cascade", draw,
    )  # fmt: skip


def _verdicts(study, curves, points):
    width = study.dims.width

    def early_stops():
        for dim, found in points["greedy"].items():
            gaps = [
                _at(curve, "greedy", "accuracy", dim)
                - _at(curve, "greedy", "prefix_accuracy", width)
                for curve in curves.values()
            ]
            costs = found["expected_dim"].mean, found["cumulative_dim"].mean
            yield found["accuracy"], np.concatenate(gaps), *costs

    def over_splits(of_curve):
        """{dim: `Measured`} whose "seeds" are all splits of all seeds; both policies share them."""
        return {
            dim: Measured(
                dict(
                    enumerate(np.concatenate([of_curve(c, dim) for c in curves.values()]).tolist())
                )
            )
            for dim in study.dims[1:]
        }

    yield claims.fraction_of_the_dims(
        "The cascade reaches the full width's accuracy with a fraction of the dims (greedy)",
        list(early_stops()), points["greedy"][width]["prefix_accuracy"], width,
    )  # fmt: skip
    yield claims.at_least_as_accurate(
        "Joint thresholds are at least as accurate as greedy ones at equal dims (not in the "
        "paper), within the noise over seeds and splits",
        over_splits(joint_accuracy), over_splits(greedy_at_equal_dims),
    )  # fmt: skip


def joint_accuracy(curve, dim):
    """Floats (splits,) of the early stop `dim`."""
    return _at(curve, "joint", "accuracy", dim)


def greedy_at_equal_dims(curve, dim):
    """Greedy's accuracy in each split at the dims that the joint thresholds spend there.

    Between greedy's own early stops it is interpolated: a random choice between the two for each
    image has that accuracy and those dims.
    """
    expected, accuracy = (
        np.stack([v for name, v in curve.items() if name.startswith(f"cascade-greedy/{measure}/")])
        for measure in ("expected_dim", "accuracy")
    )
    spent = _at(curve, "joint", "expected_dim", dim)
    return np.array(
        [np.interp(spent[i], expected[:, i], accuracy[:, i]) for i in range(len(spent))]
    )
