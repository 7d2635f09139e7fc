"""How the retrieval benchmark's systems grow with the number of rows, on log-log axes."""

from __future__ import annotations

from recipes.benchmarks.parts.log_log import Panel, plot_panels
from recipes.benchmarks.parts.retrieval_runs import by_size_and_system, spread

GROWING = {
    "us_per_query": "Batches of 256: microseconds a query",
    "p50_ms": "One query at a time: median milliseconds",
    "memory_bytes": "Memory of the index, bytes",
    "build_seconds": "Building the index, seconds",
}


def points_by_rows(rows) -> dict:
    """{column of `GROWING`: {system: {n: median of its runs}}}, without what was not measured.

    Args:
        rows: those of speed.csv.
    """
    found = {column: {} for column in GROWING}
    for n, systems in by_size_and_system(rows).items():
        for system, runs in systems.items():
            for column, lines in found.items():
                value = spread(runs, column)
                if value and value.median > 0:
                    lines.setdefault(system, {})[n] = value.median
    return found


def plot_growth(rows, path):
    """Draws medians against N, a line for each system, hollow where it is below equal mAP.

    Args:
        rows: those of speed.csv.
        path: PNG file to write.
    """
    low = {row["system"] for row in rows if str(row["within_tolerance"]) == "False"}
    panels = [
        Panel(GROWING[column], "rows N", lines)
        for column, lines in points_by_rows(rows).items()
        if lines
    ]
    plot_panels(panels, path, hollow=low)
