"""One table and one picture of values at every prefix."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

from mrl_keras.files import atomic_file
from mrl_keras.nesting import NestingDims

# One line style and one marker for each series, so that a print without colour can be read.
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")


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
        with atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["dims", "trained", *self.columns])
            for dim in self.dims:
                values = [self.columns[name].get(dim, "") for name in self.columns]
                writer.writerow([dim, int(dim in self.trained_dims), *values])

    def plot(self, path, panels: Mapping[str, Sequence[str]], title: str = "") -> None:
        """Write a picture of the series over the dims, interpolated dims hollow.

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
        figure, axes = _figure(len(panels))
        for axis, (panel, names) in zip(axes, panels.items(), strict=True):
            for i, name in enumerate(names):
                self._draw(axis, name, i)
            axis.set_xscale("log", base=2)
            axis.set_xticks(self.trained_dims, [str(dim) for dim in self.trained_dims])
            axis.set(title=panel, xlabel="dims")
            axis.grid(alpha=0.3)
            axis.legend()
        axes[0].set_ylabel("top-1 accuracy (%)")
        figure.suptitle(title)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=120)

    def _draw(self, axis, name, place):
        values = sorted(self.columns[name].items())
        dims, percent = [dim for dim, _ in values], [100 * value for _, value in values]
        (line,) = axis.plot(dims, percent, _STYLES[place % len(_STYLES)], label=name)
        marker, colour = _MARKERS[place % len(_MARKERS)], line.get_color()
        line.set_marker(marker)
        line.set_markersize(6)
        inner = [i for i, dim in enumerate(dims) if dim not in self.trained_dims]
        if inner:
            axis.plot(
                [dims[i] for i in inner],
                [percent[i] for i in inner],
                linestyle="none",
                marker=marker,
                markersize=6,
                markerfacecolor="white",
                markeredgecolor=colour,
                zorder=3,
            )


def _figure(panels):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "mrl_keras[plots]"') from error
    figure = Figure(figsize=(5.2 * panels, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    return figure, axes
