"""Accuracy over the dims as a table, and lines that are told apart without colour."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from mrl_keras.files import as_path, write_csv
from mrl_keras.nesting import NestingDims
from mrl_keras.plots import LINE_STYLES, MARKERS, new_figure, save_figure


class AccuracyTable:
    """Values by dim and by series, such as the accuracy of several models at every prefix.

    Args:
        columns: mapping from a series' name to its mapping from dim to value in [0, 1].
            Series may lack dims.
        trained_dims: the dims that were trained; the others are interpolated and are
            marked with "~".

    Example:

    >>> from mrl_keras.evaluation import AccuracyTable
    >>> print(AccuracyTable({"MRL": {2: 0.5, 3: 0.75}, "FF": {2: 0.25}}, [2]).to_text())
     dims      MRL       FF
        2    50.00    25.00
       ~3    75.00        -
    """

    def __init__(self, columns: Mapping[str, Mapping[int, float]], trained_dims: Sequence[int]):
        if not columns or not any(columns.values()):
            raise ValueError("`columns` must hold at least one value. Received none.")
        self.columns = {name: dict(values) for name, values in columns.items()}
        self.trained_dims = NestingDims(trained_dims)

    @property
    def dims(self) -> tuple[int, ...]:
        """All dims of all series, ascending."""
        return tuple(sorted({dim for values in self.columns.values() for dim in values}))

    def to_text(self) -> str:
        """Percent with two decimals, one row for each dim."""
        names = list(self.columns)
        widths = [max(8, len(name)) for name in names]
        lines = [self._line("dims", names, widths)]
        for dim in self.dims:
            label = str(dim) if dim in self.trained_dims else f"~{dim}"
            values = [self.columns[name].get(dim) for name in names]
            shown = ["-" if value is None else f"{100 * value:.2f}" for value in values]
            lines.append(self._line(label, shown, widths))
        return "\n".join(lines)

    @staticmethod
    def _line(label, cells, widths):
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        return " ".join([f"{label:>5}", *padded])

    def write_csv(self, path) -> None:
        """One row for each dim: `dims`, `trained` (0 or 1), one column for each series."""
        write_csv(
            path,
            [
                {"dims": dim, "trained": int(dim in self.trained_dims)}
                | {name: values.get(dim, "") for name, values in self.columns.items()}
                for dim in self.dims
            ],
        )

    def plot(self, path, panels: Mapping[str, Sequence[str]], title: str = "") -> None:
        """Writes a picture of the series over the dims, interpolated dims hollow.

        Args:
            path: where to write; the ending gives the format, such as ".png".
            panels: mapping from a panel's title to the names of its series.
            title: above all panels. Default none.

        Raises:
            ValueError: a series that is not in the table.
            ImportError: matplotlib is missing.
        """
        unknown = [name for names in panels.values() for name in names if name not in self.columns]
        if unknown:
            raise ValueError(f"No series is named {unknown}. The table has {list(self.columns)}.")
        lines = {
            panel: {
                name: [(dim, 100 * value) for dim, value in self.columns[name].items()]
                for name in names
            }
            for panel, names in panels.items()
        }
        style = PanelStyle(
            ticks=self.trained_dims,
            hollow=[dim for dim in self.dims if dim not in self.trained_dims],
            share_y=True,
            title=title,
        )
        line_panels(path, lines, "dims", "top-1 accuracy (%)", style)


@dataclasses.dataclass(frozen=True)
class PanelStyle:
    """How `line_panels` draws.

    Args:
        ticks: the x to label. Default None, matplotlib's.
        hollow: the x whose markers are hollow, such as interpolated dims. Default none.
        log_base: of the x axis; `None` for a linear one. Default 2.
        share_y: bool, one scale for all panels. Default False.
        title: above all panels. Default none.
    """

    ticks: Sequence[float] | None = None
    hollow: Sequence[float] = ()
    log_base: float | None = 2
    share_y: bool = False
    title: str = ""


def line_panels(
    path,
    panels: Mapping[str, Mapping[str, Sequence]],
    xlabel: str,
    ylabel: str,
    style: PanelStyle | None = None,
) -> None:
    """Writes a picture of some panels of lines side by side, with one legend below them.

    A line keeps its dashes, marker and colour in all panels.

    Args:
        path: where to write; the ending gives the format, such as ".png".
        panels: {title: {name of a line: points}}; a point is (x, y) or (x, y, half the length of
            its error bar), NaN for none.
        xlabel: below each panel.
        ylabel: left of the first panel.
        style: `PanelStyle`: ticks, hollow markers, scales and title. Default None, its
            own defaults.

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
    path = as_path(path)
    empty = [title for title, lines in panels.items() if not any(map(len, lines.values()))]
    if not panels or empty:
        raise ValueError(
            f"Each panel needs at least one point. Received none in {empty or panels}."
        )
    style = style or PanelStyle()
    figure, ((*axes,),) = new_figure(
        (0.8 + 5.0 * len(panels), 4.8), len(panels), sharey=style.share_y
    )
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            _draw(axis, name, names.index(name), sorted(points), set(style.hollow))
        if style.log_base:
            some = (2, 5) if style.log_base == 10 else None  # labels at 0.1, 0.2, 0.5, 1, ...
            axis.set_xscale("log", base=style.log_base, subs=some)
        if style.ticks is not None:
            axis.set_xticks(list(style.ticks), [f"{tick:g}" for tick in style.ticks])
            axis.minorticks_off()
        elif style.log_base == 10:
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("{x:g}")
        axis.set(title=title, xlabel=xlabel)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(ylabel)
    _legend(figure, axes, len(panels))
    figure.suptitle(style.title)
    save_figure(figure, path, dpi=110)


def _draw(axis, name, place, points, hollow):
    x, y = [point[0] for point in points], [point[1] for point in points]
    errors = [point[2] if len(point) > 2 and not math.isnan(point[2]) else 0.0 for point in points]
    dashes, marker = LINE_STYLES[place % len(LINE_STYLES)], MARKERS[place % len(MARKERS)]
    colour = f"C{place % 10}"
    axis.errorbar(x, y, errors if any(errors) else None, fmt=dashes, color=colour, capsize=2)
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
    axis.plot([], [], dashes, marker=marker, color=colour, label=name)


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
    """The order in which a legend, which matplotlib fills by columns, reads by rows."""
    return list(itertools.chain.from_iterable(items[i::columns] for i in range(columns)))
