"""The tables of the retrieval benchmark over several runs: medians and ranges."""

from __future__ import annotations

import csv
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The median of the runs, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        return cls(float(np.median(values)), float(min(values)), float(max(values)))

    def text(self, digits=2) -> str:
        """The median, and the range where it shows.

        >>> Spread.of([1.0, 1.25, 3.0]).text(1), Spread.of([2.0]).text()
        ('1.2 (1.0 to 3.0)', '2.00')
        """
        median, low, high = (f"{value:,.{digits}f}" for value in self)
        return median if low == high else f"{median} ({low} to {high})"


def read_table(path):
    """The rows of a CSV, `run` 1 where none is named; an empty list if the file is missing."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{**row, "run": row.get("run") or "1"} for row in csv.DictReader(file)]


def by_size_and_system(rows) -> dict:
    """{n: {system: its rows that were measured, one for each run; none where it was skipped}}."""
    found = {}
    for row in rows:
        measured = found.setdefault(int(row["n"]), {}).setdefault(row["system"], [])
        if row["us_per_query"] != "":
            measured.append(row)
    return dict(sorted(found.items()))


def spread(rows, column, over=None) -> Spread | None:
    """The `Spread` of a column, or of its ratio to the column `over`; `None` where it is empty."""
    pairs = [(row.get(column), row[over] if over else 1) for row in rows]
    values = [float(value) / float(divisor) for value, divisor in pairs if value not in (None, "")]
    return Spread.of(values) if values else None
