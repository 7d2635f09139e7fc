"""Pages of tables and figures, written as Markdown, CSV and PNG."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from mrl_keras.evaluation import PanelStyle, line_panels
from mrl_keras.files import write_csv, write_text
from recipes.report.parts.claims import Verdict
from recipes.report.parts.measured import Measured


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: `header` and `rows` as shown, `records` as CSV with raw numbers.

    Args:
        name: str, the CSV file's stem.
        title: str, with the paper's table in brackets where there is one.
        says: str, a sentence that says what it shows.
        header, rows: strings, as shown.
        records: dicts, one for each row of the CSV, all with the same keys.
        paper: str, the paper's table in Markdown, see `paper_table`. Default none.
    """

    name: str
    title: str
    says: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    records: Sequence[Mapping]
    paper: str = ""

    def markdown(self) -> str:
        shown = markdown_table(self.header, self.rows)
        beside = f"\n{self.paper}" if self.paper else ""
        return f"## {self.title}\n\n{self.says}\n\n{shown}\n\n[CSV]({self.name}.csv)\n{beside}"

    def write(self, folder):
        write_csv(folder / f"{self.name}.csv", self.records)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture: `draw(path)` draws it, `table` names the CSV that has its numbers."""

    name: str
    title: str
    says: str
    table: str
    draw: Callable

    def markdown(self) -> str:
        picture = f"![{self.title}]({self.name}.png)"
        return f"## {self.title}\n\n{self.says}\n\n{picture}\n\n[CSV]({self.table}.csv)\n"

    def write(self, folder):
        self.draw(folder / f"{self.name}.png")


@dataclasses.dataclass(frozen=True)
class Page:
    """One page of the report.

    Args:
        slug: str, the Markdown file's stem.
        title: str.
        about: str, how the numbers were made.
        parts: `Table`s and `Figure`s, in order.
        verdicts: `Verdict`s.
        left_out: sentences, each says what is not there and what it would need.
    """

    slug: str
    title: str
    about: str
    parts: Sequence[Table | Figure] = ()
    verdicts: Sequence[Verdict] = ()
    left_out: Sequence[str] = ()

    def __post_init__(self):
        for name in ("parts", "verdicts", "left_out"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def markdown(self) -> str:
        parts = [f"# {self.title}\n", f"{self.about}\n"]
        parts += [f"Left out: {sentence}\n" for sentence in self.left_out]
        parts += [part.markdown() for part in self.parts]
        if self.verdicts:
            parts += ["## Claims\n", verdict_table(self.verdicts)]
        return "\n".join([*parts, "[All pages](README.md)\n"])

    def write(self, folder: pathlib.Path):
        for part in self.parts:
            part.write(folder)
        write_text(folder / f"{self.slug}.md", self.markdown())


def not_measured(slug, title, wants: str) -> Page:
    """A page that says what its measurement would need."""
    return Page(slug, title, "Not measured.", left_out=[wants])


def anchor(title: str) -> str:
    """What GitHub calls a heading in links: "A and B (Table 1)" is "a-and-b-table-1"."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def page_line(page: Page) -> str:
    """A page and its parts as links, for the first page."""
    parts = [f"[{part.title}]({page.slug}.md#{anchor(part.title)})" for part in page.parts]
    parts += [f"left out: {sentence}" for sentence in page.left_out]
    return "\n  - ".join([f"- [{page.title}]({page.slug}.md)", *parts])


def print_summary(out, verdicts: Sequence[Verdict], what: str, largest: int):
    """Prints what a report found, of `what`, and warns of a folder above `largest` bytes."""
    for verdict in verdicts:
        print(f"{verdict.verdict:20} {verdict.claim}")
    size = folder_bytes(out)
    print(f"Wrote {out}/README.md ({size / 1e6:.2f} MB, {what})")
    if size > largest:
        print(f"The folder is larger than {largest / 1e6:g} MB.")


def markdown_table(header: Sequence, rows: Sequence[Sequence]) -> str:
    """A table whose columns are aligned to the right."""
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [f"| {v.claim} | **{v.verdict}** | {v.numbers} |" for v in verdicts]
    return "\n".join(["| claim | verdict | numbers |", "|---|---|---|", *rows, ""])


def dims_table(
    name,
    title,
    says,
    columns: Mapping[str, Mapping[int, Measured]],
    trained,
    scale=100.0,
    digits=2,
    paper="",
) -> Table:
    """A row for each dim, a column for each system; "~" marks dims that are not trained."""
    dims = sorted({dim for values in columns.values() for dim in values})
    header = ["dims", *columns]
    rows, records = [], []
    for dim in dims:
        cells = [values.get(dim) for values in columns.values()]
        shown = ["" if cell is None else cell.text(scale, digits) for cell in cells]
        rows.append([str(dim) if dim in trained else f"~{dim}", *shown])
        for system, values in columns.items():
            if dim in values:
                about = {"dims": dim, "trained": int(dim in trained), "system": system}
                records.append(about | record(values[dim]))
    return Table(name, title, says, header, rows, records, paper)


def record(measured: Measured) -> dict:
    """Mean, spread and each seed's value, for a row of a CSV."""
    each = ";".join(f"{seed}:{value:.6g}" for seed, value in sorted(measured.by_seed.items()))
    spread = "" if math.isnan(measured.spread) else f"{measured.spread:.6g}"
    return {"mean": f"{measured.mean:.6g}", "sd": spread, "by_seed": each}


def dims_figure(
    name, title, says, table, panels, trained, ylabel, scale=100.0, **options
) -> Figure:
    """Lines over the dims, dims that are not trained hollow, error bars one deviation of the seeds.

    Args:
        panels: {title: {system: {dim: `Measured`}}}.
        options: of `PanelStyle`.
    """
    points = {
        panel: {
            system: [(dim, scale * v.mean, scale * v.spread) for dim, v in values.items()]
            for system, values in columns.items()
        }
        for panel, columns in panels.items()
    }
    all_dims = {x for lines in points.values() for line in lines.values() for x, _, _ in line}
    hollow = sorted(all_dims - set(trained))

    def draw(path):
        style = PanelStyle(ticks=list(trained), hollow=hollow, **options)
        line_panels(path, points, "dims", ylabel, style)

    return Figure(name, title, says, table, draw)


def folder_bytes(folder) -> int:
    return sum(os.path.getsize(path) for path in pathlib.Path(folder).rglob("*") if path.is_file())
