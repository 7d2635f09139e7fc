"""Pictures of answers: the image that was asked, and the images that were found for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """One query and its answers.

    Attributes:
        title: str, above the line.
        asked: image (height, width, channels) of 0 to 255, or `None` for a query that is none.
        found: pairs (image, caption), best first.
    """

    title: str
    asked: np.ndarray | None
    found: Sequence[tuple[np.ndarray, str]]


def draw_sheet(path, lines: Sequence[Line]) -> None:
    """Draws one line for each query into a PNG; images of one channel are grey.

    Args:
        path: local, where to write.
        lines: `Line`s, at least one.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A sheet needs matplotlib: pip install "mrl_keras[plots]"') from error
    shown = [image for line in lines for image, _ in line.found]
    aspect = shown[0].shape[1] / shown[0].shape[0] if shown else 1.0
    left = int(any(line.asked is not None for line in lines))
    columns = max(1, left + max(len(line.found) for line in lines))
    size = 1.3 * max(1.0, aspect / 1.5) * columns, 1.6 * len(lines) + 0.2
    figure = Figure(figsize=size, layout="constrained")
    for axes, line in zip(figure.subplots(len(lines), columns, squeeze=False), lines, strict=True):
        for axis in axes:
            axis.axis("off")
        if line.asked is not None:
            _draw(axes[0], line.asked, "query")
        for axis, (image, caption) in zip(axes[left:], line.found, strict=False):
            _draw(axis, image, caption)
        axes[0].text(0, 1.3, line.title, transform=axes[0].transAxes, fontsize=9)
    figure.savefig(path, format="png", dpi=100)


def _draw(axis, image, caption):
    grey = image.shape[-1] == 1
    axis.imshow(image[..., 0] if grey else np.clip(image, 0, 255).astype("uint8"), cmap="gray")
    axis.set_title(caption, fontsize=8)
