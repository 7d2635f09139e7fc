"""Qdrant in its local mode and a real PostgreSQL hold one contract: answers as `NestedIndex`'s."""

import warnings

import numpy as np
import pytest

from mrl_keras.engines import PgvectorEngine, PgvectorOptions, QdrantEngine, QdrantOptions
from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan

pytestmark = pytest.mark.backends

DIMS = [4, 8, 32]
LOWEST = np.finfo(np.float32).min
PLANS = [
    SearchPlan((32,)),
    SearchPlan((4,), k=5),
    SearchPlan((4, 32), (60,)),
    SearchPlan((4, 8, 32), (80, 20)),
]


def table(rows, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, 32)) / np.sqrt(1 + np.arange(32))).astype("float32")


@pytest.fixture(params=["qdrant", "postgres"])
def make(request):
    """Function of a name and further arguments -> engine."""
    if request.param == "qdrant":
        qdrant = pytest.importorskip(
            "qdrant_client", reason='qdrant-client is not installed: pip install -e ".[backends]"'
        )
        client = qdrant.QdrantClient(":memory:")
        yield lambda name, dims=DIMS, **more: QdrantEngine(client, name, dims, **more)
        client.close()
    else:
        address, made = request.getfixturevalue("postgres"), []

        def engine(name, dims=DIMS, **more):
            made.append(PgvectorEngine(address, name, dims, **more))
            return made[-1]

        yield engine
        for one in made:
            with one._transaction() as run:
                run(f"DROP TABLE IF EXISTS {one.table}")
            one.close()


def filled(make, rows, ids, payload=None, **more):
    engine = make("docs", **more)
    engine.create()
    assert engine.upload(rows, ids, payload, batch_rows=97) == len(ids)
    engine.finish()
    return engine


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("kind", ["string", "int64"])
def test_exact_answers_are_those_of_an_index(make, metric, kind):
    rows, queries = table(500), table(12, seed=1)
    ids = np.arange(500) * 3 - 101
    ids = ids if kind == "int64" else ids.astype(str)
    engine = filled(make, rows, ids, metric=metric, id_dtype=kind)
    index = NestedIndex.build(rows, DIMS, ids, IndexOptions(metric=metric))
    for plan in PLANS:
        found, expected = engine.query(queries, plan, exact=True), index.search(queries, plan)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
        assert found.ids.dtype.kind == expected.ids.dtype.kind
        assert found.scores.dtype == np.float32


def test_uploads_are_idempotent_resumed_updated_and_deleted_by_id(make):
    rows, ids = table(300), [f"row{row}" for row in range(300)]
    engine, plan = filled(make, rows[:120], ids[:120]), SearchPlan((4, 32), (300,), k=3)
    assert engine.upload(rows, ids, batch_rows=100, resume=True) == 180
    assert engine.upload(rows, ids) == 300
    assert len(engine) == 300
    expected = NestedIndex.build(rows, DIMS, ids).search(rows[:5], plan)
    np.testing.assert_array_equal(engine.query(rows[:5], plan, exact=True).ids, expected.ids)
    assert engine.query(rows[:1], plan).ids[0, 0] == "row0"

    engine.upload(-rows[:1], ["row0"])  # an update
    assert "row0" not in engine.query(rows[:1], plan).ids
    assert engine.query(-rows[:1], plan).ids[0, 0] == "row0"
    assert engine.delete(["row0", "row1", "absent"]) == 2
    assert len(engine) == 298
    assert engine.delete([]) == 0
    assert "row0" not in engine.query(-rows[:1], plan).ids


def test_filters_restrict_the_shortlist_itself(make):
    rows, ids = table(400), np.arange(400)
    payload = [{"lang": "en" if row % 10 else "de", "year": 2000 + row % 3} for row in range(400)]
    engine = filled(make, rows, ids, payload, id_dtype="int64")
    plan = SearchPlan((4, 32), (20,), k=10)
    for filters, kept in [
        ({"lang": "de"}, ids % 10 == 0),
        ({"lang": ["de", "fr"], "year": [2000, 2001]}, (ids % 10 == 0) & (ids % 3 < 2)),
        ({"lang": "fr"}, ids < 0),
    ]:
        found = engine.query(rows[:6], plan, filters)
        if not kept.any():
            np.testing.assert_array_equal(found.ids, -1)
            np.testing.assert_array_equal(found.scores, LOWEST)
            continue
        part = NestedIndex.build(rows[kept], DIMS, ids[kept])
        np.testing.assert_array_equal(found.ids, part.search(rows[:6], plan).ids)


def test_the_engines_own_filters_pass_through(make):
    rows, ids = table(60), np.arange(60)
    engine = filled(make, rows, ids, [{"year": int(row)} for row in ids], id_dtype="int64")
    if isinstance(engine, QdrantEngine):
        from qdrant_client import models

        year = models.FieldCondition(key="year", range=models.Range(gte=50))
        filters = models.Filter(must=[year])
    else:
        filters = ("(payload->>'year')::int >= %s", [50])
    found = engine.query(rows[:1], SearchPlan((4, 32), (20,), k=12), filters).ids[0]
    assert sorted(found.tolist()) == [-1, -1, *range(50, 60)]


def test_queries_without_a_direction_find_nothing_and_spare_the_others(make):
    rows = table(50)
    engine = filled(make, rows, [str(row) for row in range(50)])
    queries = rows[:4].copy()
    queries[1, 3], queries[2] = np.nan, 0
    found = engine.query(queries, SearchPlan((4, 32), (20,), k=3))
    assert found.ids[:, 0].tolist() == ["0", "", "", "3"]
    np.testing.assert_array_equal(found.scores[1:3], LOWEST)


def test_a_collection_with_other_settings_is_refused_and_its_own_is_kept(make):
    engine = filled(make, table(20), [str(row) for row in range(20)])
    engine.create()
    assert len(engine) == 20
    with pytest.raises(ValueError, match="exists with other settings: .*metric|distance"):
        make("docs", metric="dot").create()
    with pytest.raises(ValueError, match="exists with other settings"):
        make("docs", dims=[4, 16]).create()


def test_errors_say_what_to_do(make):
    engine, plan = make("nowhere"), SearchPlan((4, 32), (20,))
    with pytest.raises(ValueError, match=r"no (collection|table) .*nowhere.*create\(\)"):
        engine.query(table(1), plan)
    with pytest.raises(ValueError, match=r"no (collection|table) .*nowhere.*create\(\)"):
        engine.upload(table(1), ["a"])
    engine = filled(make, table(3), ["a", "b", "c"])
    certified = SearchPlan((4, 32), (20,), certified=True)
    cases = [
        (lambda: engine.upload(table(1)[:, :8], ["a"]), "must be 32 wide"),
        (lambda: engine.upload(table(2), ["a", "a"]), "must be unique"),
        (lambda: engine.upload(table(1), [1]), "must be string, as the collection's"),
        (lambda: engine.upload(table(1), ["a"], []), "one dict for each of the 1 rows"),
        (lambda: engine.upload(np.full((1, 32), np.inf), ["a"]), "finite rows"),
        (lambda: engine.upload(np.zeros((1, 32)), ["a"]), "must not be zero in their first 4"),
        (lambda: engine.query(table(1)[:, :8], plan), "must be 32 wide"),
        (lambda: engine.query(table(1), SearchPlan((4, 16), (20,))), r"Received \[16\]"),
        (lambda: engine.query(table(1), certified), "can't certify its answers"),
        (lambda: engine.query(table(1), plan, {"a": 0.5}), "strings, ints and booleans"),
        (lambda: engine.query(table(1), plan, 3), "`filters` must map"),
    ]
    for call, text in cases:
        with pytest.raises(ValueError, match=text):
            call()


def test_a_server_that_is_away_is_one_clear_line():
    qdrant = pytest.importorskip("qdrant_client", reason='pip install -e ".[backends]"')
    pytest.importorskip("psycopg", reason='pip install -e ".[backends]"')
    with warnings.catch_warnings(action="ignore"):  # the client warns of it as well
        client = qdrant.QdrantClient("http://127.0.0.1:9", check_compatibility=False)
    for engine in (
        QdrantEngine(client, "docs", DIMS),
        PgvectorEngine("postgresql://127.0.0.1:9/db", "docs", DIMS),
    ):
        with pytest.raises(ConnectionError, match="can't be reached .* do the same again"):
            engine.create()


def test_qdrant_searches_one_vector_and_only_reranks_the_others():
    qdrant = pytest.importorskip("qdrant_client", reason='pip install -e ".[backends]"')
    options = QdrantOptions(quantization="int8", m=24, shards=4, miss=0.01)
    engine = QdrantEngine(qdrant.QdrantClient(":memory:"), "docs", DIMS, options=options)
    engine.create()
    vectors = engine.client.get_collection("docs").config.params.vectors
    assert [vectors[f"d{dim}"].hnsw_config.m for dim in DIMS] == [24, 0, 0]
    assert [vectors[f"d{dim}"].on_disk for dim in DIMS] == [False, True, True]
    assert vectors["d4"].quantization_config.scalar.always_ram
    assert vectors["d32"].quantization_config is None

    request = engine.request(table(1)[0], SearchPlan((4, 8, 32), (200, 40)))
    inner = request["prefetch"].prefetch
    assert (inner.using, request["prefetch"].using, request["using"]) == ("d4", "d8", "d32")
    # In one of four shards lie at most 68 of 200 rows, but in one of a hundred cases.
    assert (inner.limit, request["prefetch"].limit, request["limit"]) == (68, 18, 10)


def test_a_payload_must_leave_qdrants_id_alone():
    qdrant = pytest.importorskip("qdrant_client", reason='pip install -e ".[backends]"')
    engine = QdrantEngine(qdrant.QdrantClient(":memory:"), "docs", DIMS)
    engine.create()
    with pytest.raises(ValueError, match="must not have the field '_id'"):
        engine.upload(table(1), ["a"], [{"_id": 3}])


def clustered(rows):
    """Rows with near neighbours, which a graph finds."""
    rng = np.random.default_rng(0)
    centres = table(rows // 20, seed=3)
    return (centres[rng.integers(0, len(centres), rows)] + 0.2 * table(rows, 4)).astype("float32")


def test_postgres_uses_the_index_of_the_prefix_and_keeps_the_recall(postgres):
    rows = clustered(4000)
    with PgvectorEngine(postgres, "indexed", DIMS, id_dtype="int64") as engine:
        check_the_index_of_a_prefix(engine, rows)


def check_the_index_of_a_prefix(engine, rows):
    engine.create()
    engine.upload(rows, np.arange(4000))
    plan = SearchPlan((4, 8, 32), (200, 50))
    assert "indexed_d4" not in engine.explain(rows[0], plan)
    engine.finish()
    text = engine.explain(rows[0], plan)
    assert "Index Scan using indexed_d4" in text
    queries = rows[:100] + 0.05 * table(100, seed=9)
    index = NestedIndex.build(rows, DIMS)
    found, expected = engine.query(queries, plan).ids, index.search(queries, plan).ids
    recall = np.mean([len(np.intersect1d(*pair)) for pair in zip(found, expected, strict=True)])
    assert recall / 10 > 0.97
    # A shortlist past hnsw.ef_search's 1000 goes on by an iterative scan.
    long = SearchPlan((4, 32), (2500,), k=2500)
    assert (engine.query(queries[:1], long).ids >= 0).sum() == 2500


def test_postgres_leaves_tables_of_others_alone(postgres):
    import psycopg

    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE others (a int)")
    engine = PgvectorEngine(postgres, "others", DIMS)
    with engine, pytest.raises(ValueError, match="not one that `create` made"):
        engine.create()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: QdrantOptions(quantization="int4"), '"int8" or None'),
        (lambda: QdrantOptions(shards=0), "`shards` must be at least 1"),
        (lambda: QdrantOptions(miss=2), "`miss` must lie"),
        (lambda: PgvectorOptions(m=0), "`m` must be at least 1"),
        (lambda: PgvectorEngine("", "Docs; DROP", DIMS), "plain SQL name"),
        (lambda: PgvectorEngine("", "docs", [4, 4000], options=PgvectorOptions([4000])), "2000"),
        (lambda: PgvectorEngine("", "docs", DIMS, options=PgvectorOptions([5])), r"Received \[5\]"),
        (lambda: QdrantEngine(None, "docs", DIMS, id_dtype="str"), "`id_dtype` must be one of"),
    ],
)
def test_arguments_are_checked(call, text):
    pytest.importorskip("psycopg", reason='pip install -e ".[backends]"')
    pytest.importorskip("qdrant_client", reason='pip install -e ".[backends]"')
    with pytest.raises(ValueError, match=text):
        call()
