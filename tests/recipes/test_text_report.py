"""The report on text retrieval on made sets and tiny static encoders; parts by hand; wordllama."""

import csv
import importlib.util
import math
import os
import pathlib
import re
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from recipes.report import write_text_report, write_text_vectors
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.measured import Measured, difference
from recipes.report.text import prefixes
from recipes.report.text.encoders import TextEncoder, find_encoder, mean_of_tokens, wordllama
from recipes.report.text.judged import embedded, read_judged
from recipes.report.text.study import FIRST, measured_dims
from recipes.report.text.vectors import Vectors, hardness
from recipes.report.text.windows import text_windows, window_vectors

DOCUMENTS, TOPICS, WORDS = 120, 12, 9
REAL = os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", "missing"), "scifact_corpus"))


def made_text(document, words=WORDS):
    """Words of a topic and words of one document alone."""
    return " ".join(
        f"t{document % TOPICS}w{word % 4}" if word % 3 else f"d{document}w{word}"
        for word in range(words)
    )


class MadeJudgedCorpus(tfds.core.GeneratorBasedBuilder):
    """Documents of some topics."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"id": text, "title": text, "text": text})
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(DOCUMENTS):
            yield i, {"id": f"doc{i}", "title": f"d{i}w0", "text": made_text(i)}


class MadeJudgedQueries(tfds.core.GeneratorBasedBuilder):
    """Each query has some words of one document; every fifth is judged on a second one."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"text": text, "relevant_ids": tfds.features.Sequence(text)}
        features = tfds.features.FeaturesDict(features)
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "test": self._generate_examples(60)}

    def _generate_examples(self, first):
        for i in range(first, first + 60):
            ids = [f"doc{i}"] + [f"doc{(i + TOPICS) % DOCUMENTS}"] * (i % 5 == 0)
            yield i, {"text": made_text(i, 4), "relevant_ids": ids}


def made_encoder(name, dims, decay, seed):
    """Each word's row is drawn by a hash of the word; its components shrink by `decay`."""
    width = dims[-1]
    table = np.random.default_rng(seed).standard_normal((8192, width)) * decay ** np.arange(width)
    if len(dims) == 1:  # no component is more important than another
        table = table @ np.linalg.qr(np.random.default_rng(1).standard_normal((width, width)))[0]

    def embed(texts):
        return mean_of_tokens(
            table, [[zlib.crc32(word.encode()) % 8192 for word in text.split()] for text in texts]
        )

    return TextEncoder(name, dims, "a table of made rows", {"encoder": name}, embed)


def nested():
    return made_encoder("Nested", (8, 16, 32), 0.9, 0)


def plain():
    return made_encoder("Plain", (48,), 0.9, 0)


def no_encoder():
    return "text"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (MadeJudgedCorpus, MadeJudgedQueries):
        builder(data_dir=str(folder)).download_and_prepare()
    return str(folder)


def arguments(folder, out, **changes):
    given = {
        "out": out, "data_dir": folder, "cache": f"{out}-cache", "rows": 0,
        "documents": "made_judged_corpus", "queries": "made_judged_queries",
        "encoders": [f"{__name__}:{name}" for name in ("nested", "plain")], **changes,
    }  # fmt: skip
    line = []
    for name, value in given.items():
        line += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return line


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "pages"
    write_text_report.main(arguments(folder, out))
    return out


def records(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_pages_links_and_verdicts(report):
    text = (report / "README.md").read_text()
    counts = re.search(r"(\d+) of (\d+) claims hold here", text)
    assert text.count("| **") == int(counts[2]) >= 8
    assert text.count("**holds**") == int(counts[1])
    assert "write_text_report.py" in text
    assert "Nested: a table of made rows." in text
    assert "nan" not in text.lower()
    for page in report.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert link.startswith("..") or (report / link).exists(), link


def test_the_metrics_are_those_of_a_plain_count(folder, report):
    options, _ = write_text_report.parse_arguments(arguments(folder, report))
    texts = write_text_report.read_texts(options)
    assert len(texts.documents) == DOCUMENTS
    assert texts.documents[3] == f"d3w0 {made_text(3)}"
    assert [len(texts.queries[split]) for split in ("learn", "judge")] == [60, 60]
    assert texts.gains("judge")[0] == {60: 1.0, 72: 1.0}
    shown = {
        (row["system"], int(row["dims"])): float(row["mean"])
        for row in records(report / "nDCG_10_nested.csv")
    }
    assert {system for system, _ in shown} == {FIRST, "PCA", "SVD", "JL"}
    assert {dim for _, dim in shown} == set(measured_dims(32)) == {8, 12, 16, 24, 32}
    documents, queries = (nested().embed(t) for t in (texts.documents, texts.queries["judge"]))
    for dim in (8, 32):
        one, other = queries[:, :dim], documents[:, :dim]
        cosines = one @ other.T / np.linalg.norm(other, axis=1)
        values = []
        for scores, gain in zip(cosines, texts.gains("judge"), strict=True):
            first = np.argsort(-scores)[:10]
            got = sum(1 / math.log2(i + 2) for i, row in enumerate(first) if row in gain)
            values.append(got / sum(1 / math.log2(i + 2) for i in range(len(gain))))
        assert shown[FIRST, dim] == pytest.approx(np.mean(values), abs=1e-5)
    trained = {r["dims"]: r["trained"] for r in records(report / "nDCG_10_nested.csv")}
    assert trained == {"8": "1", "12": "0", "16": "1", "24": "0", "32": "1"}


def test_full_width_svd_is_the_embedding(report):
    rows = {(r["system"], r["dims"]): r["mean"] for r in records(report / "nDCG_10_plain.csv")}
    assert float(rows["SVD", "48"]) == pytest.approx(float(rows[FIRST, "48"]))


def test_plans_are_tuned_for_every_encoder(report):
    rows = records(report / "plans.csv")
    systems = [("Nested", FIRST), ("Plain", FIRST), ("Plain", "PCA")]
    assert list(dict.fromkeys((row["encoder"], row["system"]) for row in rows)) == systems
    cost = {(r["encoder"], r["system"], r["kind"]): float(r["MFLOPs"]) for r in rows}
    for system in systems:
        assert cost[*system, "tuned"] <= cost[*system, "full width"]
        assert cost[*system, "full width"] == pytest.approx(
            DOCUMENTS * {"Nested": 32, "Plain": 48}[system[0]] / 1e6
        )
    assert all(0 < float(r["least"]) <= float(r["times_as_fast"]) <= float(r["most"]) for r in rows)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoders": ["nowhere:encoder"]}, "must be one of wordllama, minilm, or MODULE:FUNC"),
        ({"encoders": [f"{__name__}:no_encoder"]}, "must give a TextEncoder. It gave str"),
        ({"documents": "nowhere"}, "No text set is named 'nowhere'"),
        ({"relevant": "text2"}, "text2"),
        ({"rounds": 0}, "--rounds must be at least 1, not 0"),
        ({"more_texts": ["one"], "rows": 9}, "--more_texts takes SET:SPLIT:FEATURE"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path, capsys, changes, text):
    with pytest.raises(SystemExit):
        write_text_report.main(arguments(folder, tmp_path / "out", **changes))
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("write_text_report: ")
    assert text in lines[-1]


def test_a_judgement_of_a_document_that_is_not_there(folder):
    from recipes.common.corpus import Source

    documents = Source("made_judged_corpus", "train[:50]", folder, ids="id", texts=["text"])
    queries = Source("made_judged_queries", "", folder, texts=["text"], relevant="relevant_ids")
    with pytest.raises(ValueError, match="train names 'doc52', which made_judged_corpus has not"):
        read_judged(documents, queries, {"learn": "train"})


def test_embeddings_are_computed_once_for_the_same_texts(tmp_path):
    calls = []
    encoder = TextEncoder("one", (2,), "", {}, lambda t: calls.append(len(t)) or np.ones((2, 2)))
    for texts in (["a", "b"], ["a", "b"], ["a", "c"]):
        embedded(encoder, texts, ResultCache(tmp_path))
    assert calls == [2, 2]


def test_the_mean_of_tokens():
    table = np.array([[1.0, 0.0], [3.0, 4.0]], "float16")
    found = mean_of_tokens(table, [[0, 1, 1], [], [1]])
    np.testing.assert_allclose(found, [[7 / 3, 8 / 3], [0, 0], [3, 4]], rtol=1e-6)
    assert found.dtype == np.float32


def test_the_share_kept_has_the_noise_of_a_ratio():
    rng = np.random.default_rng(0)
    full = rng.random(400)
    value = 0.5 * full
    exact = prefixes.kept(Measured.of_examples({0: value}), Measured.of_examples({0: full}))
    # Every query keeps exactly half: no noise, although the queries differ.
    assert exact.mean == pytest.approx(0.5)
    assert np.ptp(exact.each[0]) == pytest.approx(0, abs=1e-12)
    # The deviation of a ratio of means over many draws, beside the estimate from one draw.
    noisy = np.clip(0.5 * full + 0.2 * rng.standard_normal(400), 0, None)
    one = prefixes.kept(Measured.of_examples({0: noisy}), Measured.of_examples({0: full}))
    draws = rng.integers(0, 400, (2000, 400))
    spread = (noisy[draws].mean(axis=1) / full[draws].mean(axis=1)).std()
    assert difference(one, exact).noise / 2 == pytest.approx(spread, rel=0.1)
    with pytest.raises(ValueError, match="finds no relevant document"):
        prefixes.kept(Measured.of_examples({0: [0.0]}), Measured.of_examples({0: [0.0]}))


def test_shares_compared_needs_every_share_above_the_noise():
    high, low = (Measured.of_examples({0: np.full(9, share)}) for share in (0.8, 0.5))
    assert prefixes.shares_compared("", {-2: high, -4: high}, {-2: low, -4: low}).holds
    tie = prefixes.shares_compared("", {-2: high, -4: low}, {-2: low, -4: low})
    assert not tie.holds
    assert tie.numbers.endswith("not above the noise at 1/4")


def test_windows_by_hand():
    assert text_windows(["a b c d e f", "x", ""], words=[4, 2]) == [
        "a b c d", "c d e f", "a b", "b c", "c d", "d e", "e f", "x",
    ]  # fmt: skip


def test_windows_of_a_text_are_rows_or_queries(tmp_path):
    texts = [f"only{i} " + " ".join(f"w{i}x{j}" for j in range(30)) for i in range(40)]
    seen = []
    encoder = made_encoder("Windows", (8, 16), 0.9, 0)
    kept = TextEncoder("w", (8, 16), "", {}, lambda t: seen.append(list(t)) or encoder.embed(t))
    found = window_vectors(kept, texts, 50, ResultCache(tmp_path), "real")
    rows, judge, held_out = seen
    assert (len(rows), found.rows.shape) == (50, (50, 16))
    sources = [{re.search(r"w(\d+)x", one)[1] for one in part} for part in (rows, judge, held_out)]
    assert all(int(i) % 10 for i in sources[0])
    assert not any(int(i) % 10 for i in sources[1] | sources[2])
    assert not set(judge) & set(held_out)
    np.testing.assert_allclose(np.linalg.norm(found.rows, axis=1), 1, rtol=1e-5)


def test_hardness_against_brute_force():
    rng = np.random.default_rng(0)
    vectors = Vectors("made", *(rng.standard_normal((n, 16)) for n in (300, 20, 20)), "")
    found = hardness(vectors)
    full = np.argsort(-(vectors.queries @ vectors.rows.T), axis=1)
    part = vectors.queries[:, :8] @ vectors.rows[:, :8].T
    order = np.argsort(-part / np.linalg.norm(vectors.rows[:, :8], axis=1), axis=1)
    for key, most in (("alone", 10), ("shortlist", 200)):
        shares = [np.isin(full[q, :10], order[q, :most]).mean() for q in range(20)]
        assert found[key]["8"] == pytest.approx(np.mean(shares))
        assert found[key]["16"] == 1
    assert found["energy"]["8"] == pytest.approx((vectors.rows[:, :8] ** 2).sum() / 300, rel=1e-5)
    cosines = np.sort(vectors.queries @ vectors.rows.T, axis=1)[:, ::-1]
    assert found["cosine"]["100"] == pytest.approx(np.median(cosines[:, 99]), rel=1e-5)
    assert vectors.recall(np.c_[full[:, :5], np.full((20, 5), -1)]) == pytest.approx(0.5)


@pytest.mark.slow
def test_a_larger_database_beside_faiss_and_scann(folder, tmp_path):
    pytest.importorskip("faiss")
    pytest.importorskip("scann")
    out = tmp_path / "pages"
    write_text_report.main(
        arguments(
            folder, out, rows=600, rounds=2, encoders=[f"{__name__}:nested"],
            more_texts=["made_judged_queries:train:text"], shortlist_dims=[8],
        )
    )  # fmt: skip
    swept = records(out / "sweep_real.csv")
    systems = list(dict.fromkeys(row["system"] for row in swept))
    assert systems[:3] == ["package, tuned plan", "package, funnel", "FAISS HNSW32"]
    assert {"ScaNN truncate (8, reorder)", "ScaNN full width", "FAISS flat"} < set(systems)
    assert all(0 <= float(row["recall"]) <= 1 for row in swept)
    (flat,) = (row for row in swept if row["system"] == "FAISS flat")
    assert float(flat["recall"]) > 0.99
    speed = records(out / "speed_real.csv")
    for row in speed:
        assert float(row["recall@10"]) >= float(row["target"])
        assert float(row["least"]) <= float(row["queries_a_second"]) <= float(row["most"])
    text = (out / "README.md").read_text()
    assert "scale.md" in text
    assert (out / "speed_figure.png").stat().st_size > 5000


@pytest.mark.parametrize("windows", [0, 40])
def test_vectors_as_files(folder, tmp_path, windows):
    out = tmp_path / "made.npy"
    given = {
        "out": out, "data_dir": folder, "cache": tmp_path / "cache", "windows": windows,
        "documents": "made_judged_corpus", "queries": "made_judged_queries",
        "encoder": f"{__name__}:nested", "more_texts": "made_judged_queries:train:text",
    }  # fmt: skip
    write_text_vectors.main([f"--{name}={value}" for name, value in given.items()])
    rows, queries = np.load(out), np.load(tmp_path / "made-queries.npy")
    assert rows.shape == (windows or DOCUMENTS, 32)
    assert rows.dtype == queries.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    if not windows:
        (expected,) = nested().embed([f"d7w0 {made_text(7)}"])
        np.testing.assert_allclose(rows[7], expected / np.linalg.norm(expected), atol=1e-5)
        assert len(queries) == 60


class TestWordllama:
    def test_an_embedding_is_the_mean_of_its_tokens_rows(self):
        pytest.importorskip("wordllama")
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        encoder = find_encoder("wordllama", None)
        assert (encoder.width, encoder.nested, tuple(encoder.dims)) == (256, True, (64, 128, 256))
        texts = ["A cat sleeps.", "", "Cells divide"]
        found = encoder.embed(texts)
        place = pathlib.Path(importlib.util.find_spec("wordllama").origin).parent
        (table,) = load_file(place / "weights" / "l2_supercat_256.safetensors").values()
        path = place / "tokenizers" / "l2_supercat_tokenizer_config.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        for text, embedding in zip(texts, found, strict=True):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            rows = table[ids].astype("float64")
            expected = rows.mean(axis=0) if len(ids) else np.zeros(256)
            np.testing.assert_allclose(embedding, expected, atol=1e-5)

    def test_without_the_package_its_name_is_told(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"needs that package: pip install -e .*text-encod"):
            wordllama()

    @pytest.mark.slow
    @pytest.mark.skipif(not REAL, reason="TFDS_DATA_DIR holds no scifact_corpus")
    def test_scifact(self, tmp_path):
        pytest.importorskip("wordllama")
        write_text_report.main(
            ["--out", str(tmp_path), "--cache", str(tmp_path / "cache"), "--rows", "0",
             "--encoders", "wordllama"]
        )  # fmt: skip
        rows = records(tmp_path / "nDCG_10_wordllama.csv")
        found = {int(r["dims"]): float(r["mean"]) for r in rows if r["system"] == FIRST}
        assert found[256] == pytest.approx(0.513, abs=0.002)
        assert found[64] == pytest.approx(0.370, abs=0.002)
