"""Corpora of arrays, folders and sets; their resumable index; plans and cascades from them."""

import dataclasses

import numpy as np
import pytest

from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval import SearchPlan
from recipes.common import indexing
from recipes.common.corpus import Rows, Source, array_corpus, class_ids, folder_corpus
from recipes.common.export_options import ExportOptions, export_config, export_options
from recipes.common.indexing import index_corpus
from recipes.common.planning import choose_plan, given_plan, learn_cascade, parse_plan, read_queries

DIMS = NestingDims([2, 4, 8])


def clustered(rows, seed):
    """(embeddings, labels) of five classes, told apart by few dims."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, rows)
    centres = np.random.default_rng(0).standard_normal((5, 8))
    return (centres[labels] + 0.1 * rng.standard_normal((rows, 8))).astype("float32"), labels


def corpus(rows=50, seed=1, **changes):
    embeddings, labels = clustered(rows, seed)
    ids = np.array([f"row-{row}" for row in range(rows)])
    made = Rows(embeddings, ids, labels, ids)._replace(**changes)
    about = {"set": "made", "split": "train"}
    return array_corpus(about, made, lambda inputs: inputs, 7, tuple("abcde"))


def test_an_index_holds_every_row_once_and_in_order(tmp_path):
    found = index_corpus(str(tmp_path), corpus(), DIMS, {"step": 3})
    np.testing.assert_array_equal(found.index.ids, [f"row-{row}" for row in range(50)])
    embeddings, labels = clustered(50, 1)
    np.testing.assert_array_equal(np.concatenate(found.index.blocks, axis=1), embeddings)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.about["rows"] == 50
    assert len(found.about["fingerprint"]) == 64


def test_a_killed_indexing_goes_on_after_its_chunks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(indexing, "CHUNK_ROWS", 14)
    seen, whole = [], corpus()

    def embed(inputs):
        seen.append(len(inputs))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return inputs

    with pytest.raises(KeyboardInterrupt):
        index_corpus(str(tmp_path), dataclasses.replace(whole, embed=embed), DIMS, {"step": 3})
    found = index_corpus(str(tmp_path), dataclasses.replace(whole, embed=embed), DIMS, {"step": 3})
    assert "Going on after 28 embedded rows" in capsys.readouterr().out
    assert sum(seen[6:]) == 50 - 28
    expected = index_corpus(str(tmp_path / "other"), whole, DIMS, {"step": 3})
    assert found.about["fingerprint"] == expected.about["fingerprint"]
    # Once it is whole nothing is embedded again; another step is another index.
    seen.clear()
    index_corpus(str(tmp_path), dataclasses.replace(whole, embed=embed), DIMS, {"step": 3})
    assert not seen
    with pytest.raises(KeyboardInterrupt):
        index_corpus(str(tmp_path), dataclasses.replace(whole, embed=embed), DIMS, {"step": 4})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ids": np.array(["same"] * 50)}, "must not repeat. In made train 'same' comes twice"),
        ({"inputs": np.ones((50, 6), "float32")}, "must be 8 wide.*They are 6 wide"),
        ({"inputs": np.full((50, 8), np.nan, "float32")}, "finite"),
        ({"ids": np.array([], "U1"), "inputs": np.zeros((0, 8))}, "made train is empty"),
    ],
)
def test_what_can_not_be_indexed(tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        index_corpus(str(tmp_path), corpus(**changes), DIMS, {})


def test_a_folder_of_numpy_files(tmp_path):
    embeddings, labels = clustered(20, 2)
    np.save(tmp_path / "embeddings.npy", embeddings)
    np.save(tmp_path / "labels.npy", labels)
    read = folder_corpus(Source(str(tmp_path), most=15), 8, None, 7)
    rows = list(read.read(3))
    np.testing.assert_array_equal(np.concatenate([r.inputs for r in rows]), embeddings[3:15])
    np.testing.assert_array_equal(np.concatenate([r.labels for r in rows]), labels[3:15])
    assert [one for r in rows for one in r.ids] == list(range(3, 15))
    with pytest.raises(ValueError, match=r"must be \(rows, 4\).*They are \(20, 8\)"):
        folder_corpus(Source(str(tmp_path)), 4, None, 7)
    np.save(tmp_path / "ids.npy", np.arange(3))
    with pytest.raises(ValueError, match="one of `ids` for each of the 20 rows. It has 3"):
        folder_corpus(Source(str(tmp_path)), 8, None, 7)


def test_a_folder_of_parquet_tables(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    embeddings, _ = clustered(20, 2)
    for number, part in enumerate((slice(0, 8), slice(8, 20))):
        ids = [f"x{row}" for row in range(20)][part]
        table = pa.table({"embedding": list(embeddings[part]), "id": ids, "text": ids})
        parquet.write_table(table, tmp_path / f"{number}.parquet")
    for start in (0, 7, 8, 19, 20):
        rows = list(folder_corpus(Source(str(tmp_path)), 8, None, 5).read(start))
        assert [one for r in rows for one in r.ids] == [f"x{row}" for row in range(start, 20)]
        for r in rows:
            np.testing.assert_array_equal(r.inputs, embeddings[[int(one[1:]) for one in r.ids]])
    with pytest.raises(ValueError, match=r"must be \(rows, 4\)"):
        next(folder_corpus(Source(str(tmp_path)), 4, None, 5).read(0))
    with pytest.raises(ValueError, match=r"must have the columns \['embedding', 'name'\]"):
        folder_corpus(Source(str(tmp_path), ids="name"), 8, None, 5)
    table = pa.table({"embedding": list(embeddings[:2]), "id": ["a", None]})
    parquet.write_table(table, tmp_path / "2.parquet")
    with pytest.raises(ValueError, match="column 'id' of .* in every row. One of the rows 20 to"):
        list(folder_corpus(Source(str(tmp_path)), 8, None, 5).read(0))


def test_classes_of_unlabelled_rows_are_no_ids():
    assert class_ids(3, [1, 0], ["a b", "c"]).tolist() == ["c/3", "a_b/4"]
    with pytest.raises(ValueError, match="need labels from 0. Received -1 in row 4"):
        class_ids(3, [1, -1], ["a", "b"])


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match="must hold embeddings.npy, inputs.npy or"):
        folder_corpus(Source(str(tmp_path)), 8, None, 7)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return index_corpus(str(tmp_path_factory.mktemp("indexes")), corpus(400), DIMS, {})


def test_the_held_out_part_is_fixed_and_apart():
    one, two = (read_queries(corpus(100, 3), 0.3, 30) for _ in range(2))
    np.testing.assert_array_equal(one.held_out, two.held_out)
    assert sorted([*one.held_out, *one.rest]) == list(range(100))
    assert len(one.held_out) == 30
    with pytest.raises(ValueError, match="At least 31 held-out queries.*of the 100 of made train"):
        read_queries(corpus(100, 3), 0.3, 31)
    with pytest.raises(ValueError, match="`held_out` must lie above 0"):
        read_queries(corpus(100, 3), 0.0, 1)


def test_a_plan_by_labels_is_measured_on_other_queries(found):
    queries = read_queries(corpus(200, 4, keys=None), 0.3, 50)
    chosen = choose_plan(found, queries, ExportOptions(k=5))
    assert chosen.about["relevance"] == "labels"
    assert chosen.about["metric"] == "mAP@5"
    assert chosen.plan.dims[-1] < 8 or chosen.plan.sizes  # five classes need few dims
    rest = chosen.about["rest"]
    found_ids = found.index.search(queries.embeddings[queries.rest], SearchPlan((8,), k=5)).indices
    right = found.labels[found_ids] == queries.labels[queries.rest][:, None]
    precisions = np.cumsum(right, 1) / np.arange(1, 6)
    np.testing.assert_allclose(rest["full_width"], (precisions * right).sum(1).mean() / 5)
    assert rest["plan"] >= rest["full_width"] - 0.05


def test_relevance_is_judged_by_what_is_there(found):
    ids = np.array([f"q{row}" for row in range(200)])
    unlabelled = corpus(200, 4, labels=None, keys=ids)
    chosen = choose_plan(found, read_queries(unlabelled, 0.5, 50), ExportOptions())
    assert chosen.about["relevance"] == "neighbours"
    judged = corpus(200, 4, labels=None, relevant=[(f"row-{row}", "gone") for row in range(200)])
    chosen = choose_plan(found, read_queries(judged, 0.5, 50), ExportOptions())
    assert (chosen.about["relevance"], chosen.about["metric"]) == ("judgements", "recall@10")
    elsewhere = corpus(200, 4, labels=None, relevant=[("gone",)] * 200)
    with pytest.raises(ValueError, match="'judgements' needs judgements of made for rows of made"):
        choose_plan(found, read_queries(elsewhere, 0.5, 50), ExportOptions(relevance="judgements"))
    with pytest.raises(ValueError, match="'labels' needs labels of made"):
        choose_plan(found, read_queries(unlabelled, 0.5, 50), ExportOptions(relevance="labels"))
    few = corpus(200, 4, relevant=[("row-1",) * (row < 20) for row in range(200)])
    with pytest.raises(ValueError, match="At least 50 held-out queries must have relevant rows"):
        choose_plan(found, read_queries(few, 0.5, 50), ExportOptions())


def test_queries_that_are_rows_are_counted(found):
    chosen = choose_plan(found, read_queries(corpus(200, 1), 0.5, 50), ExportOptions())
    assert chosen.about["queries_in_corpus"] == 200


def test_a_plan_by_hand(found):
    plan = parse_plan("2:200,4:50,8", k=10)
    assert plan == SearchPlan((2, 4, 8), (200, 50), 10)
    assert parse_plan("8", k=3) == SearchPlan((8,), k=3)
    assert given_plan(found, plan).about == {"by": "hand"}
    for text in ("2:200", "2,8", "8:10,4", "few"):
        with pytest.raises(ValueError, match="`plan` must be D_s:ROWS"):
            parse_plan(text, k=10)
    with pytest.raises(ValueError, match="3"):
        given_plan(found, parse_plan("3:20,8", k=10))


def head(embeddings):
    """Nested logits: the cosine to each class's centre, by every prefix."""
    centres = np.random.default_rng(0).standard_normal((5, 8))
    return 20 * np.stack([embeddings[:, :dim] @ centres[:, :dim].T for dim in DIMS], axis=1)


def test_a_cascade_is_learned_on_the_held_out_part():
    queries = read_queries(corpus(200, 4), 0.5, 50)
    policy, about = learn_cascade(head, DIMS, queries, tuple("abcde"))
    answer = policy.decide(head(queries.embeddings[queries.rest]))
    right = answer.classes == queries.labels[queries.rest]
    assert about["accuracy"] == pytest.approx(right.mean())
    assert about["expected_dims"] == pytest.approx(answer.dims.mean())
    with pytest.raises(ValueError, match="made has other classes"):
        learn_cascade(head, DIMS, queries, tuple("vwxyz"))
    unlabelled = read_queries(corpus(200, 4, labels=None), 0.5, 50)
    with pytest.raises(ValueError, match="made has no labels"):
        learn_cascade(head, DIMS, unlabelled, tuple("abcde"))


def test_options_come_from_flags_then_config_then_defaults():
    config = {"export": export_config(tolerance=0.05, masks=3)}
    found = export_options(config, {"tolerance": None, "k": 3, "workdir": "runs/a"})
    assert (found.tolerance, found.k, found.held_out) == (0.05, 3, ExportOptions().held_out)
    assert export_options({}) == ExportOptions()
    with pytest.raises(ValueError, match="`cascade` must be one of"):
        ExportOptions(cascade="maybe")
