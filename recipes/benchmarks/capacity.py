"""The page of the cost model: what 1e8, 1e9 and 1e10 rows take, from measured constants.

    python recipes/benchmarks/capacity.py --measured recipes/results/scale

Reads constants.csv and shards.csv, which sharding.py wrote, and writes capacity.csv, capacity.png
and README.md beside them. Nothing is measured here, and nothing of it was run on a cluster.
"""

from __future__ import annotations

import csv
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from mrl_keras.files import join, open_file, write_csv, write_text
from mrl_keras.plots import LINE_STYLES, MARKERS, new_figure, save_figure
from mrl_keras.retrieval import SearchPlan
from mrl_keras.scale import MachineSpeed, StoredRows, capacity
from recipes.common.arguments import ScriptParser

GB = 1e9
ROWS = (10**8, 10**9, 10**10)
PLACES = {False: "memory", True: "SSD"}

PAGE = """\
# How far it carries

Simulated shards, the constants of one machine, and what more rows would take on paper. No cluster
was run: the last table is arithmetic (`mrl_keras.scale.capacity`).

## Shards of one machine

{count:,} made rows of {width} dims (as in [retrieval-cpu](../retrieval-cpu/README.md)), dealt to
shards by a hash of the id; each shard has an exact shortlist of {dim} dims, and its answers are
merged. "whole": every shard runs the whole plan. "share": a shard's shortlist holds, but for one
query in a hundred, all rows of the global one that lie in it (`shard_plan`).

{shards}

Recall is against exact search of all rows at the full width. Times are processor times of one
thread; the slowest shard is drawn from the measured single queries of every shard, as if each had
a core of its own. `{shards_command}`

## One machine

| constant | measured |
|---|---:|
| dims a second that one core scans (32 queries at once, D_s = {dim}, float32) | {scan:.2f} e9 |
| a reranked row, all dims in memory | {ram:.2f} microseconds |
| a reranked row, memory map on SSD, cold page cache | {disk:.0f} microseconds |
| rows a second that one core embeds (`{encoder}`) | {embed:.0f} |

On {cpu}, {cores} cores shared with much other work, for whose turns the cold reads wait as well:
take their number as an upper bound. They are one after another; an SSD that is asked for many at
once gives more.

## More rows

The formulas, for N rows in M shards, one on each machine:

```
bytes in memory   a row:  D_s b + 4 prefixes + id      (and (d - D_s) b, where no SSD is used)
bytes on SSD      a row:  (d - D_s) b
M                         max(N memory / RAM, N SSD bytes / disk), rounded up
scan              seconds a query and machine:  opened N / M D_s / (dims a second)
rerank            seconds a query and machine:  rows of the shard's plan x seconds of a row
queries a second          cores / (scan + rerank): every machine works on every query, and a core
                          waits for its reads
answer            bytes:  M k (4 + id)
embedding         seconds:  N / (workers x rows a second)
```

Rows of {deploy_width} dims stored in bfloat16 (the times are those of float32), plan {plan}, a
tree that opens {opened:.0%} of its leaves; machines with {ram_gb:.0f} GB for rows, {disk_gb:.0f}
GB of SSD and {machine_cores} cores; the constants above. Of the rows, the first {dim} dims are in
memory; the others are in memory or on SSD. {workers} cores embed.

{table}

![Machines and queries a second over the rows](capacity.png)

- In memory the bytes decide how many machines there are. On SSD fewer machines hold the same
  rows, each scans more of them, and a rerank waits for the disk: the plan's last shortlist is
  what to make small.
- Shards that each rerank their share read about as many rows as one index; whole plans read M
  times as many.
- Copies of every shard multiply the queries a second, and the machines, by the same number.

`{command}`
"""


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--measured", default="recipes/results/scale", help="folder of constants.csv, shards.csv")
    add("--width", type=int, help="embedding width d; else that of the measured rows")
    add("--shortlist", type=int, default=200, help="rows of the shortlist, over all shards")
    add("--opened", type=float, default=0.02, help="share of the rows that a tree opens")
    add("--ram_gb", type=float, default=100, help="memory of a machine for rows")
    add("--disk_gb", type=float, default=2000, help="SSD of a machine")
    add("--cores", type=int, default=16, help="of a machine")
    add("--workers", type=int, default=100, help="cores that embed")
    return parser.parse_args(arguments)


def read_csv(path):
    with open_file(path) as file:
        return list(csv.DictReader(file))


def machine_of(constants, options):
    """`MachineSpeed` of the measured constants and the machine that is asked for."""
    return MachineSpeed(
        ram_bytes=options.ram_gb * GB,
        disk_bytes=options.disk_gb * GB,
        cores=options.cores,
        **{
            name: float(constants[name])
            for name in (
                "scan_dims_per_second",
                "ram_rerank_seconds",
                "disk_rerank_seconds",
                "embed_rows_per_second",
            )
        },
    )


def plan_of(constants, options):
    width = options.width or int(constants["width"])
    return SearchPlan.adaptive(
        shortlist_dim=int(constants["shortlist_dim"]),
        shortlist=options.shortlist,
        rerank_dim=width,
    )


def deployments(options, machine, plan):
    """A row of capacity.csv for each number of rows and place of the dims that are reranked."""
    for rows in ROWS:
        for on_disk, place in PLACES.items():
            stored = StoredRows(rows, (*plan.dims,), on_disk=on_disk)
            found = capacity(stored, plan, machine, opened=options.opened, workers=options.workers)
            yield {"rows": rows, "reranked_from": place, **found._asdict()}


def table_of(names, rows):
    lines = [f"| {' | '.join(names)} |", f"|{'---:|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def shards_table(shards):
    names = (
        "shards", "rule", "shortlist of each", "recall@10", "mAP@10", "rows reranked",
        "shards, ms a query", "merge, ms", "slowest, median ms", "99 %",
    )  # fmt: skip
    return table_of(
        names,
        [
            (
                row["shards"],
                row["rule"],
                row["plan"].split(":")[1].split(",")[0],
                f"{100 * float(row['recall@10']):.2f} %",
                f"{100 * float(row['mAP@10']):.2f} %",
                row["reranked"],
                f"{float(row['microseconds_query']) / 1e3:.2f}",
                f"{float(row['microseconds_merge']) / 1e3:.3f}",
                f"{float(row['slowest_median_ms']):.2f}",
                f"{float(row['slowest_99_ms']):.2f}",
            )
            for row in shards
        ],
    )


def capacity_table(found):
    names = (
        "rows", "reranked from", "machines", "memory of each, GB", "SSD of each, GB",
        "scan, ms", "rerank, ms", "queries a second", "answers, KB a query", "embedding, hours",
    )  # fmt: skip
    return table_of(
        names,
        [
            (
                f"{row['rows']:.0e}".replace("e+", "e"),
                row["reranked_from"],
                f"{row['machines']:,}",
                f"{row['ram_bytes'] / GB:.1f}",
                f"{row['disk_bytes'] / GB:.0f}",
                f"{1e3 * row['scan_seconds']:.2f}",
                f"{1e3 * row['rerank_seconds']:.2f}",
                f"{row['queries_per_second']:,.0f}",
                f"{row['answer_bytes'] / 1e3:.1f}",
                f"{row['embed_seconds'] / 3600:.1f}",
            )
            for row in found
        ],
    )


def draw(found, path):
    """Machines, and queries a second, over the rows."""
    figure, axes = new_figure((9, 3.6), columns=2)
    for axis, column, label in zip(
        axes[0], ("machines", "queries_per_second"), ("machines", "queries a second"), strict=True
    ):
        for place, style, marker in zip(PLACES.values(), LINE_STYLES, MARKERS, strict=False):
            ours = [row for row in found if row["reranked_from"] == place]
            axis.plot(
                [row["rows"] for row in ours], [row[column] for row in ours],
                linestyle=style, marker=marker, label=f"reranked from {place}",
            )  # fmt: skip
        axis.set_xscale("log"), axis.set_yscale("log")
        axis.set_xlabel("rows"), axis.set_ylabel(label)
        axis.grid(alpha=0.3, which="both")
    axes[0][0].legend()
    save_figure(figure, path)


def main(options):
    folder = options.measured
    (constants,) = read_csv(join(folder, "constants.csv"))
    shards = read_csv(join(folder, "shards.csv"))
    machine, plan = machine_of(constants, options), plan_of(constants, options)
    found = list(deployments(options, machine, plan))
    write_csv(join(folder, "capacity.csv"), found)
    draw(found, join(folder, "capacity.png"))
    page = PAGE.format(
        count=int(shards[0]["rows"]),
        width=shards[0]["width"],
        dim=plan.shortlist_dim,
        shards=shards_table(shards),
        shards_command=shards[0]["command"],
        scan=machine.scan_dims_per_second / 1e9,
        ram=1e6 * machine.ram_rerank_seconds,
        disk=1e6 * machine.disk_rerank_seconds,
        embed=machine.embed_rows_per_second,
        encoder=constants["encoder"],
        cpu=constants["cpu"],
        cores=constants["cores"],
        deploy_width=plan.dims[-1],
        plan=f"{plan.dims[0]}:{plan.sizes[0]},{plan.dims[1]}",
        opened=options.opened,
        ram_gb=options.ram_gb,
        disk_gb=options.disk_gb,
        machine_cores=options.cores,
        workers=options.workers,
        table=capacity_table(found),
        command=options.command,
    )
    write_text(join(folder, "README.md"), page)
    print(f"Wrote {join(folder, 'README.md')}")


if __name__ == "__main__":
    main(parse_arguments())
