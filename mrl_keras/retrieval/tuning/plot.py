"""The picture of a tuning: the paper's Figure 8 for one's own index."""

from __future__ import annotations

from mrl_keras.files import as_path
from mrl_keras.plots import MARKERS, new_figure, save_figure
from mrl_keras.retrieval.tuning.points import pareto_front


def plot_tuning(result, path=None):
    """See `TuningResult.plot`."""
    path = None if path is None else as_path(path)
    figure, axes = new_figure((10.4, 4.2), columns=2, sharey=True)
    by_flops, by_time = axes[0]
    _draw(by_flops, result, "mflops", "MFLOPs for each query")
    _draw(by_time, result, "seconds", "measured seconds for each query of a batch")
    by_flops.set_ylabel(f"{result.metric} (%)")
    handles, names = by_flops.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8)
    figure.suptitle(f"Adaptive retrieval: {result.metric} against cost")
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw(axis, result, cost, label):
    """Points by D_s, each with its own marker; the front joined; the choice circled."""

    def line(points, **style):
        costs = [getattr(point, cost) for point in points]
        axis.plot(costs, [100 * point.value for point in points], **style)

    plans = [point for point in result.points if getattr(point, cost) is not None]
    for place, dim in enumerate(sorted({point.plan.shortlist_dim for point in plans})):
        ours = [point for point in plans if point.plan.shortlist_dim == dim]
        marker = MARKERS[place % len(MARKERS)]
        line(ours, linestyle="", marker=marker, markersize=4, alpha=0.6, label=f"D_s = {dim}")
    line(pareto_front(plans, cost), color="black", linewidth=1, label="Pareto front")
    circle = {"color": "black", "linestyle": "", "markersize": 13}
    line([result.full_width], marker="*", label="full width", **circle)
    line([result.chosen], marker="o", markerfacecolor="none", label="chosen", **circle)
    axis.axhline(
        100 * (result.full_width.value - result.tolerance),
        color="black",
        linestyle=":",
        linewidth=1,
        label="full width - tolerance",
    )
    axis.set_xscale("log")
    axis.set_xlabel(label)
    axis.grid(alpha=0.3, which="both")
