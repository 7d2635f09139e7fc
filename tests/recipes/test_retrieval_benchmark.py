"""The retrieval benchmark runs at a tiny size, and its data are what they claim; no times."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from recipes.benchmarks import retrieval_reorder
from recipes.benchmarks.parts import nested_data, retrieval_plot, retrieval_targets

BENCHMARKS = pathlib.Path(__file__).parents[2] / "recipes" / "benchmarks"
PEERS = ["HNSW32, 64 dims", "HNSW32, 16 dims", "refine", "truncate", "IndexFlat", "full width"]


class TestNestedData:
    def test_a_small_database_is_the_start_of_a_large_one(self, tmp_path):
        data = nested_data.NestedData(width=16, classes=10)
        small, small_labels = data.rows(100, tmp_path)
        large, large_labels = data.rows(9000, tmp_path)
        np.testing.assert_array_equal(small, large[:100])
        np.testing.assert_array_equal(small_labels, large_labels[:100])
        assert isinstance(large, np.memmap)
        assert large.shape == (9000, 16)
        assert large.dtype == np.float32
        assert np.ptp(large[8192:, 0]) > 0

    def test_a_database_on_disk_is_not_written_again(self, tmp_path):
        data = nested_data.NestedData(width=16, classes=10)
        data.rows(50, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        data.rows(50, tmp_path)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
        assert len(before) == 2

    def test_rows_queries_and_held_out_queries_differ(self, tmp_path):
        data = nested_data.NestedData(width=16, classes=10)
        kinds = data.rows(20, tmp_path), data.queries(20), data.queries(20, held_out=True)
        firsts = [np.asarray(vectors[0]) for vectors, _ in kinds]
        assert not np.allclose(firsts[0], firsts[1])
        assert not np.allclose(firsts[1], firsts[2])
        assert not np.allclose(firsts[0], nested_data.NestedData(16, 10, seed=1).queries(1)[0])

    def test_more_dims_are_better_and_few_labels_are_unreachable(self, tmp_path):
        data = nested_data.NestedData(width=64, classes=200)
        rows, row_labels = data.rows(4000, tmp_path)
        queries, labels = data.queries(1000)
        found = nested_data.exact_map(rows, row_labels, queries, labels, [2, 8, 64])
        assert found[2] + 5 < found[8] < found[64] < 80

    def test_mean_ap_is_in_points(self):
        indices = np.array([[0, 1], [1, -1]])
        labels = np.array([3, 4])
        # 1/2 (1 + 0) and 1/2 (1 + 0).
        assert nested_data.mean_ap(indices, labels, labels, k=2) == pytest.approx(50)


class TestTargets:
    def test_limits_are_judged_from_their_side(self):
        assert retrieval_targets._row(5, "fast", 14.0, 14)["met"]
        assert not retrieval_targets._row(5, "fast", 13.9, 14)["met"]
        assert retrieval_targets._row(5, "small", 0.6, 0.65, most=True)["met"]
        assert not retrieval_targets._row(5, "small", 0.7, 0.65, most=True)["met"]

    def test_growth_says_when_the_largest_database_is_missing(self):
        rows = [
            {"n": n, "system": retrieval_targets.EXPORT, "p50_ms": p50}
            for n, p50 in ((100_000, 2), (300_000, 3))
        ]
        (row,) = retrieval_targets._growth_targets(rows)
        assert row["reached"] == pytest.approx(1.5)
        assert row["note"] == "1,000,000 rows not measured"
        rows.append({"n": 1_000_000, "system": retrieval_targets.EXPORT, "p50_ms": 6})
        (row,) = retrieval_targets._growth_targets(rows)
        assert (row["reached"], row["met"], row["note"]) == (pytest.approx(3), False, "")


class TestTables:
    def test_rows_of_other_sizes_are_kept(self, tmp_path):
        pytest.importorskip("faiss")
        from recipes.benchmarks import retrieval

        path = tmp_path / "speed.csv"
        path.write_text("n,system,old\n5,stale,1\n7,kept,2\n")
        retrieval.write_table(path, [{"n": 5, "system": "new", "us_per_query": 1.5}], 5)
        new, kept = retrieval.read_table(path)
        assert (new["system"], new["us_per_query"], new["numpy"]) == ("new", "1.5", np.__version__)
        assert (kept["n"], kept["system"], kept["us_per_query"]) == ("7", "kept", "")
        assert "old" not in new

    def test_growth_is_drawn_from_the_rows(self, tmp_path):
        pytest.importorskip("matplotlib")
        rows = [
            {"n": n, "system": name, "within_tolerance": True, "us_per_query": n, "p50_ms": p50}
            for name, p50 in (("export", 2.0), ("peer", ""))
            for n in (100, 1000)
        ]
        retrieval_plot.plot_growth(rows, tmp_path / "growth.png")
        assert (tmp_path / "growth.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_tiny_run_writes_every_table_and_keeps_other_sizes(tmp_path):
    pytest.importorskip("faiss")
    pytest.importorskip("scann")
    output = tmp_path / "out"
    output.mkdir()
    (output / "sweep.csv").write_text("n,system\n20000,stale\n7,kept\n")
    command = [sys.executable, str(BENCHMARKS / "retrieval.py"), "--tiny", f"--output={output}"]
    command.append(f"--cache={tmp_path / 'cache'}")
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    tables = {}
    for name in ("speed", "sweep", "exact", "memory", "targets"):
        with open(output / f"{name}.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
        first = tables[name][0]
        assert first["tensorflow"].startswith("2.")
        assert first["scann"]
        assert first["command"].startswith("python recipes/benchmarks/retrieval.py --tiny")
    systems = [row["system"] for row in tables["speed"]]
    assert all(any(peer in system for system in systems) for peer in PEERS)
    assert sum(system.startswith("export") for system in systems) == 3
    for row in tables["speed"]:
        assert float(row["us_per_query"]) > 0
        assert float(row["p99_ms"]) >= float(row["p50_ms"]) > 0
    flat = next(row for row in tables["speed"] if "IndexFlat" in row["system"])
    assert float(flat["mAP@10"]) == pytest.approx(float(flat["exact_mAP@10"]), abs=0.05)
    swept = {row["system"] for row in tables["sweep"]}
    assert "kept" in swept
    assert "stale" not in swept
    assert float(tables["exact"][0]["same_neighbours"]) > 0.99
    assert {row["what"] for row in tables["memory"]} == {"export peak", "disk", "loaded", "asked"}
    assert {row["met"] for row in tables["targets"]} <= {"True", "False"}
    assert (output / "growth.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_rerank_in_scann_is_timed_beside_the_one_over_blocks(tmp_path):
    pytest.importorskip("scann")
    sizes = "--n=1500 --width=32 --classes=20 --queries=64 --shortlist_dim=8 --reorder_dim=16"
    plans = "--shortlist 60 --kept 20 --leaves=7 --repeats=1"
    folders = [f"--cache={tmp_path / 'cache'}", f"--output={tmp_path / 'out'}"]
    retrieval_reorder.main([*sizes.split(), *plans.split(), *folders])
    with open(tmp_path / "out" / "reorder.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["first rerank in"] for row in rows] == ["blocks", "ScaNN"]
    assert float(rows[0]["mAP@10"]) == pytest.approx(float(rows[1]["mAP@10"]), abs=2)
    for row in rows:
        assert float(row["processor_us_per_query"]) > 0
        assert row["command"] == f"python recipes/benchmarks/retrieval_reorder.py {sizes} {plans}"
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
