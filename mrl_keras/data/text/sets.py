"""TFDS's sets with text by name, read into memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_keras.data.tfds_sets import first_examples, tfds_set


def text_set(name, texts: Sequence[str] = ("text",), others: Sequence[str] = (), data_dir=None):
    """The TFDS builder of a prepared set with text.

    A set that is not there is downloaded and prepared, as TFDS does.

    Args:
        name: str, of TFDS, with version or config if wanted: "wikipedia/20230601.en".
        texts: names of features that must be there and be a text. Default ("text",).
        others: names of other features that must be there, such as ("score",). Default ().
        data_dir: folder of TFDS. Default None, the environment's TFDS_DATA_DIR or TFDS's own
            default.

    Returns:
        `tfds.core.DatasetBuilder`, prepared.

    Raises:
        ValueError: an unknown name, a set without these features, or one that is missing and
            can't be prepared.
        ImportError: tensorflow-datasets is missing.
    """
    texts, others = tuple(texts), tuple(others)

    def check(builder):
        features = dict(builder.info.features.items())
        missing = [feature for feature in (*texts, *others) if feature not in features]
        found = [
            f for f in features if features[f].shape == () and "str" in str(features[f].tf_dtype)
        ]
        wrong = [feature for feature in texts if feature in features and feature not in found]
        if missing or wrong:
            raise ValueError(
                f"The TFDS set {name!r} must have the features {[*texts, *others]}"
                f"{', and as texts ' + str(list(texts)) if wrong else ''}. It has "
                f"{sorted(features)}, and of these {sorted(found)} are texts."
            )

    known = "the name of a TFDS set with text, such as 'wikipedia/20230601.en' or 'lm1b'"
    return tfds_set(name, data_dir, "text set", check, known)


def read_columns(builder, split, columns, max_examples=None) -> dict[str, np.ndarray]:
    """Some features of a whole split, in memory, in the order of the files.

    Args:
        builder: the prepared set, see `text_set`.
        split: str.
        columns: names of features without axes of their own, texts or numbers.
        max_examples: at most so many examples. Default None, all.

    Returns:
        A dict from the names to arrays (examples,); texts are an object array of str.

    Raises:
        ValueError: no such split, an empty one, or a text that is not UTF-8.
    """
    wanted = first_examples(builder, split, max_examples)
    columns = tuple(columns)
    dataset = builder.as_dataset(split=wanted, shuffle_files=False)
    batches = dataset.map(lambda example: {c: example[c] for c in columns}).batch(1024)
    parts = list(batches.prefetch(2).as_numpy_iterator())
    found = {column: np.concatenate([part[column] for part in parts]) for column in columns}
    where = f"the split {split!r} of {builder.info.name!r}"
    return {c: _decoded(v, c, where) if v.dtype == object else v for c, v in found.items()}


def _decoded(values, column, where):
    texts = np.empty(len(values), object)
    for row, value in enumerate(values):
        try:
            texts[row] = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"A text must be UTF-8. {column!r} of example {row} of {where} is not ({error})."
            ) from error
    return texts
