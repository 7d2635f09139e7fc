"""The table of all systems of the retrieval benchmark, one row each, for every N."""

from __future__ import annotations

from mrl_keras.files import write_text
from recipes.benchmarks.parts.retrieval_runs import by_size_and_system, spread

# (heading, column, column that divides it, decimals)
_COLUMNS = (
    ("batches: us a query", "us_per_query", None, 1),
    ("x export", "us_per_query", "export_us_per_query", 2),
    ("processor time, x export", "processor_us", "export_processor_us", 2),
    ("one query: p50 ms", "p50_ms", None, 3),
    ("x export", "p50_ms", "export_p50_ms", 2),
    ("p99 ms", "p99_ms", None, 3),
    ("memory, x database", "memory_ratio", None, 2),
    ("build, s", "build_seconds", None, 1),
)


def write_peers(rows, path) -> None:
    """Writes the Markdown page.

    Args:
        rows: those of speed.csv.
        path: the file.
    """
    notes = {(int(row["n"]), row["system"]): row.get("note") or "" for row in rows}
    lines = [
        "# Every system at equal mAP@10",
        "",
        "`retrieval.py` writes this page from speed.csv. Each system has the fastest setting whose "
        "mAP@10 is within 0.1 point of exact search, or the most accurate one where none is (bold "
        "gap). Times and ratios were taken in turns with the export; medians over the runs, and "
        "their range in brackets. Memory is what the system added to the process, as a ratio to "
        "the float32 database; building starts at the file of rows.",
    ]
    headings = ["system", "setting", "mAP@10 - exact", *(name for name, *_ in _COLUMNS), "runs"]
    for n, systems in by_size_and_system(rows).items():
        lines += ["", f"## {n:,} rows", "", _line(headings), _line(["---"] * len(headings))]
        lines += [
            _line(_cells(name, measured, notes[n, name])) for name, measured in systems.items()
        ]
    write_text(path, "\n".join(lines) + "\n")


def _cells(name, measured, note):
    if not measured:
        return [name, note, *[""] * (len(_COLUMNS) + 2)]
    gaps = [float(row["mAP@10"]) - float(row["exact_mAP@10"]) for row in measured]
    equal = all(str(row["within_tolerance"]) == "True" for row in measured)
    gap = f"{min(gaps, key=abs) if equal else min(gaps):+.2f}"
    settings = dict.fromkeys(row["knob"] or row["plan"] for row in measured)
    spreads = [(spread(measured, column, over), digits) for _, column, over, digits in _COLUMNS]
    shown = [found.text(digits) if found else "" for found, digits in spreads]
    return [name, "; ".join(settings), gap if equal else f"**{gap}**", *shown, str(len(measured))]


def _line(cells):
    return "| " + " | ".join(cells) + " |"
