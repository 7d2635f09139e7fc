"""All leaves and a shortlist of all rows: every searcher is brute force, the export included."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.export import ServingOptions, export_saved_model, load, load_manifest
from mrl_keras.export.graph.search import NestedSearch
from mrl_keras.export.graph.shortlists import ExactShortlist, ScannShortlist
from mrl_keras.models import RetrievalModel
from mrl_keras.retrieval import (
    IndexOptions,
    PartitionParameters,
    SearchPlan,
    TuningOptions,
    exact_search,
    index_bytes,
    tune,
)
from tests.export import cases
from tests.retrieval.oracle import assert_top_k, scores_at

ROWS, WIDTH = 300, cases.DIMS[-1]
OPTIONS = ServingOptions(max_k=400, max_shortlist=400, warmup_batch_sizes=())


def identity():
    inputs = keras.Input((WIDTH,), name="vectors")
    return keras.Model(inputs, keras.layers.Identity()(inputs))


def plan_of(k, dims=(8, 16, 32)):
    size = max(ROWS, k)
    return SearchPlan(dims, (size,) * (len(dims) - 1), k, leaves=25 if len(dims) > 1 else None)


@pytest.fixture(scope="module")
def searchers(tmp_path_factory):
    """{name: function of queries and k -> (scores, indices)}."""
    folder, encoder = tmp_path_factory.mktemp("exact"), identity()
    indexes = {
        "exact": cases.index(scann=False, ids=False, rows=ROWS),
        "scann": cases.index(ids=False, rows=ROWS),
        "reordering scann": cases.index(ids=False, rows=ROWS, reorder_dim=16),
    }
    partition = IndexOptions(shortlist_dim=8, partition=PartitionParameters(16, 25, 5, spill=1.0))
    indexes["partition"] = indexes["exact"].with_shortlist(partition)
    found = {
        "exact_search": lambda q, k: _last(exact_search(q, cases.vectors(ROWS), cases.DIMS, k)),
        "single stage": lambda q, k: _pair(indexes["exact"].search(q, plan_of(k, (32,)))),
        "RetrievalModel": lambda q, k: _pair(
            RetrievalModel(encoder, indexes["scann"], plan_of(k)).retrieve(q)
        ),
    }
    for name, index in indexes.items():
        found[f"index, {name}"] = lambda q, k, index=index: _pair(index.search(q, plan_of(k)))
        path = export_saved_model(
            str(folder / name.split()[0] / "m"),
            encoder,
            index=index,
            plan=plan_of(7),
            options=dataclasses.replace(OPTIONS, twin=name in ("scann", "partition")),
        )
        found[f"export, {name}"] = _served(path)
    found["twin"] = _served(str(folder / "scann" / "m_plain"))
    assert not (folder / "partition" / "m_plain").exists()  # needs no custom ops as it is
    manifest = load_manifest(str(folder / "partition" / "m"))
    assert manifest["custom_ops"] == []
    assert manifest["retrieval"]["shortlist"] == {
        "kind": "partition",
        "parameters": {"dim": 8, **indexes["partition"].shortlist.parameters.to_dict()},
    }
    assert manifest["retrieval"]["bounds"]["leaves"] == len(indexes["partition"].shortlist.leaves)
    return found


def _last(result):
    return result.scores[-1], result.indices[-1]


def _pair(result):
    return result.scores, result.indices


def _served(path):
    model = load(path)  # kept by the closure: a dropped model's searcher is gone

    def search(queries, k):
        numbers = {"k": k, "shortlist": max(ROWS, k), "leaves": 25}
        answer = model.signatures["retrieve_dynamic"](
            vectors=tf.constant(queries, tf.float32),
            **{name: tf.constant(number, tf.int32) for name, number in numbers.items()},
        )
        np.testing.assert_array_equal(answer["ids"], answer["indices"])
        return answer["scores"].numpy(), answer["indices"].numpy()

    return search


@settings(max_examples=5, deadline=None)
@given(count=st.integers(0, 20), k=st.integers(1, 320), seed=st.integers(0, 1000))
def test_every_searcher_equals_the_oracle(searchers, count, k, seed):
    queries = cases.queries(count, seed)
    truth = scores_at(queries, cases.vectors(ROWS), WIDTH)
    assert len(searchers) == 12
    for name, search in searchers.items():
        try:
            assert_top_k(*search(queries, k), truth, k)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(index, the plan that tuning picked, the loaded export of both)."""
    index = cases.index(scann=False, ids=False, rows=ROWS)
    plan = tune(index, cases.queries(30), options=TuningOptions("recall@5", 0.05)).best
    folder = str(tmp_path_factory.mktemp("tuned") / "m")
    path = export_saved_model(folder, identity(), index=index, plan=plan, options=OPTIONS)
    return index, plan, load(path)


def test_what_tuning_picks_is_exported_as_it_is(tuned):
    index, plan, model = tuned
    served = model.signatures["retrieve"](vectors=tf.constant(cases.queries(9)))
    expected = index.search(cases.queries(9), plan)
    np.testing.assert_array_equal(served["ids"], expected.ids)
    assert served["ids"].shape == (9, 5)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["exact", "scann", "reordering scann"])
def test_the_variables_on_disk_weigh_what_the_formula_says(tmp_path, storage, kind):
    index = cases.index(
        scann=kind != "exact",
        ids=False,
        storage=storage,
        reorder_dim=16 if kind == "reordering scann" else None,
    )
    shortlist_class = ExactShortlist if kind == "exact" else ScannShortlist
    search = NestedSearch(index, cases.PLAN, shortlist_class)
    tf.train.Checkpoint(search=search).write(str(tmp_path / "variables"))
    (written,) = tmp_path.glob("variables.data-*")
    ends = {"exact": (8, 16, 32), "scann": (16, 32), "reordering scann": (32,)}[kind]
    formula = index_bytes(
        len(index), ends, "export", storage,
        shortlist_blocks=0 if kind == "exact" else 8,
        reorder_dims=8 + 16 if kind == "reordering scann" else 0,
    )  # fmt: skip
    # The rest is the empty row of each table, the tree's centres and the code book.
    assert formula < written.stat().st_size < formula + 8_000
