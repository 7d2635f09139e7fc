"""What all plots share: figures that need no display, line styles, and atomic saving."""

from __future__ import annotations

from mrl_keras.files import atomic_file

# A line keeps its dashes and marker, so that a print without colour can be read.
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")


def new_figure(size, columns=1, rows=1, **options):
    """A matplotlib figure that draws into memory, and its axes.

    Args:
        size: (width, height) in inches.
        columns, rows: int, axes side by side and one below another. Default 1.
        **options: of `matplotlib.figure.Figure.subplots`, such as `sharey`.

    Returns:
        (figure, array of axes (rows, columns)).

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "mrl_keras[plots]"') from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(figure, path, dpi=120) -> None:
    """Writes a figure in the format of the path's ending; the file is whole or absent."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
