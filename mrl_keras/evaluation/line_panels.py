"""Panels of lines that are told apart without colour, by their dashes and markers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from mrl_keras.files import atomic_file

_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def line_panels(
    path,
    panels: Mapping[str, Mapping[str, Sequence]],
    xlabel: str,
    ylabel: str,
    ticks: Sequence[float] | None = None,
    hollow: Sequence[float] = (),
    log_base: float | None = 2,
    share_y: bool = False,
) -> None:
    """Writes a picture of some panels of lines side by side, with one legend below them.

    A line keeps its dashes, marker and colour in all panels.

    Args:
        path: where to write; the ending gives the format, such as ".png".
        panels: {title: {name of a line: points}}; a point is (x, y) or (x, y, half the length of
            its error bar), NaN for none.
        xlabel: below each panel.
        ylabel: left of the first panel.
        ticks: the x to label. Default None, matplotlib's.
        hollow: the x whose markers are hollow, such as interpolated dims. Default none.
        log_base: of the x axis; `None` for a linear one. Default 2.
        share_y: bool, one scale for all panels. Default False.

    Raises:
        ValueError: no panel, or a panel without a point.
        ImportError: matplotlib is missing.

    Example:

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "lines.png")
    >>> line_panels(path, {"linear": {"MRL": [(2, 60.0), (4, 70.0, 0.5)]}}, "dims", "top-1 (%)")
    >>> os.path.getsize(path) > 5000
    True
    """
    empty = [title for title, lines in panels.items() if not any(map(len, lines.values()))]
    if not panels or empty:
        raise ValueError(
            f"Each panel needs at least one point. Received none in {empty or panels}."
        )
    figure, axes = _figure(len(panels), share_y)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            _draw(axis, name, names.index(name), sorted(points), set(hollow))
        if log_base:
            axis.set_xscale("log", base=log_base)
        if ticks is not None:
            axis.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
        axis.set(title=title, xlabel=xlabel)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(ylabel)
    _legend(figure, axes, len(panels))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw(axis, name, place, points, hollow):
    x, y = [point[0] for point in points], [point[1] for point in points]
    errors = [point[2] if len(point) > 2 and not math.isnan(point[2]) else 0.0 for point in points]
    style, marker, colour = (
        _STYLES[place % len(_STYLES)],
        _MARKERS[place % len(_MARKERS)],
        f"C{place % 10}",
    )
    axis.errorbar(x, y, errors if any(errors) else None, fmt=style, color=colour, capsize=2)
    for inner, face in ((False, colour), (True, "white")):
        chosen = [pair for pair in zip(x, y, strict=True) if (pair[0] in hollow) == inner]
        if chosen:
            axis.plot(
                *zip(*chosen, strict=True),
                linestyle="none",
                marker=marker,
                markersize=6,
                markerfacecolor=face,
                markeredgecolor=colour,
                zorder=3,
            )
    # The legend's entry, which has both the dashes and the marker.
    axis.plot([], [], style, marker=marker, color=colour, label=name)


def _legend(figure, axes, panels):
    handles = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    longest = max(map(len, handles))
    columns = max(1, min(len(handles), int(70 * panels / (longest + 9))))
    figure.legend(
        _by_rows(list(handles.values()), columns),
        _by_rows(list(handles), columns),
        loc="outside lower center",
        ncols=columns,
        handlelength=3.5,
        fontsize=9,
    )


def _by_rows(items, columns):
    """matplotlib fills a legend by columns; this order makes it read by rows."""
    return list(itertools.chain.from_iterable(items[i::columns] for i in range(columns)))


def _figure(panels, share_y):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "mrl_keras[plots]"') from error
    figure = Figure(figsize=(0.8 + 5.0 * panels, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, sharey=share_y, squeeze=False)[0]
