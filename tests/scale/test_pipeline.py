"""Beam's pipeline, on its in-process runner: rows, dead letters, second runs, killed runs."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from mrl_keras.export import export_saved_model
from mrl_keras.retrieval import NestedIndex, SearchPlan, merge_results
from mrl_keras.scale import (
    EmbeddedCorpus,
    EmbedOptions,
    ExportedEncoder,
    Layout,
    RecordOptions,
    build_shards,
    embed_corpus,
    load_shards,
    throughput,
)
from tests.support.recipe_runs import run

ROOT = pathlib.Path(__file__).parents[2]
DIMS = [2, 4, 8]


class Refusing(keras.layers.Layer):
    """Fails on numbers above 100."""

    def call(self, inputs):
        import tensorflow as tf

        with tf.control_dependencies([tf.debugging.assert_less(inputs, 100.0)]):
            return tf.identity(inputs)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An exported encoder of rows of 5 numbers, none above 100."""
    inputs = keras.Input((5,), name="features")
    encoder = keras.Model(inputs, keras.layers.Dense(8, activation="tanh")(Refusing()(inputs)))
    return os.path.dirname(
        export_saved_model(str(tmp_path_factory.mktemp("model") / "m"), encoder, nesting_dims=DIMS)
    )


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    inputs = keras.Input((6, 6, 3), name="images")
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    encoder = keras.Model(inputs, keras.layers.Dense(8)(pooled))
    return export_saved_model(
        str(tmp_path_factory.mktemp("model") / "i"), encoder, nesting_dims=DIMS
    )


def write_rows(folder, rows, **columns):
    """Files of 40 rows, with the columns "key" and "embedding"."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    values = np.random.default_rng(0).standard_normal((rows, 5)).astype("float32")
    for low in range(0, rows, 40):
        part = slice(low, low + 40)
        table = {"key": [f"row{i}" for i in range(rows)][part], "embedding": list(values[part])}
        table |= {name: column[part] for name, column in columns.items()}
        pyarrow.parquet.write_table(pyarrow.table(table), folder / f"{low:06d}.parquet")
    return values


def all_rows(folder):
    corpus = EmbeddedCorpus(str(folder))
    corpus.check()
    found = list(corpus.read())
    return np.concatenate([r.ids for r in found]), np.concatenate([r.vectors for r in found])


def dead_letters(folder):
    return [json.loads(line) for line in (folder / "dead_letters.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_encoder_prepares_and_embeds_rows_and_images(model, image_model):
    import tensorflow as tf

    encoder = ExportedEncoder(model, batch_size=4)
    rows = np.random.default_rng(0).standard_normal((10, 5)).astype("float32")
    found = encoder([encoder.prepare(row) for row in rows])
    signature = tf.saved_model.load(os.path.join(model, "1")).signatures["embed"]
    np.testing.assert_allclose(found, signature(features=rows)["embedding"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(encoder([rows[9]])[0], found[9])  # whatever came with it
    assert encoder.nesting_dims == (2, 4, 8)

    images = ExportedEncoder(image_model)
    wide = np.zeros((12, 24, 3), np.uint8)
    wide[:, 6:18] = 200
    prepared = images.prepare(tf.io.encode_png(wide).numpy())
    np.testing.assert_array_equal(prepared, np.full((6, 6, 3), 200, np.float32))
    for encode, value, text in [
        (encoder, "text", "takes float32 .* and this is str"),
        (encoder, np.zeros(4), r"and this is \(4,\)"),
        (encoder, np.full(5, np.nan), "not finite"),
        (images, b"no pixels", "no image that TensorFlow decodes"),
    ]:
        with pytest.raises(ValueError, match=text):
            encode.prepare(value)
    with pytest.raises(ValueError, match=r"must be one of .*'embed'.*Received 'classify'"):
        ExportedEncoder(model, "classify")
    assert ExportedEncoder(image_model).fingerprint() != encoder.fingerprint()


@pytest.mark.slow
def test_shards_are_built_resumed_repaired_and_searched(tmp_path, capsys):
    from mrl_keras.export import load
    from mrl_keras.scale.corpus import shard_of, write_corpus, write_shard

    rows = np.random.default_rng(0).standard_normal((90, 8)).astype("float32")
    ids, layout = [f"row{i}" for i in range(90)], Layout(DIMS, shards=3)
    corpus, output = tmp_path / "corpus", tmp_path / "shards"
    entries = []
    for shard in range(3):
        of = [i for i in range(90) if shard_of(ids[i], 3) == shard]
        names = [ids[i] for i in of]
        entries.append(write_shard(str(corpus), shard, names, rows[of], [""] * len(of), layout))
    write_corpus(str(corpus), entries, layout, {})
    plan = SearchPlan((2, 8), (40,), k=5)

    middle = corpus / entries[1]["file"]
    whole = middle.read_bytes()
    middle.write_bytes(whole[:300])
    with pytest.raises(ValueError, match="1 of 3 shards failed .shard-00001.*damaged"):
        build_shards(str(corpus), str(output), plan)
    there = sorted(output.glob("shard-*"))
    assert [path.name for path in there] == ["shard-00000", "shard-00002"]
    with pytest.raises(
        ValueError, match="must hold all shards of its corpus. It lacks shard-00001"
    ):
        load_shards(str(output))
    stamps = {path: path.stat().st_mtime_ns for path in there}
    middle.write_bytes(whole)
    paths = build_shards(str(corpus), str(output), plan)
    assert [os.path.basename(path) for path in paths] == [f"shard-0000{i}" for i in range(3)]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())

    answers = [index.search(rows[:20] + 0.1, plan) for index in load_shards(str(output))]
    _, found = merge_results([a.scores for a in answers], [a.ids for a in answers], 5)
    best = NestedIndex.build(rows, DIMS, ids).search(rows[:20] + 0.1, SearchPlan((8,), k=5)).ids
    assert np.mean(found == best) > 0.95  # three shortlists of 40 hold almost all 90 rows
    model = load(os.path.join(paths[1], "model"))
    served = model.signatures["retrieve"](query=rows[:20] + 0.1)["ids"].numpy().astype(str)
    np.testing.assert_array_equal(served, answers[1].ids)

    with pytest.raises(ValueError, match=r"other rows or options: plan\.k \(5 there, 6 here\)"):
        build_shards(str(corpus), str(output), SearchPlan((2, 8), (40,), k=6))
    with pytest.raises(ValueError, match=r"Received \[16\]"):
        build_shards(str(corpus), str(output), SearchPlan((2, 16), (40,)))
    with pytest.raises(ValueError, match="must hold shards"):
        load_shards(str(corpus))


@pytest.fixture
def beam():
    return pytest.importorskip(
        "apache_beam", reason='Apache Beam is not installed: pip install -e ".[backends]"'
    )


@pytest.mark.backends
def test_every_record_is_a_row_or_a_dead_letter(beam, model, tmp_path):
    values = write_rows(tmp_path / "in", 120, year=list(range(120)))
    import pyarrow
    import pyarrow.parquet

    embedding = [[0.0] * 5, [1.0] * 4, [np.nan] * 5, None, [2.0] * 5, [101.0] * 5]
    table = {"key": ["row7", "short", "nan", "none", "good", "large"], "embedding": embedding}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "in" / "bad.parquet")
    options = EmbedOptions(records=RecordOptions(ids="key", payload=["year"]), batch_size=16)
    output = tmp_path / "out"
    result = embed_corpus(str(tmp_path / "in"), str(output), model, options)

    ids, vectors = all_rows(output)
    assert sorted(ids) == sorted([*(f"row{i}" for i in range(120)), "good"])
    of = {f"row{i}": values[i] for i in range(120)} | {"good": np.full(5, 2, np.float32)}
    expected = ExportedEncoder(model, batch_size=16)([of[name] for name in ids])
    np.testing.assert_array_equal(vectors, expected)
    corpus = EmbeddedCorpus(str(output))
    payload = {}
    for rows in corpus.read(2):
        payload |= dict(zip(rows.ids.tolist(), rows.payload, strict=True))
    assert payload["row7"] == {"year": 7}
    assert tuple(corpus.layout.dims) == (2, 4, 8)
    assert corpus.about["encoder"]["fingerprint"] == ExportedEncoder(model).fingerprint()

    reasons = {letter.get("id", letter["row"]): letter["reason"] for letter in dead_letters(output)}
    assert corpus.about["dead_letters"] == len(reasons) == 5
    assert "and this is (4,)" in reasons["short"]
    assert "not finite" in reasons["nan"]
    assert "no input" in reasons[3]
    assert "the model refuses it" in reasons["large"]
    assert "its id is that of row 7 of" in reasons["row7"]
    speed = throughput(result)
    assert speed["rows"] == 123
    assert speed["rows_per_second"] == pytest.approx(123 / speed["seconds"])

    with pytest.raises(ValueError, match="nothing is overwritten"):
        embed_corpus(str(tmp_path / "in"), str(output), model, options)


@pytest.mark.backends
def test_rows_that_are_embedded_need_no_model(beam, tmp_path):
    values = write_rows(tmp_path / "in", 80)
    layout = Layout([2, 5], storage="int8", shards=2)
    options = EmbedOptions(layout, RecordOptions(ids="key"))
    embed_corpus([str(tmp_path / "in" / "*.parquet")], str(tmp_path / "out"), "", options)
    ids, vectors = all_rows(tmp_path / "out")
    expected = np.stack([values[int(name[3:])] for name in ids])
    assert np.abs(vectors - expected).max() <= 0.51 * np.abs(expected).max() / 127

    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("words\n")
    with pytest.raises(ValueError, match="No record could be embedded"):
        embed_corpus(str(tmp_path / "none"), str(tmp_path / "other"), "", options)
    assert "not (5,)" in dead_letters(tmp_path / "other")[0]["reason"]
    with pytest.raises(ValueError, match="must be an embedded corpus"):
        EmbeddedCorpus(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="must give the dims where there is no model"):
        embed_corpus(str(tmp_path / "in"), str(tmp_path / "third"), "")


@pytest.mark.backends
def test_a_killed_run_starts_again_to_the_same_rows(beam, model, tmp_path):
    write_rows(tmp_path / "in", 400)
    options = EmbedOptions(Layout(DIMS, shards=4), RecordOptions(ids="key"), batch_size=16)
    embed_corpus(str(tmp_path / "in"), str(tmp_path / "whole"), model, options)
    output = tmp_path / "killed"
    code = f"""if True:
        import time
        from mrl_keras.scale import *
        from mrl_keras.scale import pipeline
        write = pipeline.write_shard
        def slowly(*arguments):
            entry = write(*arguments)
            time.sleep(60)
            return entry
        pipeline.write_shard = slowly
        options = EmbedOptions(Layout({DIMS}, shards=4), RecordOptions(ids="key"), batch_size=16)
        embed_corpus({str(tmp_path / "in")!r}, {str(output)!r}, {model!r}, options)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=environment)
    until = time.monotonic() + 300
    while not list(output.glob("shard-*")):  # in the midst of the writing
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(ValueError, match="must be an embedded corpus"):
        EmbeddedCorpus(str(output))
    assert len(list(output.glob("shard-*"))) < 4
    embed_corpus(str(tmp_path / "in"), str(output), model, options)
    one, other = EmbeddedCorpus(str(tmp_path / "whole")), EmbeddedCorpus(str(output))
    assert one.shards == other.shards  # rows and checksums
    other.check()


@pytest.mark.backends
def test_a_job_server_runs_the_same_pipeline(beam, tmp_path):
    write_rows(tmp_path / "in", 80)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    module = "apache_beam.runners.portability.local_job_service_main"
    command = [sys.executable, "-W", "ignore", "-m", module, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(server, port)
        portable = [f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
        common = [tmp_path / "in", "--dims", 2, 5, "--shards=2", "--ids_from=key"]
        output = run(
            "embed_corpus.py", *common, f"--corpus={tmp_path / 'a'}", "--",
            "--runner=PortableRunner", *portable,
        )  # fmt: skip
        assert "Embedded 80 rows" in output
    finally:
        server.kill()
        server.wait()
    options = EmbedOptions(Layout([2, 5], shards=2), RecordOptions(ids="key"))
    embed_corpus(str(tmp_path / "in"), str(tmp_path / "b"), "", options)
    one, other = EmbeddedCorpus(str(tmp_path / "a")), EmbeddedCorpus(str(tmp_path / "b"))
    assert one.shards == other.shards


def wait_for_port(process, port):
    until = time.monotonic() + 300
    while time.monotonic() < until:
        assert process.poll() is None
        with socket.socket() as trial:
            if trial.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("no job server")
