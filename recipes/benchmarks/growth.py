"""How cost grows with rows, prefixes, classes and vocabulary: log-log plots and exponents.

    python recipes/benchmarks/growth.py --output recipes/results/growth

The times, memory and build times over N rows are read from speed.csv, which retrieval.py wrote into
--retrieval; medians over its runs. The rest is measured here, forward and backward of head and loss
compiled with XLA, in turns with one dense layer of the same sizes:

- prefixes: MatryoshkaDense and MatryoshkaLoss with M prefixes, d halved M - 1 times;
- classes: the same with more classes;
- vocabulary: MaskedLMHead, which scores the labels in blocks, against logits of the full width.

Times are processor time of all threads, which other programs disturb least.

Writes into the output folder: growth.csv (`axis`, `x`, `system`, `what`, `value`, `ratio` to the
dense layer, the sizes), exponents.csv (e of value = c x^e by least squares of the logarithms, with
its standard error, empty for two points), growth.md (both as tables) and a plot of each kind.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np
import tensorflow as tf

from mrl_keras.files import write_text
from recipes.benchmarks import head, masked_lm
from recipes.benchmarks.parts.log_log import Panel, Power, plot_panels
from recipes.benchmarks.parts.retrieval_plot import GROWING, points_by_rows
from recipes.benchmarks.parts.retrieval_runs import read_table
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_times

HEADS = {"one dense layer": "plain", "MRL-E": "MRL-E", "MRL": "MRL"}
LM_HEADS = {"full width": "full", "full width in blocks": "full in blocks", "nested": "nested"}
AXES = {"prefixes": "prefixes M", "classes": "classes", "vocabulary": "vocabulary entries"}
MILLISECONDS = "processor milliseconds of a step"


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--retrieval", default="recipes/results/retrieval-cpu", help="folder with speed.csv")
    add("--prefixes", type=int, nargs="+", default=[1, 2, 4, 6, 8, 11], help="numbers of prefixes")
    add(
        "--classes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 100_000],
        help="numbers of classes",
    )  # fmt: skip
    add(
        "--vocabulary", type=int, nargs="+", default=[4000, 16_000, 64_000, 256_000],
        help="entries of the embedding table",
    )  # fmt: skip
    add("--batch", type=int, default=64, help="examples in a step, and masked positions")
    add("--width", type=int, default=1024, help="embedding width d where prefixes grow")
    add("--narrow", type=int, default=256, help="embedding width d where units grow")
    tiny = {"prefixes": [1, 3], "classes": [10, 40], "vocabulary": [50, 100], "repeats": 2}
    tiny |= {"batch": 4, "width": 32, "narrow": 32}
    parser.add_measuring(pathlib.Path("runs/growth"), repeats=9, tiny=tiny)
    options = parser.parse_args(arguments)
    options.command = without_folders(options.command)
    return options


def steps_of(axis, x, options):
    """({system: function that does one step}, the sizes)."""
    if axis == "vocabulary":
        sizes = {"batch": 1, "positions": options.batch, "length": 2 * options.batch}
        sizes |= {"vocabulary": x, "width": options.narrow, "smallest_dim": options.narrow // 8}
        given = argparse.Namespace(**sizes, block_size=2048)
        return {name: masked_lm.make_step(s, "XLA", given) for name, s in LM_HEADS.items()}, sizes
    width = options.width if axis == "prefixes" else options.narrow
    smallest = width >> (x - 1) if axis == "prefixes" else width // 8
    classes = 1000 if axis == "prefixes" else x
    sizes = {"batch": options.batch, "classes": classes, "width": width, "smallest_dim": smallest}
    given = argparse.Namespace(**sizes)
    steps = {
        name: tf.function(head.make_step(step, given), jit_compile=True)
        for name, step in HEADS.items()
    }
    return steps, sizes


def measure(axis, x, options):
    """Rows of growth.csv of one point of an axis; the first system is the dense layer."""
    steps, sizes = steps_of(axis, x, options)
    times = interleaved_times(steps, options.repeats, warm_up=2)
    plain = next(iter(times.values()))[:, 1]
    rows = [
        {
            "axis": axis, "x": x, "system": name, "what": MILLISECONDS,
            "value": 1e3 * float(np.median(seconds[:, 1])),
            "ratio": float(np.median(seconds[:, 1] / plain)),
            "sizes": ", ".join(f"{key} {size}" for key, size in sizes.items()),
        }
        for name, seconds in times.items()
    ]  # fmt: skip
    print(
        f"{axis} {x:,}: " + ", ".join(f"{r['system']} {r['ratio']:.2f}" for r in rows), flush=True
    )
    return rows


def rows_of_retrieval(path):
    """Rows of growth.csv from speed.csv."""
    return [
        {"axis": "rows", "x": n, "system": system, "what": GROWING[column], "value": value,
         "ratio": "", "sizes": ""}
        for column, lines in points_by_rows(read_table(path)).items()
        for system, points in lines.items()
        for n, value in points.items()
    ]  # fmt: skip


def lines_of(rows):
    """{(axis, what): {system: {x: value}}}."""
    lines = {}
    for row in rows:
        line = lines.setdefault((row["axis"], row["what"]), {}).setdefault(row["system"], {})
        line[int(row["x"])] = float(row["value"])
    return lines


def exponents(rows):
    """Rows of exponents.csv: every line of two points or more."""
    found = []
    for (axis, what), systems in lines_of(rows).items():
        for system, points in systems.items():
            if len(points) < 2:
                continue
            power = Power.of(points)
            error = "" if math.isnan(power.error) else power.error
            found.append(
                {"axis": axis, "what": what, "system": system, "exponent": power.exponent,
                 "standard_error": error, "from": min(points), "to": max(points),
                 "points": len(points)}
            )  # fmt: skip
    return found


def page(rows, fits, command):
    """growth.md."""
    lines = [
        "# Cost as the work grows", "", f"Written by `{command}`.", "",
        "Exponents e of value = c x^e, by least squares of the logarithms:", "",
        "| axis | what | system | e | from | to | points |", "| --- " * 7 + "|",
    ]  # fmt: skip
    for fit in fits:
        error = "" if fit["standard_error"] == "" else f" ± {fit['standard_error']:.2f}"
        lines.append(
            f"| {fit['axis']} | {fit['what']} | {fit['system']} | {fit['exponent']:.2f}{error} | "
            f"{fit['from']:,} | {fit['to']:,} | {fit['points']} |"
        )
    for axis in AXES:
        points = [row for row in rows if row["axis"] == axis]
        systems = list(dict.fromkeys(row["system"] for row in points))
        lines += ["", f"Processor time over that of {systems[0]}, {axis}:", ""]
        lines += [f"| {axis} | " + " | ".join(systems) + " |", "| --- " * (1 + len(systems)) + "|"]
        for x in dict.fromkeys(row["x"] for row in points):
            ratios = [f"{row['ratio']:.2f}" for row in points if row["x"] == x]
            lines.append(f"| {x:,} | " + " | ".join(ratios) + " |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    options = parse_arguments(arguments)
    rows = [
        row for axis in AXES for x in getattr(options, axis) for row in measure(axis, x, options)
    ]
    rows = [*rows_of_retrieval(pathlib.Path(options.retrieval) / "speed.csv"), *rows]
    fits, output, lines = exponents(rows), options.output, lines_of(rows)
    for name, table in (("growth", rows), ("exponents", fits)):
        write_measurements(
            output / f"{name}.csv", [{**row, "command": options.command} for row in table]
        )
    write_text(output / "growth.md", page(rows, fits, options.command))
    panels = [Panel(MILLISECONDS, AXES[axis], lines[axis, MILLISECONDS]) for axis in AXES]
    plot_panels(panels, output / "head.png", columns=3)
    panels = [
        Panel(what, "rows N", found) for (axis, what), found in lines.items() if axis == "rows"
    ]
    if panels:
        plot_panels(panels, output / "rows.png")


if __name__ == "__main__":
    main()
