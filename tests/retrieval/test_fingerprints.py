import json

import numpy as np
import pytest

from mrl_keras.retrieval import IndexOptions, NestedIndex, PartitionParameters, SearchPlan
from mrl_keras.retrieval.bulk import fingerprints

ROWS = np.random.default_rng(0).standard_normal((300, 16)).astype("float32")


def digest(*chunks):
    made = fingerprints.RowDigest()
    for chunk in chunks:
        made.update(chunk)
    return made.hexdigest()


def test_digests_see_values_types_and_shapes_but_no_chunks():
    words = np.array(["a", "bc", "d"])
    rows = np.arange(12, dtype="int32").reshape(3, 4)
    assert digest([rows, words]) == digest([rows[:1], words[:1]], [rows[1:], words[1:]])
    assert digest([words]) == digest([words.astype(object)]) == digest([words.astype("S")])
    assert digest([rows]) == digest([np.asfortranarray(rows)])
    made = {
        digest([rows]),
        digest([rows.astype("int64")]),
        digest([rows.view("float32")]),
        digest([rows.reshape(3, 2, 2)]),
        digest([rows[::-1]]),
        digest([rows, words]),
        digest([words]),
        digest([np.array(["ab", "c", "d"])]),
        digest(),
    }
    assert len(made) == 9


def test_large_tables_are_digested_in_steps(monkeypatch):
    whole = digest([ROWS])
    monkeypatch.setattr(fingerprints, "_STEP_BYTES", 200)
    assert digest([ROWS]) == whole


def test_values_of_other_lengths_do_not_run_into_each_other():
    one, other = ([np.arange(2), np.arange(3)], [np.arange(3), np.arange(2)])
    assert fingerprints.digest_of(one) != fingerprints.digest_of(other)


def test_tables_of_one_chunk_keep_their_number():
    made = fingerprints.RowDigest()
    made.update([ROWS, ROWS])
    with pytest.raises(ValueError, match="zip"):
        made.update([ROWS])


def test_an_index_is_known_by_what_it_holds(tmp_path):
    index = NestedIndex.build(ROWS, [4, 16])
    index.save(tmp_path / "index")
    same = [NestedIndex.load(tmp_path / "index", memory_map=mapped) for mapped in (False, True)]
    found = fingerprints.index_fingerprint(index)
    assert [fingerprints.index_fingerprint(other) for other in same] == [found, found]
    changed = NestedIndex.build(ROWS[::-1], [4, 16])
    assert fingerprints.describe_differences(found, fingerprints.index_fingerprint(changed))[
        0
    ].startswith("sha256 (")


def test_differences_name_what_is_on_one_side_only():
    plan = fingerprints.plan_fingerprint(SearchPlan((4, 16), (20,), k=5))
    assert plan == {"dims": [4, 16], "sizes": [20], "k": 5, "leaves": None}
    assert fingerprints.describe_differences(plan, plan) == []
    assert fingerprints.describe_differences({"a": {"b": 1}}, {"a": {"c": 2}}) == [
        "a.b (1 there, None here)",
        "a.c (None there, 2 here)",
    ]


def test_options_differ_by_their_partition_and_its_centres():
    def options(**arguments):
        partition = PartitionParameters(2, 3, 1, **arguments)
        return IndexOptions(shortlist_dim=2, partition=partition)

    centres = np.arange(6.0).reshape(3, 2)
    found = [
        json.dumps(fingerprints.options_fingerprint(one))
        for one in (
            IndexOptions(shortlist_dim=2),
            options(),
            options(spill=1.0),
            options(centres=centres),
            options(centres=centres + 1),
        )
    ]
    assert len(set(found)) == 5
    assert found[3] == json.dumps(
        fingerprints.options_fingerprint(options(centres=centres.tolist()))
    )


def test_storage_for_each_block_is_the_same_once_it_is_json():
    options = fingerprints.options_fingerprint(IndexOptions(storage={64: "float32", 384: "int8"}))
    again = json.loads(json.dumps(options))
    assert fingerprints.describe_differences(again, options) == []
