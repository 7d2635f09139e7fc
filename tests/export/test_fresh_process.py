"""Processes that know neither this package nor scann's Python get the in-memory answers."""

import numpy as np
import pytest

from tests.export import cases

pytestmark = pytest.mark.slow  # the process imports TensorFlow and loads every model
QUERIES = cases.queries(20)


@pytest.fixture(scope="module")
def expected(exported):
    return {
        "first": exported.index.search(QUERIES, cases.PLAN),
        "second": exported.second_index.search(QUERIES, cases.PLAN),
    }


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("way", ["loader", "session"])
def test_ids_are_those_in_memory(fresh, expected, way, name):
    assert fresh[way][name]["ids"] == expected[name].ids.tolist()


def test_the_twin_answers_alike_by_both_loaders(fresh, expected):
    ids = np.array(fresh["loader"]["plain"]["ids"])
    assert fresh["session"]["plain"]["ids"] == ids.tolist()
    assert np.mean(ids == expected["first"].ids) > 0.6


def test_the_twin_needs_tensorflow_alone(fresh):
    """It answered before the process knew ScaNN's ops, and its graph has no custom op."""
    assert np.shape(fresh["before_ops"]) == (20, 7)
    assert fresh["before_ops"] == fresh["session"]["plain"]["ids"]
    assert fresh["unknown"]["plain"] == []
    assert fresh["unknown"]["first"] == ["Scann>ScannSearchBatched", "Scann>TensorsToScann"]


def test_the_process_does_not_know_this_package(fresh):
    assert fresh["modules"] == []


@pytest.mark.parametrize("name", ["first", "second", "plain"])
def test_a_session_fills_defaults_and_clamps(fresh, name):
    answers = fresh["session"][name]
    assert answers["defaults"] == answers["ids"]
    assert [len(row) for row in answers["two"]] == [2] * 20
    assert answers["one"] == [row[:1] for row in answers["ids"]]
    assert answers["empty"] == [0, 7]
    assert answers["wrong_width_refused"] == [5, 64]


@pytest.mark.parametrize("name", ["first", "plain"])
def test_a_session_leaves_the_neighbours_of_bad_rows_alone(fresh, name):
    answers = fresh["session"][name]
    assert answers["poisoned"][1] == [""] * 7
    del answers["poisoned"][1]
    assert answers["poisoned"] == [row for n, row in enumerate(answers["ids"]) if n != 1]


def test_two_indexes_in_one_model_do_not_mix(fresh, expected):
    for way in ("loader", "session"):
        for name in ("first", "second"):
            assert fresh["two"][f"{way} {name}"] == expected[name].ids.tolist()


def test_first_requests_at_once_get_the_same_answers(fresh, expected):
    assert len(fresh["race"]) == 2 * 8
    assert all(answer == expected["first"].ids.tolist() for answer in fresh["race"])


@pytest.mark.parametrize("name", ["first", "second", "plain"])
def test_requests_build_nothing(fresh, name):
    """No signature adds a thread pool, the parts are gone, and memory stays where it is."""
    found = fresh["loader"][name]
    assert found["threads"] == [0] * 6
    assert found["parts"] == ([] if name == "plain" else [0] * 9)
    assert found["grown_kib"] < 30_000


def test_the_c_api_gives_the_same(run_script, expected):
    answers = run_script("c_api_client.py")
    assert answers["python_tensorflow"] is False
    for name in ("first", "second"):
        np.testing.assert_array_equal(answers[name]["indices"], expected[name].indices)
        np.testing.assert_allclose(answers[name]["scores"], expected[name].scores, rtol=1e-5)
    assert np.shape(answers["plain"]["indices"]) == (20, 7)
