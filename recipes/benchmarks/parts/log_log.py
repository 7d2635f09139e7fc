"""Growth on log-log axes: lines of several panels, and the exponents of power laws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrl_keras.plots import LINE_STYLES, MARKERS, new_figure, save_figure


class Panel(NamedTuple):
    """One pair of axes: `lines` maps labels to {x: y}, all above 0."""

    title: str
    x_label: str
    lines: Mapping[str, Mapping[int, float]]


class Power(NamedTuple):
    """y = c x^exponent: the exponent and its standard error, NaN for two points."""

    exponent: float
    error: float

    @classmethod
    def of(cls, points: Mapping[int, float]) -> Power:
        """The least squares fit of log y by log x over two points or more.

        >>> Power.of({1: 2.0, 10: 200.0, 100: 20000.0})
        Power(exponent=2.0, error=0.0)
        """
        x, y = np.log(list(points)), np.log(list(points.values()))
        x, y = x - x.mean(), y - y.mean()
        slope = float(x @ y / (x @ x))
        rest, free = y - slope * x, len(points) - 2
        error = math.sqrt(float(rest @ rest) / free / float(x @ x)) if free else math.nan
        return cls(round(slope, 9), round(error, 9))


def plot_panels(panels: Sequence[Panel], path, hollow=frozenset(), columns=2) -> None:
    """Draws the panels; a label has the same colour, dashes and marker in all of them.

    Args:
        panels: `Panel`s.
        path: PNG file to write.
        hollow: labels whose markers are not filled.
        columns: int, panels side by side.
    """
    labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
    rows = math.ceil(len(panels) / columns)
    figure, axes = new_figure((6 * columns, 5 * rows + 0.1 * len(labels)), columns, rows)
    handles = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, points in panel.lines.items():
            place = labels.index(label)
            (handles[label],) = axis.plot(
                list(points),
                list(points.values()),
                color=f"C{place % 10}",
                marker=MARKERS[place % len(MARKERS)],
                linestyle=LINE_STYLES[place % len(LINE_STYLES)],
                markerfacecolor="white" if label in hollow else None,
            )
        axis.set(xscale="log", yscale="log", xlabel=panel.x_label, title=panel.title)
        ticks = sorted({x for points in panel.lines.values() for x in points})
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30)
        axis.minorticks_off()
        low, high = axis.get_ylim()
        if high < 10 * low:  # powers of 10 alone would leave this axis without a number
            axis.set_yticks(*_spaced_ticks(low, high))
            axis.set_ylim(low, high)
        axis.grid(True, which="both", alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    shown = [label for label in labels if label in handles]
    figure.legend(
        [handles[label] for label in shown], shown, loc="outside lower center", ncols=3, fontsize=8
    )
    save_figure(figure, path, dpi=130)


def _spaced_ticks(low, high):
    """Five ticks at equal ratios within a range, and their labels."""
    ticks = np.geomspace(low, high, 7)[1:-1]
    return ticks, [f"{tick:.3g}" for tick in ticks]
