"""The report on adaptors, on made texts and a made encoder."""

import csv

import numpy as np
import pytest

from mrl_keras.baselines import PCA
from mrl_keras.evaluation import ndcg
from recipes.report import adaptor
from recipes.report.parts.cache import ResultCache
from recipes.report.text.judged import JudgedTexts
from recipes.report.text.study import JUDGE, LEARN, TextStudy
from tests.recipes.test_text_report import made_text, plain


@pytest.fixture
def study(tmp_path):
    documents = [made_text(i) for i in range(120)]
    queries = {LEARN: range(60), JUDGE: range(60, 120)}
    texts = JudgedTexts(
        "made",
        documents,
        {name: [made_text(i, 4) for i in rows] for name, rows in queries.items()},
        {n: np.array([(q, i, 1) for q, i in enumerate(rows)]) for n, rows in queries.items()},
    )
    (tmp_path / "cache").mkdir()
    return TextStudy([plain()], texts, ResultCache(tmp_path / "cache"))


@pytest.mark.slow
def test_tables_and_verdicts(study, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptor, "read_study", lambda options: study)
    arguments = ["--out", str(tmp_path / "out"), "--steps", "5"]
    adaptor.main(arguments)
    with open(tmp_path / "out" / "adaptor_nDCG_10.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    systems = ["first dims", "PCA", "SVD", "adaptor", "adaptor, pairs"]
    assert {(row["system"], row["dims"]) for row in rows} == {
        (system, dim) for system in systems for dim in ("8", "16", "32", "48")
    }
    found = {(row["system"], int(row["dims"])): float(row["mean"]) for row in rows}
    arrays = study.arrays(study.encoders[0])
    pca = PCA().fit(np.concatenate([arrays["documents"], arrays[LEARN]]))
    queries, documents = (pca.transform(arrays[n], 48) for n in (JUDGE, "documents"))
    gains = [{60 + query: 1} for query in range(60)]
    expected = ndcg(queries, documents, gains, [8, 16, 32, 48])
    for dim, value in expected.items():
        assert found["PCA", dim] == pytest.approx(value, rel=1e-4)
    assert found["SVD", 48] == pytest.approx(found["first dims", 48], rel=1e-4)
    text = (tmp_path / "out" / "adaptor.md").read_text()
    assert text.count("| **") == 14
    assert "5 steps" in text
    assert (tmp_path / "out" / "adaptor.png").stat().st_size > 5000

    def refuse(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(adaptor, "fit_adaptor", refuse)
    adaptor.main(arguments)
    assert (tmp_path / "out" / "adaptor.md").read_text() == text
