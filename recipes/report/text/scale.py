"""A large database of real vectors beside made ones: how hard they are, and queries a second."""

from __future__ import annotations

import numpy as np

from mrl_keras.evaluation import PanelStyle, line_panels
from mrl_keras.retrieval.exact.threads import available_cores
from recipes.benchmarks.parts.nested_data import NestedData
from recipes.common.machine import machine_columns
from recipes.report.parts import claims
from recipes.report.parts.cache import call_content
from recipes.report.parts.page import Figure, Page, Table
from recipes.report.text.speed import FUNNEL, HNSW, PLAN, TARGETS, measure_speed
from recipes.report.text.vectors import SHORTLIST, Vectors, hardness

PAPER_TIMES = 14


def made_vectors(like: Vectors, folder) -> Vectors:
    """The retrieval benchmark's made data with as many rows, queries and dims."""
    data = NestedData(like.width)
    rows = np.array(data.rows(len(like.rows), folder)[0])
    queries = data.queries(len(like.queries))[0]
    held_out = data.queries(len(like.held_out), held_out=True)[0]
    about = f"{len(rows):,} rows of `recipes/benchmarks/parts/nested_data.py` with 1,000 classes"
    return Vectors("made", rows, queries, held_out, about)


def measure(vectors: Vectors, cache, folder, shortlist_dims, rounds, speed: bool) -> dict:
    """`hardness` and, if wanted, `measure_speed`, cached, with day and machine."""
    key = {"vectors": vectors.digest, "cores": available_cores()}
    found = cache.values(key | call_content(hardness), lambda: hardness(vectors))

    def timed():
        found = measure_speed(vectors, folder, shortlist_dims, rounds)
        return found | {"machine": {name: str(v) for name, v in machine_columns().items()}}

    how = call_content(measure_speed, shortlist_dims=list(shortlist_dims), rounds=rounds)
    return {"hardness": found} | (cache.values(key | how, timed) if speed else {})


def page(databases: list[tuple[Vectors, dict]], rounds: int) -> Page:
    """The page.

    Args:
        databases: (`Vectors`, what `measure` gave), the real ones first, whose speed is known.
        rounds: int, of the times.
    """
    found = {vectors.name: values for vectors, values in databases}
    name, values = next(iter(found.items()))
    machine = values["machine"]
    about = "; ".join(f"**{vectors.name}**: {vectors.about}" for vectors, _ in databases)
    verdicts = [_faster_than_hnsw(name, target, values["equal"]) for target in TARGETS]
    return Page(
        "scale",
        "A larger database: real and made vectors",
        f"{about}. Queries ask for the ten rows that exact search with all dims finds "
        "(recall@10). Plans were tuned on as many other queries. Times: one process on "
        f"{machine['cores']} core of {machine['cpu']} that other programs used as well, {rounds} "
        "rounds in turns, each of 2 batches of 256 queries; medians, with the least and most in "
        "brackets. Queries a second by the clock suffer from these programs; processor time is "
        "what they disturb least, and ratios are of processor time in the same round. The "
        "package's plans are exported models, asked through their signature; rows are float32 "
        "everywhere. Speed on made data, of 2048 dims: "
        "[retrieval-cpu](../retrieval-cpu/README.md).",
        [*_hardness_parts(found), *_speed_parts(name, values), _speed_figure(name, values)],
        [verdict for verdict in verdicts if verdict],
    )


def _hardness_parts(found):
    names = list(found)
    dims = sorted(next(iter(found.values()))["hardness"]["alone"], key=int)
    header = ["dims"]
    for name in names:
        header += [f"{name}: alone", f"{name}: best {SHORTLIST}, reranked", f"{name}: energy"]
    rows, records = [], []
    for dim in dims:
        cells = []
        for name in names:
            hard = found[name]["hardness"]
            values = [hard[key][dim] for key in ("alone", "shortlist", "energy")]
            cells += [f"{100 * value:.1f}" for value in values]
            records.append(
                {"database": name, "dims": dim, "recall@10_alone": values[0],
                 "recall@10_reranked": values[1], "energy": values[2]}
            )  # fmt: skip
        rows.append([dim, *cells])
    yield Table(
        "hardness", "What each prefix finds of the full width's ten",
        f"Recall@10 (%) of exact search with the prefix alone; of its best {SHORTLIST} rows when "
        "the full width orders them; and the prefix's share of the squared length.",
        header, rows, records,
    )  # fmt: skip
    ranks = sorted(next(iter(found.values()))["hardness"]["cosine"], key=int)
    cosines = [[n, *(f"{found[n]['hardness']['cosine'][r]:.3f}" for r in ranks)] for n in names]
    yield Table(
        "cosines", "Cosine by rank",
        "Median cosine of a query and the row at a rank, all dims: where it falls little from "
        "rank 10 to 200, a small error of a prefix changes which rows are the ten.",
        ["database", *(f"rank {rank}" for rank in ranks)], cosines,
        [{"database": n, **{f"rank_{r}": found[n]["hardness"]["cosine"][r] for r in ranks}}
         for n in names],
    )  # fmt: skip
    lines = {
        key: {
            name: [(int(d), 100 * v) for d, v in found[name]["hardness"][part].items()]
            for name in names
        }
        for part, key in (("alone", "prefix alone"), ("shortlist", f"best {SHORTLIST}, reranked"))
    }

    def draw(path):
        style = PanelStyle(ticks=[int(dim) for dim in dims], share_y=True)
        line_panels(path, lines, "dims", "recall@10 of the full width (%)", style)

    yield Figure(
        "hardness_figure", "Real and made vectors, by prefix",
        "How far a prefix alone, or a shortlist by it, goes.", "hardness", draw,
    )  # fmt: skip


def _speed_parts(name, values):
    hnsw = {row["target"]: row for row in values["equal"] if row["system"] == HNSW}
    names = list(dict.fromkeys(row["system"] for row in values["sweep"]))
    rows, records = [], []
    for target in TARGETS:
        for row in (row for row in values["equal"] if row["target"] == target):
            speed, processor = (
                np.array(row[f"{kind}queries_a_second"]) for kind in ("", "processor_")
            )
            ratio = _ratio(row, hnsw.get(target))
            knob = values["plans"][row["knob"]] if row["system"] == PLAN else row["knob"]
            rows.append(
                [f"{target:g}", row["system"], knob, f"{row['recall']:.3f}", _range(speed, 0),
                 _range(processor, 0), "" if ratio is None else _range(ratio, 2)]
            )  # fmt: skip
            records.append(
                {"database": name, "target": target, "system": row["system"], "knob": knob,
                 "recall@10": row["recall"], "queries_a_second": np.median(speed),
                 "least": speed.min(), "most": speed.max(),
                 "processor_queries_a_second": np.median(processor),
                 "times_hnsw": "" if ratio is None else np.median(ratio)} | values["machine"]
            )  # fmt: skip
    highest = {
        system: max(row["recall"] for row in values["sweep"] if row["system"] == system)
        for system in names
    }
    missing = [
        f"{system} for {target:g} (at most {most:.3f})"
        for system, most in highest.items()
        for target in TARGETS
        if most < target
    ]
    says = (
        "Each system's fastest setting that reaches a recall@10, and how many times HNSW32's "
        "queries a second it has at the same recall. Settings are chosen on the judging queries "
        "for all systems; the plans among which the package chooses were tuned on others."
    )
    if missing:
        says += f" Not reached by: {', '.join(missing)}."
    yield Table(
        f"speed_{name}", f"Queries a second at equal recall: {name} vectors", says,
        ["recall@10", "system", "setting", "reached", "queries a second",
         "of processor time", "times HNSW32"], rows, records,
    )  # fmt: skip
    yield Table(
        f"sweep_{name}", f"Every setting: {name} vectors",
        "The settings of all systems are in the CSV file; processor time of one pass over all "
        "judging queries, not in turns.",
        ["system", "settings", "recall@10"],
        [
            [system, len(of), f"{min(of):.3f} to {max(of):.3f}"]
            for system in names
            for of in [[row["recall"] for row in values["sweep"] if row["system"] == system]]
        ],
        [{"database": name, **row} for row in values["sweep"]],
    )  # fmt: skip


def _ratio(row, hnsw):
    """float64 (rounds,): processor time of HNSW over this system's, round by round."""
    if hnsw is None or row["system"] == HNSW:
        return None
    ours = np.array(row["processor_queries_a_second"])
    return ours / np.array(hnsw["processor_queries_a_second"])


def _range(values, digits):
    numbers = np.median(values), values.min(), values.max()
    return "{} ({} to {})".format(*(f"{number:,.{digits}f}" for number in numbers))


def _faster_than_hnsw(name, target, equal):
    rows = {row["system"]: row for row in equal if row["target"] == target}
    claim = (
        f"Adaptive retrieval answers more queries a second than HNSW32 at recall@10 of {target:g} "
        f"({name} vectors; the paper: {PAPER_TIMES} times as many, ImageNet-1K)"
    )
    ours = [row for system, row in rows.items() if system in (PLAN, FUNNEL)]
    if HNSW not in rows:
        return None
    if not ours:
        return claims.verdict(claim, False, "no plan reaches this recall")
    ratios = [(_ratio(row, rows[HNSW]), row) for row in ours]
    ratio, row = max(ratios, key=lambda pair: np.median(pair[0]))
    numbers = f"{_range(ratio, 2)} times, {row['system']} at recall {row['recall']:.3f} against "
    numbers += f"{rows[HNSW]['recall']:.3f}"
    return claims.verdict(claim, ratio.min() > 1, numbers)


def _speed_figure(name, values):
    lines = {
        system: [
            (1 / row["processor_seconds"], row["recall"])
            for row in _front([row for row in values["sweep"] if row["system"] == system])
        ]
        for system in dict.fromkeys(row["system"] for row in values["sweep"])
    }

    def draw(path):
        style = PanelStyle(log_base=10)
        line_panels(
            path,
            {f"{name} vectors": lines},
            "queries a second of processor time",
            "recall@10",
            style,
        )

    return Figure(
        "speed_figure", "Recall against queries a second",
        "Each system's best settings; up and to the right is better.",
        f"sweep_{name}", draw,
    )  # fmt: skip


def _front(rows):
    """Settings that no other of the same system beats in both."""
    best, kept = -1.0, []
    for row in sorted(rows, key=lambda row: row["processor_seconds"]):
        if row["recall"] > best:
            best = row["recall"]
            kept.append(row)
    return kept
