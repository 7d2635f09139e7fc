"""Checks a server of an exported model: are the answers those of the folder, and how fast are they?

    python recipes/serving/smoke_check.py --model=saved_models/digits_plain \
        --url=http://localhost:8501/v1/models/digits_plain --grpc=localhost:8500/digits_plain

By each protocol that is given:

- every signature: the inputs and outputs of the folder's, and the same answers to random rows;
- bad input: wrong width, wrong dtype, empty batch, k out of range, invalid UTF-8: the server must
  refuse it as a wrong request or answer it in the right shape, and answer the next one as before;
- latency of one row at a time: percentiles over --requests requests.

Prints a table of each and ends with status 0, or 1 where a check failed. Imports neither Keras nor
mrl_keras.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import sys
import time

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from recipes.serving.clients import FolderModel, ServingError, connect

ROWS, OPEN_AXIS = 3, 4
TEXT = "a smiling [MASK] party"
NOT_UTF8 = b"\xff\xfe party \xc3"
UNBATCHED = "must have at least one dimension"
"""A server that merges requests refuses scalar inputs with these words."""


@dataclasses.dataclass
class Report:
    """What the checks found.

    Attributes:
        rows: {(signature, protocol): [verdict on the answers, p50, p95, p99 in ms]}.
        bad: {(kind of bad input, protocol): {outcome: how many signatures}}.
        failures: list of str, one line each.
    """

    rows: dict = dataclasses.field(default_factory=dict)
    bad: dict = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    failures: list = dataclasses.field(default_factory=list)

    def fail(self, *what):
        self.failures.append(": ".join(what))


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        prog="smoke_check.py", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", required=True, help="folder of the model or version that is served")
    add("--url", help="REST address: http://HOST:8501/v1/models/NAME[/versions/N | /labels/LABEL]")
    add("--grpc", help="gRPC address: HOST:8500/NAME[/VERSION | /LABEL]")
    add("--requests", type=int, default=100, help="timed requests of each signature (100)")
    add("--timeout", type=float, default=30.0, help="seconds for one answer (30)")
    add("--rtol", type=float, default=1e-3, help="relative tolerance of numbers (0.001)")
    add("--agreement", type=float, default=0.95, help="least share of equal ids or classes (0.95)")
    options = parser.parse_args(arguments)
    if not options.url and not options.grpc:
        parser.exit(2, "smoke_check: give --url, --grpc or both (--help lists the options)\n")
    if options.requests < 1 or options.timeout <= 0:
        parser.exit(2, "smoke_check: --requests and --timeout must be above 0\n")
    return options


def good_inputs(signature, rows=ROWS, seed=0):
    """Inputs of `rows` rows for a signature, the same for the same seed."""
    random, inputs = np.random.default_rng(seed), {}
    for name, (dtype, shape) in signature["inputs"].items():
        if name in signature["defaults"]:
            inputs[name] = signature["defaults"][name]
            continue
        shape = shape or []  # a scalar fits where even the rank is open
        sizes = [OPEN_AXIS if size is None else size for size in shape]
        if shape and shape[0] is None:
            sizes[0] = rows
        if dtype == "string":
            inputs[name] = np.full(sizes, TEXT.encode(), object)
        elif dtype.kind in "biu":
            inputs[name] = random.integers(1, 4, sizes).astype(dtype)
        else:
            inputs[name] = random.standard_normal(sizes).astype(dtype)
    return inputs


def bad_inputs(signature):
    """Yields (kind, inputs) of what a client may send by mistake, with one input changed."""
    good = good_inputs(signature)
    for name, (dtype, shape) in signature["inputs"].items():
        value = good[name]
        if dtype != "string" and value.ndim > 1 and shape[-1] is not None:
            wider = np.concatenate([value, value[..., :1]], -1)
            yield "wrong width", {**good, name: wider}
        other = np.full(value.shape, b"text", object) if dtype != "string" else np.ones(value.shape)
        yield "wrong dtype", {**good, name: other}
        if dtype == "string":
            yield "invalid UTF-8", {**good, name: np.full(value.shape, NOT_UTF8, object)}
        if name == "k":
            for k in (-5, 2**31 - 1):
                yield "k out of range", {**good, name: np.full_like(value, k)}
    if any(shape and shape[0] is None for _, shape in signature["inputs"].values()):
        parts = good.items()
        yield "empty batch", {name: value[:0] if value.ndim else value for name, value in parts}


def same_answers(wanted, found, rtol, agreement):
    """(whether two answers are the same, a text for the table)."""
    shapes = {name: list(value.shape) for name, value in wanted.items()}
    if shapes != {name: list(value.shape) for name, value in found.items()}:
        return False, f"shapes { ({n: list(v.shape) for n, v in found.items()}) } for {shapes}"
    shares, largest = [], 0.0
    for name, want in wanted.items():
        if want.dtype.kind == "f":
            want, have = want.astype("float64"), found[name].astype("float64")
            finite = np.isfinite(want)
            if not np.array_equal(want[~finite], have[~finite], equal_nan=True):
                return False, f"{name} has NaN or infinity elsewhere"
            if not np.isfinite(have[finite]).all():
                return False, f"{name} has NaN or infinity"
            difference = np.abs(want[finite] - have[finite])
            scale = np.maximum(np.abs(want[finite]), 1e-2)
            largest = max(largest, float(np.max(difference / scale, initial=0.0)))
        else:
            shares.append(float(np.mean(want == found[name])) if want.size else 1.0)
    least = min(shares, default=1.0)
    same = largest <= rtol and least >= agreement
    text = f"equal {least:.0%}" if shares else "equal"
    return same, f"{text}, off by {largest:.0e}" if largest else text


def check_signature(server, local, name, options):
    """(failure or None, the row of the table) of one signature."""
    signature = local.signatures[name]
    if name not in server.signatures:
        return f"the server has no such signature; it has {', '.join(server.signatures)}", None
    for part in ("inputs", "outputs"):
        here, there = signature[part], server.signatures[name][part]
        if here != there:
            return f"another model's signature: {part} {there}, and {here} in the folder", None
    try:
        inputs = good_inputs(signature)
        answer = server.send(name, inputs)
        same, text = same_answers(
            local.call(name, **inputs), answer, options.rtol, options.agreement
        )
        if not same:
            return f"other answers than the folder's: {text}", None
        one, seconds = good_inputs(signature, rows=1), []
        for _ in range(options.requests):
            begun = time.perf_counter()
            server.send(name, one)
            seconds.append(time.perf_counter() - begun)
    except ServingError as error:
        if UNBATCHED in str(error):
            return None, ["not with batching"]
        return str(error), None
    return None, [text, *(f"{1000 * np.percentile(seconds, p):.2f}" for p in (50, 95, 99))]


def check_bad_input(server, local, name, kind, inputs):
    """(failure or None, what the server did)."""
    signature = local.signatures[name]
    try:
        answer = server.send(name, inputs)
    except ServingError as error:
        return (None, "refused") if error.refused else (str(error), "failed")
    if kind in ("wrong width", "wrong dtype"):
        return "it was answered", "answered"
    rows = 0 if kind == "empty batch" else ROWS
    wrong = {
        output: list(value.shape)
        for output, value in answer.items()
        if signature["outputs"][output][1][:1] == [None] and len(value) != rows
    }
    if wrong:
        return f"an answer of {rows} rows has the shapes {wrong}", "answered"
    if kind == "k out of range":
        wanted = local.call(name, **inputs)
        shapes = [{n: v.shape for n, v in found.items()} for found in (wanted, answer)]
        if shapes[0] != shapes[1]:
            return f"shapes {shapes[1]}, and {shapes[0]} from the folder", "answered"
    return None, "answered"


def check(server, protocol, local, options, report):
    """All checks of one server, into `report`."""
    working = []
    for name in local.signatures:
        failure, row = check_signature(server, local, name, options)
        report.rows[name, protocol] = row or ["FAILED"]
        if failure:
            report.fail(protocol, name, failure)
        elif len(row) > 1:
            working.append(name)
    for name in working:
        for kind, inputs in bad_inputs(local.signatures[name]):
            failure, outcome = check_bad_input(server, local, name, kind, inputs)
            report.bad[kind, protocol][outcome] += 1
            if failure:
                report.fail(protocol, name, kind, failure)
        try:
            server.send(name, good_inputs(local.signatures[name]))
        except ServingError as error:
            report.fail(protocol, name, "after bad input", str(error))


def show(header, rows):
    """Prints a table in columns."""
    rows = [header, *(row + [""] * (len(header) - len(row)) for row in rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print()


def main(arguments=None):
    options, report = parse_arguments(arguments), Report()
    try:
        local = FolderModel(options.model)
    except (ValueError, ImportError) as error:
        print(f"smoke_check: {error}", file=sys.stderr)
        return 2
    for protocol, source in (("REST", {"url": options.url}), ("gRPC", {"grpc": options.grpc})):
        if not any(source.values()):
            continue
        try:
            server = connect(**source, timeout=options.timeout)
        except (ValueError, ImportError) as error:
            report.fail(protocol, str(error))
            continue
        check(server, protocol, local, options, report)
    if report.rows:
        header = ["signature", "protocol", "answers", "p50 ms", "p95 ms", "p99 ms"]
        show(header, [[*key, *row] for key, row in sorted(report.rows.items())])
    if report.bad:
        bad = sorted(report.bad.items())
        outcomes = [", ".join(f"{n} {what}" for what, n in sorted(c.items())) for _, c in bad]
        show(
            ["bad input", "protocol", "signatures"],
            [[*key, outcome] for (key, _), outcome in zip(bad, outcomes, strict=True)],
        )
    for failure in report.failures:
        print(f"FAILED {failure}")
    print(f"{len(report.failures)} checks failed." if report.failures else "All checks passed.")
    return int(bool(report.failures))


if __name__ == "__main__":
    raise SystemExit(main())
