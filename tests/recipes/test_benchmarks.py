"""Each benchmark runs at a tiny size and writes its CSV; no times are asserted."""

import csv
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "recipes" / "benchmarks"


def run_tiny(name, tmp_path):
    output = tmp_path / "result.csv"
    command = [sys.executable, str(BENCHMARKS / name), "--tiny", f"--output={output}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


def test_head(tmp_path):
    rows = run_tiny("head.py", tmp_path)
    assert {(row["head"], row["mode"]) for row in rows} == {
        (head, mode)
        for head in ("plain", "MRL-E", "MRL", "recomputed MRL-E")
        for mode in ("XLA", "graph")
    }
    for row in rows:
        assert float(row["ratio_to_plain"]) > 0
        assert row["tensorflow"].startswith("2.")
    assert [row["head"] for row in rows if row["peak_mib"]] == ["plain"]


def test_contrastive(tmp_path):
    rows = run_tiny("contrastive.py", tmp_path)
    assert {(row["system"], row["mode"]) for row in rows} == {
        (system, mode)
        for system in ("loop", "nested", "products only", "exponential only")
        for mode in ("XLA", "graph")
    }
    assert all(float(row["speedup"]) > 0 for row in rows)


def test_masked_lm(tmp_path):
    rows = run_tiny("masked_lm.py", tmp_path)
    assert {(row["system"], row["mode"]) for row in rows} == {
        (system, mode)
        for system in ("full", "full in blocks", "nested", "nested, logits kept")
        for mode in ("XLA", "graph")
    }
    assert all(float(row["time_ratio"]) > 0 for row in rows)
    assert [row["system"] for row in rows if row["memory_ratio"]] == ["full", "full"]


def test_cascade(tmp_path):
    rows = run_tiny("cascade.py", tmp_path)
    assert {(row["head"], row["system"]) for row in rows} == {
        (head, system)
        for head in ("MRL", "MRL-E")
        for system in ("full width", "all prefixes", "cascade")
    }
    for row in rows:
        assert float(row["ratio_to_full_width"]) > 0
        assert 8 <= float(row["mean_dim"]) <= 32


def test_step_cost(tmp_path):
    pytest.importorskip("official")
    rows = run_tiny("step_cost.py", tmp_path)
    assert [(row["model"], row["system"]) for row in rows] == [
        ("resnet50", "FF"),
        ("resnet50", "MRL"),
        ("resnet50", "MRL-E"),
        ("bert", "FF"),
        ("bert", "MRL-E"),
    ]
    assert all(float(row["ratio_to_ff"]) > 0 for row in rows)
