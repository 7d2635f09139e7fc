"""The recipes that embed a corpus and put it into an engine; sources of rows; the capacity page."""

import csv
import json

import numpy as np
import pytest

from mrl_keras.retrieval import NestedIndex, SearchPlan
from mrl_keras.scale import Layout, capacity
from mrl_keras.scale.corpus import shard_of, write_corpus, write_shard
from recipes import embed_corpus, to_engine
from recipes.benchmarks import capacity as page
from recipes.common.engine_rows import find_rows

DIMS = [2, 4, 8]
ROWS = np.random.default_rng(0).standard_normal((60, 8)).astype("float32")
IDS = [f"row{i}" for i in range(60)]
VESPA = ["--rows=nowhere", "--engine=vespa", "--address=a", "--plan=8"]


@pytest.fixture
def corpus(tmp_path):
    """A corpus of two shards with a payload."""
    layout, entries = Layout(DIMS, "dot", shards=2), []
    for shard in range(2):
        of = [i for i in range(60) if shard_of(IDS[i], 2) == shard]
        payload = [json.dumps({"lang": "en", "year": i, "new": True}) for i in of]
        names = [IDS[i] for i in of]
        entries.append(
            write_shard(str(tmp_path / "corpus"), shard, names, ROWS[of], payload, layout)
        )
    write_corpus(str(tmp_path / "corpus"), entries, layout, {"encoder": None, "dead_letters": 0})
    return str(tmp_path / "corpus")


def collected(rows):
    parts = list(rows.read())
    order = np.argsort([int(name[3:]) for part in parts for name in part.ids.tolist()])
    return np.concatenate([part.vectors for part in parts])[order]


def test_rows_come_from_a_corpus_an_index_shards_or_a_run(corpus, tmp_path):
    rows = find_rows(corpus)
    np.testing.assert_array_equal(collected(rows), ROWS)
    assert (rows.count, rows.metric, rows.id_dtype) == (60, "dot", "string")

    index = NestedIndex.build(ROWS, DIMS, IDS)
    index.save(str(tmp_path / "run" / "indexes" / "a" / "index"))
    (tmp_path / "run" / "config.json").write_text("{}")
    shards = tmp_path / "shards"
    NestedIndex.build(ROWS[:25], DIMS, IDS[:25]).save(str(shards / "shard-00000" / "index"))
    NestedIndex.build(ROWS[25:], DIMS, IDS[25:]).save(str(shards / "shard-00001" / "index"))
    for folder in (tmp_path / "run", tmp_path / "run" / "indexes" / "a" / "index", shards):
        rows = find_rows(str(folder))
        np.testing.assert_array_equal(collected(rows), ROWS)
        assert (rows.count, rows.metric, rows.dims) == (60, "cosine", (2, 4, 8))

    index.save(str(tmp_path / "run" / "indexes" / "b" / "index"))
    with pytest.raises(ValueError, match="must have one index, and has 2. Name one of"):
        find_rows(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="must be an embedded corpus, shards, an index, or a run"):
        find_rows(str(tmp_path))


def test_vespas_texts_are_written_from_a_corpus(corpus, tmp_path, capsys):
    folder = tmp_path / "vespa"
    common = [f"--rows={corpus}", "--engine=vespa", f"--address={folder}"]
    to_engine.main([*common, "--plan=2:20,8", "--name=things"])
    schema = (folder / "schemas" / "things.sd").read_text()
    assert "field year type long" in schema
    assert "field new type bool" in schema
    assert "distance-metric: dotproduct" in schema
    lines = [json.loads(line) for line in (folder / "feed.jsonl").read_text().splitlines()]
    found = {line["fields"]["id"]: line["fields"]["d8"]["values"] for line in lines}
    np.testing.assert_allclose([found[name] for name in IDS], ROWS, rtol=1e-6)
    assert "vespa deploy" in capsys.readouterr().out


@pytest.mark.backends
def test_an_engine_is_filled_once_and_updated(corpus, tmp_path, capsys):
    pytest.importorskip("qdrant_client", reason='pip install -e ".[backends]"')
    common = [f"--rows={corpus}", "--engine=qdrant", f"--address={tmp_path / 'qdrant'}"]
    for more, written in (([], 60), ([], 0), (["--update"], 60)):
        to_engine.main([*common, "--plan=2:20,8", *more])
        assert f"{written} rows written, 60 in qdrant" in capsys.readouterr().out
    from qdrant_client import QdrantClient

    from mrl_keras.engines import QdrantEngine

    plan = SearchPlan((2, 8), (20,), k=3)
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    with QdrantEngine(client, "docs", (2, 8), metric="dot") as engine:
        found = engine.query(ROWS[:5], plan, {"year": list(range(30))})
    from mrl_keras.retrieval import IndexOptions

    index = NestedIndex.build(ROWS[:30], DIMS, IDS[:30], IndexOptions(metric="dot"))
    np.testing.assert_array_equal(found.ids, index.search(ROWS[:5], plan).ids)


@pytest.mark.parametrize(
    ("script", "arguments", "text"),
    [
        (embed_corpus, ["a.txt", "--corpus=c"], "needs --model, or --dims"),
        (embed_corpus, ["a.txt", "--corpus=c", "--dims", "8", "4"], "ascend"),
        (embed_corpus, ["a.txt", "--corpus=c", "--dims", "8", "--storage=a"], "`storage` must"),
        (embed_corpus, ["a.txt", "--corpus=c", "--model=nowhere"], "nowhere"),
        (to_engine, ["--rows=r", "--engine=faiss"], "invalid choice"),
        (to_engine, [*VESPA, "--filter", "a"], "--filter takes FIELD=VALUE"),
        (to_engine, VESPA, "must be an embedded corpus"),
    ],
)
def test_what_is_wrong_is_one_line(script, arguments, text, capsys):
    with pytest.raises(SystemExit):
        script.main(arguments)
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1


def test_filters_hold_numbers_and_several_values():
    given = ["lang=en", "lang=de", "year=2020", "new=true", 'code="7"', "x=a=b", "y=[1]"]
    assert to_engine.parse_filters(given) == {
        "lang": ["en", "de"], "year": [2020], "new": [True], "code": ["7"], "x": ["a=b"],
        "y": ["[1]"],
    }  # fmt: skip


def test_shards_of_a_corpus_that_is_there(corpus, tmp_path, capsys):
    common = ["no.txt", f"--corpus={corpus}", "--dims", "2", "4", "8"]
    for plan, text in (("3:20,8", "Received [3]"), ("2:20,8", "is embedded as")):
        with pytest.raises(SystemExit):  # of other dims; by another metric than the corpus
            embed_corpus.main([*common, f"--shard_plan={plan}"])
        assert text in capsys.readouterr().err
    assert not (tmp_path / "corpus-shards").exists()


def test_a_plan_of_other_dims_is_refused(corpus, tmp_path, capsys):
    common = [f"--rows={corpus}", "--engine=vespa", f"--address={tmp_path / 'vespa'}"]
    with pytest.raises(SystemExit):
        to_engine.main([*common, "--plan=2:20,16"])
    assert "Received [16]" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        to_engine.main([*common, "--plan=2:20,8", "--ask", "party"])
    assert "--ask needs the exported model" in capsys.readouterr().err


def test_the_capacity_page_shows_what_the_formulas_give(tmp_path):
    constants = {
        "scan_dims_per_second": 2e9, "ram_rerank_seconds": 1e-6, "disk_rerank_seconds": 1e-4,
        "embed_rows_per_second": 100.0, "shortlist_dim": 16, "encoder": "emoji", "cpu": "a cpu",
        "cores": 2, "width": 2048,
    }  # fmt: skip
    shard = {
        "rows": 1000, "width": 64, "shards": 4, "rule": "whole", "plan": "16:200,64",
        "recall@10": 0.98765, "mAP@10": 0.5, "reranked": 800, "microseconds_query": 1234,
        "microseconds_merge": 56, "slowest_median_ms": 1.5, "slowest_99_ms": 2.5, "command": "c",
    }  # fmt: skip
    for name, row in (("constants", constants), ("shards", shard)):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)
    options = page.parse_arguments([f"--measured={tmp_path}", "--ram_gb=50"])
    page.main(options)
    text = (tmp_path / "README.md").read_text()
    assert "| 4 | whole | 200 | 98.77 % | 50.00 % | 800 | 1.23 | 0.056 | 1.50 | 2.50 |" in text
    rows = list(csv.DictReader((tmp_path / "capacity.csv").read_text().splitlines()))
    assert len(rows) == 6
    from mrl_keras.scale import MachineSpeed, StoredRows

    speed = {name: constants[name] for name in list(constants)[:4]}
    machine = MachineSpeed(ram_bytes=50e9, disk_bytes=2e12, cores=16, **speed)
    plan = SearchPlan((16, 2048), (200,))
    stored = StoredRows(10**9, (16, 2048), on_disk=True)
    found = capacity(stored, plan, machine, opened=0.02, workers=100)
    (row,) = [r for r in rows if r["rows"] == str(10**9) and r["reranked_from"] == "SSD"]
    for name, value in found._asdict().items():
        assert float(row[name]) == pytest.approx(value)
    assert f"| 1e09 | SSD | {found.machines} |" in text
    assert (tmp_path / "capacity.png").read_bytes()[:4] == b"\x89PNG"
