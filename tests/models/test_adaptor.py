"""The adaptor: where it starts, what training changes, memory maps, files, errors."""

import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.baselines import SVD
from mrl_keras.export import export_saved_model, load
from mrl_keras.losses.kept_similarities import similarity_divergence
from mrl_keras.models import AdaptorOptions, MatryoshkaAdaptor, adaptor, fit_adaptor
from mrl_keras.retrieval import NestedIndex, SearchPlan, exact_search, recall_at_k

DIMS = [4, 8, 32]
SHORT = AdaptorOptions(steps=60, batch_size=128, learning_rate=3e-3)


ROWS = np.arange(9 * 32.0).reshape(9, 32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered(count, seed=0):
    """Rows of 40 clusters on a curved surface, rotated so that no component comes first."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((32, 32)))[0]
    centres = np.random.default_rng(8).standard_normal((40, 6))
    hidden = centres[rng.integers(0, 40, count)] + 0.4 * rng.standard_normal((count, 6))
    curved = np.tanh(hidden @ np.random.default_rng(9).standard_normal((6, 32)))
    return ((curved + 0.1 * rng.standard_normal((count, 32))) @ turn).astype("float32")


@pytest.fixture(scope="module")
def rows():
    return clustered(1500)


@pytest.fixture(scope="module")
def trained(rows):
    return fit_adaptor(rows, DIMS, options=SHORT)


def adapted(model, rows):
    return np.concatenate(list(model.chunks(rows)))


def kept_neighbours(rows, queries, original_rows, original_queries, dim):
    true = exact_search(original_queries, original_rows, [32], k=10).indices[0]
    return recall_at_k(exact_search(queries, rows, [dim], k=10).indices[0], true)


def test_it_starts_as_svd_of_unit_rows(rows):
    made = MatryoshkaAdaptor(DIMS)
    made.adapt(rows)
    expected = SVD().fit(unit(rows)).transform(unit(rows), 32)
    np.testing.assert_allclose(adapted(made, rows), expected, atol=2e-5)
    np.testing.assert_allclose(adapted(made, 9 * rows[:5]), expected[:5], atol=2e-5)
    cosines = expected[:50] @ expected[:50].T  # the full width's ranking stays
    np.testing.assert_allclose(cosines, unit(rows[:50]) @ unit(rows[:50]).T, atol=1e-5)


def test_training_keeps_more_neighbours_at_small_prefixes(rows, trained):
    queries = clustered(200, seed=1)
    start = MatryoshkaAdaptor(DIMS, hidden=0)
    start.adapt(rows)
    found = {
        name: {
            dim: kept_neighbours(adapted(one, rows), adapted(one, queries), rows, queries, dim)
            for dim in DIMS
        }
        for name, one in (("start", start), ("trained", trained))
    }
    assert found["trained"][4] > found["start"][4]
    assert found["start"][32] > 0.999
    assert found["trained"][32] > 0.8
    kept = unit(queries) @ unit(queries).T

    def loss(model):
        short = unit(adapted(model, queries)[:, :4])
        return similarity_divergence(kept, short @ short.T).numpy().mean()

    assert loss(trained) < 0.98 * loss(start)


@pytest.mark.slow
def test_only_the_network_is_trained(rows, trained):
    start = MatryoshkaAdaptor(DIMS)
    start.adapt(rows)
    np.testing.assert_array_equal(
        trained.rotation.get_weights()[0], start.rotation.get_weights()[0]
    )
    assert np.abs(trained.get_layer("outer").kernel).max() > 0
    same = fit_adaptor(rows, DIMS, options=SHORT)
    np.testing.assert_allclose(adapted(same, rows[:5]), adapted(trained, rows[:5]), atol=1e-4)
    other = fit_adaptor(rows, DIMS, options=dataclasses.replace(SHORT, seed=1))
    assert np.abs(adapted(other, rows[:5]) - adapted(trained, rows[:5])).max() > 1e-3


def test_a_memory_map_is_read_in_parts_and_trains_the_same(rows, trained, tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    same = fit_adaptor(mapped, DIMS, options=SHORT)
    np.testing.assert_allclose(adapted(same, mapped), adapted(trained, rows), atol=1e-4)
    monkeypatch.setattr(adaptor, "_CHUNK_ROWS", 400)
    assert [len(chunk) for chunk in same.chunks(mapped)] == [400, 400, 400, 300]
    parts = MatryoshkaAdaptor(DIMS, hidden=0)
    parts.adapt(mapped)  # directions of equal energy may turn, the energies stay
    energies = (adapted(parts, rows) ** 2).mean(axis=0)
    singular = np.linalg.svd(unit(rows), compute_uv=False) ** 2 / len(rows)
    np.testing.assert_allclose(energies, singular, rtol=1e-3)


def test_every_row_is_seen_once_before_any_is_seen_again(rows):
    batches = adaptor._Batches(
        rows[:100], None, MatryoshkaAdaptor(DIMS).nesting_dims, AdaptorOptions(batch_size=20)
    )
    seen = [batches[step][0]["rows"] for step in range(10)]
    for epoch in (seen[:5], seen[5:]):
        found = np.concatenate(epoch)
        assert len(np.unique(found, axis=0)) == 100
    assert not np.array_equal(seen[0], seen[5])
    inputs, targets = batches[3]
    np.testing.assert_allclose(
        targets["kept"], unit(inputs["rows"]) @ unit(inputs["rows"]).T, atol=1e-5
    )


@pytest.mark.slow
def test_pairs_rank_their_documents_higher(rows):
    rng = np.random.default_rng(3)
    noise = 1.5 * np.linalg.norm(rows[:600], axis=1, keepdims=True) / np.sqrt(32)
    queries = rows[:600] + noise * rng.standard_normal((600, 32)).astype("float32")
    options = dataclasses.replace(SHORT, pair_weight=1.0)
    pairs = queries[:300], rows[:300]
    with_pairs = fit_adaptor(rows, DIMS, pairs=pairs, options=options)
    without = fit_adaptor(rows, DIMS, options=options)

    def found(model, part):
        asked, there = adapted(model, queries[part]), adapted(model, rows)
        best = exact_search(asked, there, [8], k=10).indices[0]
        return (best == np.arange(600)[part][:, None]).any(axis=1).mean()

    assert found(with_pairs, slice(0, 300)) > found(without, slice(0, 300)) + 0.05


def test_config_and_files(trained, rows, tmp_path):
    made = MatryoshkaAdaptor([2, 32], hidden=7, seed=5, name="other")
    config = made.get_config()
    assert (config["nesting_dims"], config["hidden"], config["seed"]) == ([2, 32], 7, 5)
    assert config["name"] == "other"
    assert MatryoshkaAdaptor.from_config(config).get_config() == config
    trained.save(tmp_path / "adaptor.keras")
    loaded = keras.saving.load_model(tmp_path / "adaptor.keras")
    assert type(loaded) is MatryoshkaAdaptor
    np.testing.assert_array_equal(adapted(loaded, rows[:9]), adapted(trained, rows[:9]))


def test_a_zero_row_gives_no_nan(trained):
    found = adapted(trained, np.zeros((2, 32), "float32"))
    assert np.isfinite(found).all()


@pytest.mark.slow
def test_an_export_adapts_raw_embeddings_and_searches(trained, rows, tmp_path):
    index = NestedIndex.build(trained.chunks(rows), DIMS)
    plan = SearchPlan.adaptive(shortlist_dim=8, shortlist=50, rerank_dim=32, k=5)
    path = export_saved_model(os.fspath(tmp_path / "model"), trained, index=index, plan=plan)
    raw = clustered(6, seed=2)
    answer = load(path).signatures["retrieve"](original=tf.constant(raw))
    expected = index.search(adapted(trained, raw), plan)
    np.testing.assert_array_equal(answer["indices"], expected.indices)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: fit_adaptor(np.ones((9, 31)), DIMS),
            r"must have the shape \(rows, 32\).*\(9, 31\)",
        ),
        (lambda: fit_adaptor(np.ones(32), DIMS), r"must have the shape \(rows, 32\)"),
        (lambda: fit_adaptor(np.ones((1, 32)), DIMS), "at least 2 rows"),
        (
            lambda: fit_adaptor(np.ones((9, 32)), DIMS, pairs=(np.ones((3, 32)), np.ones((4, 32)))),
            "of one length. Received the shapes",
        ),
        (
            lambda: fit_adaptor(np.ones((9, 32)), DIMS, pairs=(np.ones((3, 8)), np.ones((3, 8)))),
            "Each of `pairs` must have the shape",
        ),
        (lambda: MatryoshkaAdaptor(DIMS).adapt(np.full((3, 32), np.nan)), "overflow in row 0"),
        (lambda: MatryoshkaAdaptor(DIMS).adapt(np.full((3, 32), 1e300)), "overflow in row 0"),
        (
            lambda: fit_adaptor(ROWS, DIMS, pairs=(ROWS, np.where(ROWS == 4 * 32, np.nan, ROWS))),
            "Each of `pairs` must be finite.* in row 4",
        ),
        (lambda: MatryoshkaAdaptor(DIMS, hidden=-1), "`hidden` must be at least 0"),
        (lambda: MatryoshkaAdaptor([8, 4]), "must ascend"),
        (lambda: AdaptorOptions(steps=-1), "`steps` must be at least 0"),
        (lambda: AdaptorOptions(batch_size=1), "`batch_size` must be at least 2"),
        (lambda: AdaptorOptions(learning_rate=0.0), "`learning_rate` must be a finite number"),
        (lambda: AdaptorOptions(pair_weight=True), "`pair_weight` must be a finite number"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_layers_have_the_adaptors_dtype():
    made = MatryoshkaAdaptor([2, 8], dtype="mixed_bfloat16")
    assert {layer.compute_dtype for layer in made.layers[1:]} == {"bfloat16"}
    again = MatryoshkaAdaptor.from_config(made.get_config())
    assert {layer.compute_dtype for layer in again.layers[1:]} == {"bfloat16"}
    assert {layer.compute_dtype for layer in MatryoshkaAdaptor([2, 8]).layers[1:]} == {"float32"}
