"""The paper's tables, to stand beside the report's own: recipes/report/paper has their numbers."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping

from recipes.report.parts.page import markdown_table

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "paper"
SETTING = "ResNet50 on ImageNet-1K, d = 2048"


def paper_table(
    number: int, columns: Mapping[str, str], setting=SETTING, where: Mapping[str, str] | None = None
) -> str:
    """Markdown of some columns of a table of the paper, marked as the paper's.

    Args:
        number: int, of the table.
        columns: {heading: the CSV's column}.
        setting: str, model and data. Default the paper's ResNet50.
        where: {the CSV's column: value} of the rows that are shown. Default all rows.

    Raises:
        ValueError: no such column, or no such row.

    >>> print(paper_table(29, {"dims": "dims", "log": "mrl_log"}).splitlines()[4])
    | 8 | 62.19 |
    """
    rows = _read(number)
    missing = sorted({*columns.values(), *(where or ())} - set(rows[0]))
    if missing:
        raise ValueError(f"Table {number} has no columns {missing}. It has {list(rows[0])}.")
    kept = [row for row in rows if all(row[name] == value for name, value in (where or {}).items())]
    if not kept:
        raise ValueError(f"Table {number} has no row where {where}.")
    shown = markdown_table(
        list(columns), [[row[name] for name in columns.values()] for row in kept]
    )
    return f"The paper's Table {number} ({setting}):\n\n{shown}\n"


def _read(number):
    with open(FOLDER / f"table_{number:02d}.csv", newline="") as file:
        return list(csv.DictReader(file))
