"""The retrieval benchmark runs at a tiny size, and its data are what they claim; no times."""

import csv
import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mrl_keras import files
from recipes.benchmarks import (
    fewer_bits,
    growth,
    larger_than_memory,
    leaves,
    retrieval_pruned,
    retrieval_reorder,
)
from recipes.benchmarks.parts import (
    log_log,
    nested_data,
    retrieval_plot,
    retrieval_runs,
    retrieval_table,
    retrieval_targets,
)

BENCHMARKS = pathlib.Path(__file__).parents[2] / "recipes" / "benchmarks"
PEERS = [
    *("HNSW32, 64 dims", "HNSW32, 16 dims", "FAISS refine", "IndexFlat", "RefinePanorama"),
    *("HNSW32,FlatPanorama8", "IVF,FlatPanorama8", "IVF,PQ4fs", "RaBitQfs"),
    *("truncate (D_s", "truncate, SOAR", "full width (tree", "full width, SOAR"),
    *("hnswlib", "usearch, f16", "usearch, i8"),
]


def speed_row(n, system, run="1", **columns):
    """A row of speed.csv, of a system that is as fast as the export."""
    row = {"n": n, "system": system, "run": run, "within_tolerance": "True", "knob": "7"}
    row |= {"mAP@10": 65.0, "exact_mAP@10": 65.05, "note": "", "plan": ""}
    for prefix in ("", "export_"):
        row |= {f"{prefix}us_per_query": 50.0, f"{prefix}processor_us": 90.0}
        row |= {f"{prefix}p50_ms": 0.2, f"{prefix}p99_ms": 0.3}
    row |= {"times_the_export": 1.0, "memory_ratio": 0.5, "build_seconds": 10.0}
    return row | columns


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


EXPORT, HNSW = retrieval_targets.EXPORT, "FAISS HNSW32, 2048 dims"


def targets(speed):
    """{(n, target): row} of rows of speed.csv alone."""
    tables = {"speed": speed, "exact": [], "memory": []}
    rows = retrieval_targets.reached_targets(tables, 2048)
    return {(row["n"], row["target"]): row for row in rows}


class TestTargets:
    def test_the_median_of_the_runs_is_judged_and_its_range_given(self):
        times = {"1": 19.0, "2": 23.0, "3": 20.5}
        rows = [speed_row(300_000, EXPORT, run) for run in times]
        rows += [speed_row(300_000, HNSW, run, times_the_export=t) for run, t in times.items()]
        row = targets(rows)[300_000, f"queries a second / {HNSW}"]
        assert (row["reached"], row["lowest"], row["highest"]) == (20.5, 19.0, 23.0)
        assert row["met"]
        assert (row["at_least"], row["at_most"]) == (20, "")

    @pytest.mark.parametrize(("n", "least"), [(30_000, 8), (300_000, 20), (1_281_167, 14)])
    def test_what_is_wanted_depends_on_the_rows(self, n, least):
        rows = [speed_row(n, EXPORT), speed_row(n, HNSW, times_the_export=least - 0.1)]
        row = targets(rows)[n, f"queries a second / {HNSW}"]
        assert (row["at_least"], row["met"]) == (least, False)

    def test_nothing_is_met_below_equal_map(self):
        rows = [speed_row(5, EXPORT, within_tolerance="False"), speed_row(5, "hnswlib")]
        assert not any(row["met"] for row in targets(rows).values())
        rows[0]["within_tolerance"] = "True"
        assert all(row["met"] for row in targets(rows).values())

    def test_peers_below_equal_map_or_skipped_do_not_count(self):
        skipped = dict.fromkeys(speed_row(5, ""), "") | {"n": 5, "system": "ScaNN"}
        low = speed_row(5, "low", within_tolerance="False", p50_ms=0.001)
        rows = [speed_row(5, EXPORT), low, skipped, speed_row(5, "hnswlib", p50_ms=0.1)]
        found = targets(rows)
        assert [name for _, name in found if "a second" in name] == ["queries a second / hnswlib"]
        row = found[5, "single-query p50 / the fastest peer's"]
        assert (row["reached"], row["met"], row["note"]) == (pytest.approx(2), False, "hnswlib")

    def test_the_build_is_judged_by_scanns_own(self):
        own = speed_row(5, retrieval_targets.TRUNCATE, build_seconds="10")
        rows = [speed_row(5, EXPORT, build_seconds="16"), own]
        row = targets(rows)[5, "index build / ScaNN's own"]
        assert (row["reached"], row["at_most"], row["met"]) == (pytest.approx(1.6), 1.5, False)

    def test_growth_says_when_the_largest_database_is_missing(self):
        rows = [
            speed_row(n, EXPORT, p50_ms=p50, p99_ms=p50)
            for n, p50 in ((100_000, 2.0), (300_000, 3.0))
        ]
        row = targets(rows)[300_000, "single-query p50 at 300,000 / at 100,000 rows"]
        assert row["reached"] == pytest.approx(1.5)
        assert row["note"] == "1,000,000 rows not measured"
        rows.append(speed_row(1_000_000, EXPORT, p50_ms=6.0))
        row = targets(rows)[1_000_000, "single-query p50 at 1,000,000 / at 100,000 rows"]
        assert (row["reached"], row["met"], row["note"]) == (pytest.approx(3), False, "")


class TestTables:
    def test_rows_of_other_sizes_are_kept(self, tmp_path):
        pytest.importorskip("faiss")
        from recipes.benchmarks import retrieval

        path = tmp_path / "speed.csv"
        path.write_text("n,run,system,old\n5,1,stale,1\n7,1,kept,2\n5,2,kept,3\n")
        retrieval.write_table(path, [{"n": 5, "system": "new", "us_per_query": 1.5}], 5, 1)
        new, *kept = retrieval_runs.read_table(path)
        assert (new["system"], new["us_per_query"], new["numpy"]) == ("new", "1.5", np.__version__)
        assert [(row["n"], row["run"], row["system"]) for row in kept] == [
            ("7", "1", "kept"),
            ("5", "2", "kept"),
        ]
        assert kept[0]["us_per_query"] == ""
        assert "old" not in new

    def test_a_table_without_runs_is_the_first_run(self, tmp_path):
        (tmp_path / "speed.csv").write_text("n,system\n5,old\n")
        (row,) = retrieval_runs.read_table(tmp_path / "speed.csv")
        assert row == {"n": "5", "system": "old", "run": "1"}
        assert retrieval_runs.read_table(tmp_path / "none.csv") == []

    def test_the_page_has_every_system_once_with_its_range(self, tmp_path):
        rows = [speed_row(5, "a", run, us_per_query=us) for run, us in (("1", 10), ("2", 30))]
        rows.append(speed_row(5, "low", within_tolerance="False", **{"mAP@10": 64.0}))
        rows.append(dict.fromkeys(rows[0], "") | {"n": 5, "system": "none", "note": "skipped: x"})
        retrieval_table.write_peers(rows, tmp_path / "peers.md")
        lines = (tmp_path / "peers.md").read_text().splitlines()
        header, _, a, low, none = (line.split(" | ") for line in lines[-5:])
        at = header.index("batches: us a query")
        assert a[at : at + 2] == ["20.0 (10.0 to 30.0)", "0.40 (0.20 to 0.60)"]
        assert a[-1] == "2 |"
        assert "**-1.05**" in low
        assert none[1] == "skipped: x"
        assert len({len(line) for line in (header, a, low, none)}) == 1

    def test_a_peer_that_cannot_be_built_says_why(self, monkeypatch):
        pytest.importorskip("faiss")
        pytest.importorskip("scann")
        from recipes.benchmarks.parts import retrieval_peers

        rows = np.zeros((1000, 8), np.float32)
        assert retrieval_peers.reason_to_skip(retrieval_peers.FaissFlat, rows) == ""
        monkeypatch.setattr(retrieval_peers, "available_bytes", lambda: 33_000)
        assert retrieval_peers.reason_to_skip(retrieval_peers.FaissFlat, rows).startswith(
            "building takes some 0.0 GiB"
        )
        monkeypatch.setattr(retrieval_peers.FaissFlat, "package", "no_such_package")
        assert retrieval_peers.reason_to_skip(retrieval_peers.FaissFlat, rows) == (
            'no_such_package is not installed (pip install "mrl_keras[benchmarks]")'
        )

    def test_growth_is_drawn_from_the_rows(self, tmp_path):
        pytest.importorskip("matplotlib")
        rows = [
            speed_row(n, name, us_per_query=us, p50_ms=p50)
            for name, us, p50 in (("export", 1.0, 2.0), ("peer", 3.0, ""), ("skipped", "", ""))
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
    (output / "sweep.csv").write_text("n,system\n4000,stale\n7,kept\n")
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
    for name in ("hnswlib", "usearch"):
        if importlib.util.find_spec(name) is None:
            skipped = next(row for row in tables["speed"] if name in row["system"])
            assert skipped["note"].startswith(f"skipped: {name} is not installed")
    for row in tables["speed"]:
        if row["note"]:
            continue
        assert float(row["us_per_query"]) > 0
        assert float(row["processor_us"]) > 0
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
    page = (output / "peers.md").read_text()
    assert all(f"| {system} |" in page for system in systems)


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


def test_pruned_search_beside_flat_indexes(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.standard_normal((300, 16)))
    np.save(tmp_path / "queries.npy", rng.standard_normal((40, 16)))
    files = [f"--rows={tmp_path}/rows.npy", f"--queries_file={tmp_path}/queries.npy"]
    made = ["--tiny", f"--cache={tmp_path}"]
    for arguments, width in ((made, "64"), ([*files, "--repeats=1", "--batches", "8"], "16")):
        retrieval_pruned.main([*arguments, f"--output={tmp_path}"])
        with open(tmp_path / "pruned.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["width"] for row in rows} == {width}
        assert {row["system"] for row in rows} >= {"search_pruned", "IndexFlat"}
        for row in rows:
            assert float(row["same_neighbours"]) > 0.99
            if row["system"] == "search_pruned":
                # At most the front, half of the dims, all of them, and those of the 40 seeds.
                most = (1.5 + 40 / float(row["n"])) * float(width)
                assert 8 <= float(row["dims_read_mean"]) <= most
    with pytest.raises(SystemExit):
        retrieval_pruned.main([files[0]])


def test_fewer_bits_on_made_and_given_rows(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.standard_normal((300, 64)))
    np.save(tmp_path / "queries.npy", rng.standard_normal((40, 64)))
    files = [f"--rows={tmp_path}/rows.npy", f"--queries_file={tmp_path}/queries.npy"]
    fewer_bits.main(["--tiny", f"--cache={tmp_path}", f"--output={tmp_path}", *files])
    tables = {}
    for name in ("storage", "shortlist"):
        with open(tmp_path / f"bits_{name}.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    for data in ("made, seed 0", "rows.npy"):
        storage = {row["storage"]: row for row in tables["storage"] if row["data"] == data}
        # dims 8, 16, 32 and 64: a scale and a norm of each, and an id
        assert float(storage["int8"]["bytes_per_row"]) == 64 + 2 * 4 * 4 + 8
        assert float(storage["float32"]["less_than_float32"]) == 0
        assert abs(float(storage["int8"]["less_than_float32"])) < 2
        shortlists = {r["shortlist_by"]: r for r in tables["shortlist"] if r["data"] == data}
        assert float(shortlists["32 sign bits"]["bytes_per_row"]) == 8
        assert 0.1 < float(shortlists["32 sign bits"]["held_of_the_nearest_10"]) <= 1
    with pytest.raises(SystemExit):
        fewer_bits.main([files[0]])


def test_leaves_of_made_and_given_rows(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.standard_normal((300, 32)))
    np.save(tmp_path / "queries.npy", rng.standard_normal((20, 32)))
    files = [f"--rows={tmp_path}/rows.npy", f"--queries_file={tmp_path}/queries.npy"]
    leaves.main(["--tiny", f"--cache={tmp_path}", f"--output={tmp_path}/leaves.csv", *files])
    with open(tmp_path / "leaves.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert (tmp_path / "leaves.png").exists()
    systems = {"partition", "second leaves, weight 1", "ScaNN's tree", "IVF"}
    assert {row["system"] for row in table} == {*systems, "ScaNN's tree and codes"}
    for row in table:
        n, scanned = int(row["n"]), float(row["rows_scanned"])
        first = int(row["leaves"]) * int(row["d_c"]) + scanned * int(row["d_s"])
        assert float(row["mflops"]) == pytest.approx((first + 50 * 32) / 1e6)
        assert (row["mAP_at_10"] == "") == (row["data"] == "rows")
        assert 0 < scanned <= n
        if row["opened"] == "20":  # all leaves: exact search by D_s, whatever made the leaves
            assert scanned == n
            same = {
                other["recall_at_10"]
                for other in table
                if (other["data"], other["d_s"], other["opened"]) == (row["data"], row["d_s"], "20")
                and other["system"] != "ScaNN's tree and codes"
            }
            assert len(same) == 1
    with pytest.raises(SystemExit):
        leaves.main([files[0]])


class TestGrowth:
    def test_exponents_are_those_of_power_laws(self):
        rows = [
            {"axis": "rows", "what": what, "system": "a", "x": x, "value": 3 * x**power}
            for what, power in (("linear", 1), ("root", 0.5))
            for x in (10, 100, 1000)
        ]
        rows.append({"axis": "rows", "what": "linear", "system": "one point", "x": 5, "value": 1})
        linear, root = growth.exponents(rows)
        assert (linear["exponent"], linear["points"]) == (pytest.approx(1), 3)
        assert root["exponent"] == pytest.approx(0.5)
        assert root["standard_error"] == pytest.approx(0, abs=1e-6)
        assert (linear["from"], linear["to"]) == (10, 1000)

    def test_an_exponent_has_the_error_of_its_fit(self):
        points = {1: 1.0, 10: 30.0, 100: 100.0, 1000: 3000.0}
        x, y = np.log(list(points)), np.log(list(points.values()))
        (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
        found = log_log.Power.of(points)
        assert found.exponent == pytest.approx(slope)
        assert found.error == pytest.approx(covariance[0, 0] ** 0.5)
        assert np.isnan(log_log.Power.of({1: 1.0, 2: 3.0}).error)

    @pytest.mark.slow
    def test_a_tiny_run_measures_every_axis_and_gathers_the_rows(self, tmp_path):
        pytest.importorskip("matplotlib")
        rows = [speed_row(n, "export", us_per_query=n) for n in (100, 1000)]
        files.write_csv(tmp_path / "speed.csv", rows)
        growth.main(["--tiny", f"--retrieval={tmp_path}", f"--output={tmp_path / 'out'}"])
        with open(tmp_path / "out" / "growth.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        measured = [row for row in rows if row["axis"] != "rows"]
        assert {(row["axis"], row["x"]) for row in measured} == {
            *(("prefixes", "1"), ("prefixes", "3"), ("classes", "10"), ("classes", "40")),
            *(("vocabulary", "50"), ("vocabulary", "100")),
        }
        assert len(measured) == 18
        assert all(float(row["value"]) > 0 for row in measured)
        with open(tmp_path / "out" / "exponents.csv", newline="") as file:
            fits = {(row["axis"], row["what"]): row for row in csv.DictReader(file)}
        batches = fits["rows", "Batches of 256: microseconds a query"]
        assert float(batches["exponent"]) == pytest.approx(1)
        page = (tmp_path / "out" / "growth.md").read_text()
        assert "| rows | Batches of 256: microseconds a query | export | 1.00 | 100 | 1,000" in page
        for name in ("rows", "head"):
            assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_rows_larger_than_memory_are_read_once(tmp_path):
    pytest.importorskip("scann")
    arguments = ["--tiny", f"--cache={tmp_path / 'cache'}", f"--output={tmp_path / 'out.csv'}"]
    larger_than_memory.main(arguments)
    with open(tmp_path / "out.csv", newline="") as file:
        rows = {row["step"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["build", "export", "leaf order"]
    for row in rows.values():
        assert float(row["read_ratio"]) >= 0
        assert float(row["seconds"]) > 0
    assert os.listdir(tmp_path / "cache") == []
