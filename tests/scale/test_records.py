"""Files of records: every format, ids, payloads, and what is bad in them."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from mrl_keras.scale import RecordOptions
from mrl_keras.scale.records import BadRecord, Record, find_files, read_records


def read(path, **options):
    return list(read_records(str(path), RecordOptions(**options)))


def test_text_lines_are_numbered_and_broken_ones_are_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\n\n  \nzwölf\n".encode() + b"bad \xff\nlast")
    found = read(path, payload=["text"])
    assert [one.id for one in found if isinstance(one, Record)] == ["a.txt:1", "a.txt:4", "a.txt:6"]
    assert [one.value for one in found if isinstance(one, Record)] == ["one", "zwölf", "last"]
    assert json.loads(found[1].payload) == {"text": "zwölf"}
    (bad,) = [one for one in found if isinstance(one, BadRecord)]
    assert bad.where == (str(path), 4)
    assert "no UTF-8" in bad.reason
    assert read(path)[0].payload == ""


def write_table(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_tables_give_ids_payload_and_arrays(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(
        path,
        key=[7, 8, None, 9],
        embedding=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], None],
        lang=["en", None, "de", "fr"],
        unused=[0, 0, 0, 0],
    )
    first, second, third, bad = read(path, ids="key", payload=["lang"])
    assert (first.id, second.id, third.id) == (7, 8, "a.parquet:3")
    np.testing.assert_array_equal(second.value, np.float32([3, 4]))
    assert second.value.dtype == np.float32
    assert [first.payload, second.payload] == ['{"lang": "en"}', ""]
    assert bad == BadRecord((str(path), 3), bad.reason)
    assert "no input" in bad.reason
    write_table(path, title=["a"], text=["b"])
    assert read(path)[0].value == "b"
    assert read(path, inputs="title")[0].value == "a"


def test_a_damaged_table_is_one_bad_record(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nothing of the kind PAR1")
    (bad,) = read(path)
    assert "can't be read on from here" in bad.reason


def example(**features):
    def feature(value):
        if isinstance(value, (bytes, str)):
            data = value.encode() if isinstance(value, str) else value
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))

    made = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def test_examples_of_a_tfrecord(tmp_path):
    path = tmp_path / "a.tfrecord"
    image = tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in (
            example(id="x", text="grün", year=2020),
            example(id=4, image=image),
            b"\xff\xff\xff no example",
            example(id="y", embedding=[1.5]),
            example(id=[0.5], text="a"),
        ):
            writer.write(data)
    text, picture, bad, row, strange = read(path, payload=["year"])
    assert (text.id, text.value, text.payload) == ("x", "grün", '{"year": 2020}')
    assert (picture.id, picture.value) == (4, image)
    assert "no tf.train.Example" in bad.reason
    np.testing.assert_array_equal(row.value, np.float32([1.5]))
    assert "neither a string nor an int" in strange.reason

    path.write_bytes(path.read_bytes()[:-7])
    assert "can't be read on from here" in read(path)[-1].reason
    assert len(read(path)) == 5


def test_images_are_named_by_their_files(tmp_path):
    (tmp_path / "sun.PNG").write_bytes(b"pixels")
    assert read(tmp_path / "sun.PNG")[0][:1] == ("sun.PNG",)
    assert read(tmp_path / "sun.PNG")[0].value == b"pixels"


def test_files_are_found_once_and_sorted(tmp_path):
    for name in ("b.txt", "a.txt", "c.png", "note.md"):
        (tmp_path / name).write_text("x")
    found = find_files([str(tmp_path), str(tmp_path / "*.txt")])
    assert [path.rpartition("/")[2] for path in found] == ["a.txt", "b.txt", "c.png"]
    for pattern, text in [
        (str(tmp_path / "*.csv"), "Nothing was found"),
        (str(tmp_path / "*.md"), "Inputs must end in"),
        ("file:///a.txt", "An input must be without a scheme"),
    ]:
        with pytest.raises(ValueError, match=text):
            find_files([pattern])
    with pytest.raises(ValueError, match="must be a list of names"):
        RecordOptions(payload="text")
    assert find_files(["ram://nowhere.txt"]) == ["ram://nowhere.txt"]


def test_files_of_one_name_are_refused_and_names_are_no_patterns(tmp_path):
    for name in ("a/x.txt", "b/x.txt", "c/a[1].txt", "c/a1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("line")
    with pytest.raises(ValueError, match=r"which must differ. Received several \['x.txt'\]"):
        find_files([str(tmp_path / "a"), str(tmp_path / "b")])
    literal = str(tmp_path / "c" / "a[1].txt")
    assert find_files([literal]) == [literal]
