"""Each benchmark runs at a tiny size and writes its CSV; no times are asserted."""

import csv
import importlib

import pytest

from recipes.benchmarks import contrastive
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import processor_name


def run_tiny(name, tmp_path, *arguments):
    """The rows that a benchmark writes, run in this process."""
    module = importlib.import_module(f"recipes.benchmarks.{name}")
    output = tmp_path / "result.csv"
    module.main(module.parse_arguments(["--tiny", f"--output={output}", *arguments]))
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def no_processes(monkeypatch):
    """Peak memory is not measured, so that no process starts."""
    for name in ("head", "large_batch", "masked_lm"):
        module = importlib.import_module(f"recipes.benchmarks.{name}")
        monkeypatch.setattr(module, "peak_in_own_process", lambda script, options: 3 * 2**20)


@pytest.mark.slow
def test_head(tmp_path, no_processes):
    rows = run_tiny("head", tmp_path)
    assert {(row["head"], row["mode"]) for row in rows} == {
        (head, mode)
        for head in ("plain", "MRL-E", "MRL", "recomputed MRL-E")
        for mode in ("XLA", "graph")
    }
    for row in rows:
        assert float(row["ratio_to_plain"]) > 0
        assert row["tensorflow"].startswith("2.")
    assert [(row["head"], row["peak_mib"]) for row in rows if row["peak_mib"]] == [("plain", "3.0")]


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own():
    from recipes.benchmarks import head
    from recipes.benchmarks.parts.memory import peak_in_own_process

    sizes = {"batch": 512, "width": 1024, "classes": 1000, "smallest_dim": 8}
    peak = peak_in_own_process(head.__file__, {**sizes, "memory_of": "plain"})
    assert 4 * 512 * 1000 < peak < 2**30  # the logits at least


def test_contrastive_systems_agree():
    options = contrastive.parse_arguments(["--tiny"])
    contrastive.check_agreement(contrastive.make_steps(options))


@pytest.mark.slow
def test_contrastive(tmp_path):
    rows = run_tiny("contrastive", tmp_path)
    assert {(row["system"], row["mode"]) for row in rows} == {
        (system, mode)
        for system in ("loop", "nested", "products only", "exponential only")
        for mode in ("XLA", "graph")
    }
    assert all(float(row["speedup"]) > 0 for row in rows)


@pytest.mark.slow
def test_large_batch(tmp_path, no_processes):
    rows = run_tiny("large_batch", tmp_path)
    found = [(row["system"], row["batch"]) for row in rows]
    small = [("whole", "4"), ("chunks", "4")]
    assert found == [*small, ("large, in chunks", "8"), ("large, logits too", "8")]
    assert all(float(row["time_ratio"]) > 0 for row in rows)


@pytest.mark.slow
def test_masked_lm(tmp_path, no_processes):
    rows = run_tiny("masked_lm", tmp_path)
    assert {(row["system"], row["mode"]) for row in rows} == {
        (system, mode)
        for system in ("full", "full in blocks", "nested", "nested, logits kept")
        for mode in ("XLA", "graph")
    }
    assert all(float(row["time_ratio"]) > 0 for row in rows)
    assert [row["system"] for row in rows if row["memory_ratio"]] == ["full", "full"]


@pytest.mark.slow
def test_cascade(tmp_path):
    rows = run_tiny("cascade", tmp_path, "--leaving=0.5")
    assert {(row["head"], row["system"]) for row in rows} == {
        (head, system)
        for head in ("MRL", "MRL-E")
        for system in ("full width", "all prefixes", "cascade")
    }
    for row in rows:
        assert float(row["ratio_to_full_width"]) > 0
        assert 8 <= float(row["mean_dim"]) <= 32


@pytest.mark.slow
def test_input_pipeline(tmp_path):
    rows = run_tiny("input_pipeline", tmp_path)
    assert [row["system"] for row in rows] == ["pipeline", "step", "both"]


@pytest.mark.slow
def test_single_query(tmp_path):
    pytest.importorskip("scann")
    rows = run_tiny("single_query", tmp_path, f"--cache={tmp_path}")
    clients = ["Python", "SessionModel", "C API", "C API inline"]
    assert [row["client"] for row in rows] == clients
    for row in rows:
        assert 0 < float(row["p50_us"]) <= float(row["p99_us"])
        assert float(row["queries_per_second_of_threads"]) > 0
        assert int(row["ops"]) > 10


@pytest.mark.slow
def test_step_cost(tmp_path):
    pytest.importorskip("official")
    rows = run_tiny("step_cost", tmp_path)
    assert [(row["model"], row["system"]) for row in rows] == [
        ("resnet50", "FF"),
        ("resnet50", "MRL"),
        ("resnet50", "MRL-E"),
        ("bert", "FF"),
        ("bert", "MRL-E"),
    ]
    assert all(float(row["ratio_to_ff"]) > 0 for row in rows)


@pytest.mark.slow
def test_checkpoints(tmp_path):
    pytest.importorskip("official")
    rows = run_tiny("checkpoints", tmp_path)
    systems = {"npz", "npz in the background", "CheckpointManager", "CheckpointManager async"}
    for model in ("ResNet50, momentum SGD", "BERT-Base, AdamW"):
        found = {row["system"]: row for row in rows if row["model"] == model}
        assert set(found) >= systems
        sizes = {int(row["bytes"]) for row in found.values()}
        assert min(sizes) > 4 * int(found["npz"]["variables"])
        assert all(float(row["restored_median"]) > 0 for row in found.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a .quantize. method:UserWarning")
def test_int8(tmp_path):
    rows = run_tiny("int8", tmp_path)
    assert [(row["head"], row["dim"]) for row in rows] == [
        (head, dim) for head in ("MRL", "MRL-E") for dim in ("2", "4")
    ]
    for row in rows:
        assert 2 < float(row["bytes"]) / float(row["int8_bytes"]) < 4
        assert abs(float(row["points"])) < 10


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("flags : fma avx2", "Some CPU (avx2)"),
        ("flags : avx2 avx512f avx512_bf16", "Some CPU (avx512_bf16)"),
        ("flags : sse2", "Some CPU"),
        ("", "Some CPU"),
    ],
)
def test_processor_name_has_its_widest_vector_instructions(tmp_path, flags, name):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\nmodel name : Some CPU\n{flags}\n")
    assert processor_name(path) == name


def test_processor_has_a_name_where_the_system_lists_none(tmp_path):
    assert processor_name(tmp_path / "nothing")


class TestScriptParser:
    def parser(self):
        parser = ScriptParser("recipes/benchmarks/head.py", "Times.\n\nMore text.")
        parser.add_argument("--batch", type=int, default=256)
        parser.add_measuring("head.csv", repeats=41, tiny={"batch": 2})
        return parser

    def test_tiny_sets_its_values(self):
        assert self.parser().parse_args([]).batch == 256
        options = self.parser().parse_args(["--tiny", "--repeats=3"])
        assert (options.batch, options.repeats, options.output) == (2, 3, "head.csv")

    def test_the_command_is_kept(self, tmp_path):
        options = self.parser().parse_args(["--output", "a b.csv", "--tiny"])
        command = options.command
        assert command.endswith("head.py --output 'a b.csv' --tiny")
        assert without_folders(command).endswith("head.py --tiny")

    def test_a_mistake_is_one_line(self, capsys):
        with pytest.raises(SystemExit):
            self.parser().parse_args(["--bat=3"])
        (line,) = capsys.readouterr().err.splitlines()
        assert line == "head: unrecognized arguments: --bat=3 (--help lists the options)"


@pytest.mark.slow
def test_sharding(tmp_path):
    from recipes.benchmarks import sharding

    folders = [f"--output={tmp_path / 'out'}", f"--cache={tmp_path / 'cache'}"]
    sharding.main(sharding.parse_arguments(["--tiny", *folders]))
    with open(tmp_path / "out" / "shards.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    by = {(row["shards"], row["rule"]): row for row in rows}
    assert set(by) == {(shards, rule) for shards in "13" for rule in ("whole", "share")}
    one, three = float(by["1", "whole"]["recall@10"]), float(by["3", "whole"]["recall@10"])
    assert 0.8 < one <= three  # whole plans in every shard find no less
    assert int(by["3", "whole"]["reranked"]) == 600
    assert 200 <= int(by["3", "share"]["reranked"]) < 300
    with open(tmp_path / "out" / "constants.csv", newline="") as file:
        (constants,) = csv.DictReader(file)
    assert all(float(constants[name]) > 0 for name in constants if name.endswith("_second"))
    assert float(constants["disk_rerank_seconds"]) > 0


@pytest.mark.backends
def test_corpus(tmp_path):
    pytest.importorskip("apache_beam", reason='pip install -e ".[backends]"')
    (row,) = run_tiny("corpus", tmp_path)
    assert (row["rows"], row["dead_letters"], row["shards"]) == ("2000", "0", "16")
    assert float(row["rows_per_second"]) > 0
    assert 0 < float(row["peak_mib_before"]) <= float(row["peak_mib"])
    assert 4 * 8 * 2000 <= int(row["bytes_d8"]) < int(row["bytes_d64"]) / 4
