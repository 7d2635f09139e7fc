"""What an export indexes or tunes on: rows of a set or folder, in batches, with ids."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mrl_keras.data import text_set
from mrl_keras.data.image.augmentation import centre_crop
from mrl_keras.data.tfds_sets import stored_examples

ID_CHARACTERS = 60
"""An id that is made of a text has at most so many of its characters."""


class Rows(NamedTuple):
    """Some rows, in the order of their set; each part has one entry for each row.

    Attributes:
        inputs: array of raw inputs, or of embeddings where the corpus has no `embed`.
        ids: array of str or int64, what a search answers.
        labels: int array, or `None` without classes.
        keys: array of str by which a task's own judgements name a row, or `None`; several rows
            may share one.
        relevant: for queries, a list of tuples of keys, or of ids where `Source.relevant` names
            them; `None` without judgements.
    """

    inputs: np.ndarray
    ids: np.ndarray
    labels: np.ndarray | None = None
    keys: np.ndarray | None = None
    relevant: list[tuple[str, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A set and what is read of it.

    Args:
        name: str, a TFDS set, "made" for a task's artificial data, or a folder.
        split: str, also "train+test".
        data_dir: folder of TFDS; "" is TFDS's own.
        ids: name of the feature with the ids; "" makes them of the row and what it shows.
        texts: names of the features whose texts are joined; () is the task's own.
        relevant: name of the feature with the ids of the relevant rows; "" for none.
        most: int, at most so many rows; 0 is all.
    """

    name: str
    split: str = ""
    data_dir: str = ""
    ids: str = ""
    texts: Sequence[str] = ()
    relevant: str = ""
    most: int = 0


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Rows that can be read from any row on, and how they are embedded.

    Args:
        about: dict that JSON can hold, where the rows come from.
        read: function of a row number -> iterator of `Rows`, from that row on.
        embed: function of raw inputs -> float32 (rows, d), or `None` for rows that are embeddings.
        class_names: names of the labels, or `None`.
    """

    about: dict
    read: Callable[[int], Iterator[Rows]]
    embed: Callable[[np.ndarray], np.ndarray] | None
    class_names: tuple[str, ...] | None = None

    def embedded(self, start: int = 0) -> Iterator[tuple[np.ndarray, Rows]]:
        """(embeddings, `Rows`) of each batch from a row on."""
        for rows in self.read(start):
            yield (rows.inputs if self.embed is None else self.embed(rows.inputs)), rows


@dataclasses.dataclass(frozen=True)
class Direction:
    """One direction of a task's retrieval: who asks, and what is found.

    Args:
        rows: function of a `Source` -> `Corpus` of what is found.
        queries: function of a `Source` -> `Corpus` of what asks.
        embed_rows, embed_queries: functions of raw inputs -> embeddings, for folders of them.
        encoder: Keras layer or model, a query's raw inputs -> (batch, d) embedding. Default
            `None`, the exported encoder.
    """

    rows: Callable[[Source], Corpus]
    queries: Callable[[Source], Corpus]
    embed_rows: Callable[[np.ndarray], np.ndarray]
    embed_queries: Callable[[np.ndarray], np.ndarray]
    encoder: object = None


def array_corpus(about, rows: Rows, embed, batch_size, class_names=None, most=0) -> Corpus:
    """A `Corpus` of rows in memory, of at most so many; 0 is all."""
    if most:
        rows = Rows(*(part if part is None else part[:most] for part in rows))

    def read(start):
        for low in range(start, len(rows.ids), batch_size):
            yield Rows(*(part if part is None else part[low : low + batch_size] for part in rows))

    return Corpus(about, read, embed, class_names)


def stored_corpus(
    kind, builder, source: Source, parts, embed, batch_size, class_names=None
) -> Corpus:
    """A `Corpus` of a TFDS set, read as it is needed.

    Args:
        kind: "images" or "texts".
        builder: the prepared set.
        source: `Source`.
        parts: function of an example -> dict of the tensors "inputs", and perhaps "label" and
            "shown", a text that the default id begins with.
        embed, class_names: as for `Corpus`.
        batch_size: int.

    Raises:
        ValueError: no such split or feature, or ids that are no texts or ints.
    """
    _check_features(builder, source)

    def prepare(example):
        found = {**parts(example), "key": example["tfds_id"]}
        for name in ("ids", "relevant"):
            if getattr(source, name):
                found[name] = example[getattr(source, name)]
        return found

    def batches(start):
        dataset = stored_examples(builder, source.split, start)
        if source.most:
            dataset = dataset.take(max(source.most - start, 0))
        row = start
        for batch in _batched(dataset.map(prepare), batch_size):
            yield _rows(batch, row, source, class_names)
            row += len(batch["key"])

    name = ":".join(builder.info.full_name.rsplit("/", 1))  # as `tfds.builder` takes a version
    about = {"kind": kind, "set": name, "split": source.split, "ids": source.ids or "row"}
    if source.most:
        about["most"] = source.most
    return Corpus(about, batches, embed, class_names)


def folder_corpus(source: Source, width: int, embed, batch_size) -> Corpus:
    """A `Corpus` of a folder's files: Parquet, or NumPy's, which are read as they are needed.

    | file | holds |
    |---|---|
    | `embeddings.npy` or `inputs.npy` | embeddings (rows, d), or raw inputs |
    | `ids.npy`, `labels.npy` | optional, ids (rows,) and int labels (rows,) |
    | `*.parquet` | the column `embedding` (lists) or `text`, optionally `id` and `label` |

    Raises:
        ValueError: neither kind of file, a width that is not the encoder's, no rows, or parts that
            differ in their number of rows.
        ImportError: pyarrow is needed and missing.
    """
    paths = sorted(
        path
        for path in glob.glob(os.path.join(glob.escape(source.name), "*"))
        if path.endswith((".npy", ".parquet"))
    )
    about = {
        "set": os.path.basename(os.path.abspath(source.name)),
        "files": {
            os.path.basename(path): [os.path.getsize(path), int(os.path.getmtime(path))]
            for path in paths
        },
        "ids": source.ids or "id",
    }
    if any(path.endswith(".parquet") for path in paths):
        tables = [path for path in paths if path.endswith(".parquet")]
        read, embedded = _parquet_rows(source, tables, width, batch_size)
    else:
        read, embedded = _array_rows(source, paths, width, batch_size)
    return Corpus(about, read, None if embedded else embed)


def text_corpus(source: Source, features: Sequence[str], embed, batch_size) -> Corpus:
    """A `Corpus` of a TFDS set's texts.

    Args:
        source: `Source`; its `texts` are joined by a space.
        features: the features to join where `source.texts` names none.
        embed: texts -> embeddings.
        batch_size: int.
    """
    import tensorflow as tf

    texts = tuple(source.texts or features)
    others = [name for name in (source.ids, source.relevant) if name]
    builder = text_set(source.name, texts, others, source.data_dir or None)

    def parts(example):
        joined = tf.strings.join([example[name] for name in texts], " ")
        return {"inputs": tf.strings.strip(joined)}

    return stored_corpus("texts", builder, source, parts, embed, batch_size)


def image_reader(builder, data, image_shape) -> Callable:
    """Function of an example -> its uint8 image as a run evaluates images.

    Args:
        builder: the prepared set.
        data: a config's `data`: `in_memory`, `eval_resolution`, `eval_crop`.
        image_shape: (height, width, channels) of the run's images. In memory they stay as they
            are, and a set of another shape is cut to it.
    """
    import tensorflow as tf

    in_memory = data.in_memory
    size, crop = (image_shape[0], 1.0) if in_memory else (data.eval_resolution, data.eval_crop)
    as_it_is = in_memory and builder.info.features["image"].shape == image_shape

    def image_of(example):
        image = example["image"]
        return image if as_it_is else tf.cast(tf.round(centre_crop(image, size, crop)), tf.uint8)

    return image_of


def made_ids(first_row, shown: Sequence[str]) -> np.ndarray:
    """Ids "ROW/TEXT", where the text is what a row shows, cut."""
    return np.array([f"{first_row + i}/{text[:ID_CHARACTERS]}" for i, text in enumerate(shown)])


def class_ids(first_row, labels, class_names) -> np.ndarray:
    """Ids "CLASS/ROW"."""
    names = [name.replace(" ", "_") for name in class_names]
    if len(labels) and np.min(labels) < 0:
        raise ValueError(
            f"Ids of classes need labels from 0. Received {np.min(labels)} in row "
            f"{first_row + int(np.argmin(labels))}: take a split with labels, or other ids."
        )
    return np.array([f"{names[label]}/{first_row + i}" for i, label in enumerate(labels)])


def _batched(dataset, batch_size):
    """Batches of a dataset of dicts as dicts of arrays; sequences come as lists of arrays."""
    import tensorflow as tf

    def dense(spec):
        return spec.shape.is_fully_defined()

    specs = dataset.element_spec
    if all(dense(spec) for spec in specs.values()):
        yield from dataset.batch(batch_size).prefetch(2).as_numpy_iterator()
        return
    for batch in dataset.ragged_batch(batch_size).prefetch(2):
        yield {
            name: [np.asarray(row) for row in value]
            if isinstance(value, tf.RaggedTensor)
            else value.numpy()
            for name, value in batch.items()
        }


def _rows(batch, first_row, source, class_names):
    inputs, labels = batch["inputs"], batch.get("label")
    if inputs.dtype == object:
        inputs = _texts(inputs, source)
    if "ids" in batch:
        ids = batch["ids"]
        ids = _texts(ids, source) if ids.dtype == object else ids
    elif labels is not None and class_names is not None:
        ids = class_ids(first_row, labels, class_names)
    else:
        shown = _texts(batch["shown"], source) if "shown" in batch else inputs
        ids = made_ids(first_row, shown)
    keys = _texts(batch["key"], source)
    relevant = None
    if "relevant" in batch:
        relevant = [tuple(_texts(np.atleast_1d(one), source)) for one in batch["relevant"]]
    return Rows(inputs, ids, labels, keys, relevant)


def _texts(values, source):
    try:
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])
    except UnicodeDecodeError as error:
        raise ValueError(
            f"A text must be UTF-8. One of {source.name!r} {source.split!r} is not ({error})."
        ) from error


def _check_features(builder, source):
    features = builder.info.features
    for option, names in (
        ("ids", [source.ids]),
        ("texts", source.texts),
        ("relevant", [source.relevant]),
    ):
        for name in filter(None, names):
            if name not in features:
                raise ValueError(
                    f"`{option}` must be a feature of {builder.info.name!r}, which has "
                    f"{sorted(features)}. Received {name!r}."
                )


def _array_rows(source, paths, width, batch_size):
    """(read, whether the rows are embeddings) of a folder's .npy files."""
    found = {
        os.path.basename(path)[:-4]: np.load(path, mmap_mode="r", allow_pickle=False)
        for path in paths
    }
    embedded = "embeddings" in found
    inputs = found.get("embeddings", found.get("inputs"))
    if inputs is None:
        raise ValueError(
            f"{source.name} must hold embeddings.npy, inputs.npy or *.parquet. It has "
            f"{sorted(os.listdir(source.name))[:5] if os.path.isdir(source.name) else 'no files'}."
        )
    ids, labels = found.get("ids", np.arange(len(inputs))), found.get("labels")
    for name, part in (("ids", ids), ("labels", labels)):
        if part is not None and len(part) != len(inputs):
            raise ValueError(
                f"{source.name} must have one of `{name}` for each of the {len(inputs)} rows. "
                f"It has {len(part)}."
            )
    if embedded:
        _check_width(source, inputs.shape, width)
    stop = min(source.most or len(inputs), len(inputs))

    def read(start):
        for low in range(start, stop, batch_size):
            part = slice(low, min(low + batch_size, stop))
            chunk = np.asarray(ids[part])
            of = None if labels is None else np.asarray(labels[part])
            yield Rows(np.asarray(inputs[part]), chunk, of, chunk.astype(str))

    return read, embedded


def _parquet_rows(source, paths, width, batch_size):
    """(read, whether the rows are embeddings) of tables."""
    try:
        from pyarrow import dataset
    except ImportError as error:
        raise ImportError("Reading Parquet needs pyarrow: pip install pyarrow") from error
    table = dataset.dataset(paths, format="parquet")
    there, embedded = table.schema.names, "embedding" in table.schema.names
    wanted = ["embedding"] if embedded else list(source.texts or ["text"])
    wanted += [name for name in (source.ids, source.relevant) if name]
    if not set(wanted) <= set(there):
        raise ValueError(
            f"The tables in {source.name} must have the columns {wanted}, or 'embedding' for rows "
            f"that are embedded. They have {there}."
        )
    ids, texts = source.ids or "id", source.texts or ["text"]
    columns = [*dict.fromkeys([*wanted, *(name for name in (ids, "label") if name in there)])]

    def read(start):
        first = 0
        for batch in table.to_batches(columns=columns, batch_size=batch_size):
            low = max(start - first, 0)
            high = min(batch.num_rows, (source.most or table.count_rows()) - first)
            if low < high:
                yield rows_of(batch.slice(low, high - low), first + low)
            first += batch.num_rows

    def rows_of(batch, row):
        for name in columns:
            if name != source.relevant and batch.column(name).null_count:
                raise ValueError(
                    f"The column {name!r} of {source.name} must have a value in every row. One of "
                    f"the rows {row} to {row + batch.num_rows - 1} has none."
                )
        values = {name: batch.column(name).to_pylist() for name in columns if name != "embedding"}
        if embedded:
            lists = batch.column("embedding")
            flat, count = np.asarray(lists.flatten()), batch.num_rows
            widths = set(lists.value_lengths().to_pylist())
            _check_width(source, (count, *widths), width)
            inputs = flat.reshape(count, width)
        else:
            inputs = np.array([" ".join(row) for row in zip(*map(values.get, texts), strict=True)])
        found = values.get(ids, range(row, row + batch.num_rows))
        labels = values.get("label")
        relevant = None
        if source.relevant:
            relevant = [tuple(map(str, one or ())) for one in values[source.relevant]]
        return Rows(
            inputs,
            np.array(found),
            None if labels is None else np.array(labels),
            np.array(found).astype(str),
            relevant,
        )

    return read, embedded


def _check_width(source, shape, width):
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(
            f"The embeddings in {source.name} must be (rows, {width}), the width of this run's "
            f"encoder. They are {tuple(shape)}: made by another encoder, or cut."
        )
