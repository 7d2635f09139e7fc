"""WordPiece: learning a vocabulary from text, keeping it in a file, and tokens for BERT.

The learner and the tokenizer are tensorflow-text's. Its ops are custom ops: a process that loads
a SavedModel with this tokenizer inside must import tensorflow_text first.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.files import as_path, atomic_file, exists, open_file

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The pieces that every vocabulary has; `learn_vocabulary` puts them first, as the ids 0 to 4."""


class SpecialIds(NamedTuple):
    """The ids of the special pieces; as defaults those of a vocabulary that begins with them."""

    pad: int = 0
    unk: int = 1
    cls: int = 2
    sep: int = 3
    mask: int = 4

    @classmethod
    def of(cls, vocabulary) -> SpecialIds:
        """Where `vocabulary` has the special pieces."""
        pieces = list(vocabulary)
        return cls(*(pieces.index(piece) for piece in SPECIAL_PIECES))


_SUFFIX = "##"


def learn_vocabulary(
    texts: Iterable,
    size: int,
    lower_case: bool = True,
    least_count: int = 10,
    max_characters: int = 1000,
    kept: Sequence[str] = (),
) -> list[str]:
    """The WordPiece vocabulary of a text: the same for the same text.

    Args:
        texts: strings, or a `tf.data.Dataset` of strings () or (batch,).
        size: int, the most pieces. Fewer come where the text has no more that are frequent
            enough; tensorflow-text's search is content within 5 percent.
        lower_case: bool, lower the case and strip accents first, as `Wordpiece` must then do
            too. Default True.
        least_count: int, pieces that occur less often are left out, single characters excepted.
            Default 10.
        max_characters: int, the most frequent so many characters are known; words with others
            are not learned from. Default 1000.
        kept: special pieces that stand in the text literally, such as "[UNK]": nothing is
            learned from them. Default ().

    Returns:
        Pieces, `SPECIAL_PIECES` first; a piece inside a word begins with "##".

    Raises:
        ValueError: no words, a text that is no string, or a size below what the characters alone
            need.
        ImportError: tensorflow-text is not installed.

    Example:

    >>> from mrl_keras.data.text.wordpiece import learn_vocabulary
    >>> vocabulary = learn_vocabulary(["low lower lowest"] * 20, size=40)
    >>> vocabulary[:6], "lower" in vocabulary
    (['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'e'], True)

    Source: arXiv 1810.04805, Section 3; the learner is tensorflow-text's.
    """
    size, least = whole_number(size, "`size`"), whole_number(least_count, "`least_count`")
    max_characters = whole_number(max_characters, "`max_characters`")
    import_tensorflow_text()
    from tensorflow_text.tools.wordpiece_vocab.bert_vocab_from_dataset import (
        bert_vocab_from_dataset,
    )

    wrong = []
    dataset, pattern = _string_batches(texts, wrong).map(_readable), _pattern(kept)
    if kept:
        dataset = dataset.map(lambda batch: tf.strings.regex_replace(batch, pattern, " "))
    learning = {"lower_thresh": least, "max_unique_chars": max_characters, "joiner": _SUFFIX}
    try:
        pieces = bert_vocab_from_dataset(
            dataset, size, list(SPECIAL_PIECES), {"lower_case": lower_case}, learning
        )
    except tf.errors.OpError:
        if wrong:  # what the generator of the texts met
            raise ValueError(*wrong) from None
        raise
    except StopIteration as error:  # of the learner, where there is nothing to learn from
        raise ValueError("`texts` must hold at least one word. Received none.") from error
    return _cut(pieces, size)


def _readable(batch):
    """Texts that tensorflow-text's learner splits where its tokenizer does.

    The learner knows some of Unicode's separators only. What is no UTF-8 becomes a space.
    """
    batch = tf.strings.unicode_transcode(batch, "UTF-8", "UTF-8", replacement_char=ord(" "))
    return tf.strings.regex_replace(batch, r"\pZ", " ")


def _string_batches(texts, wrong):
    """A dataset of batches of strings; `wrong` gets what an element that is no string means."""
    if not isinstance(texts, tf.data.Dataset):
        if isinstance(texts, (str, bytes)):
            raise ValueError(
                f"`texts` must be several strings, such as a list. Received {texts!r}."
            )

        def encoded():
            for row, text in enumerate(texts):
                text = text.numpy() if tf.is_tensor(text) else text
                if isinstance(text, str):
                    text = text.encode("utf-8", "surrogatepass")
                if not isinstance(text, bytes):
                    wrong.append(
                        f"`texts` must be strings. Text {row} is {text!r} of type "
                        f"{type(text).__name__}: leave it out, or put a string in its place."
                    )
                    raise ValueError(*wrong)
                yield text

        return tf.data.Dataset.from_generator(
            encoded, output_signature=tf.TensorSpec((), tf.string)
        ).batch(1024)
    spec = texts.element_spec
    if getattr(spec, "dtype", None) != tf.string or spec.shape.rank not in (0, 1):
        raise ValueError(
            "A dataset of texts must have strings () or (batch,) as elements. Received elements "
            f"{spec}; `dataset.map` picks the text of an example."
        )
    return texts if spec.shape.rank else texts.batch(1024)


def _cut(pieces, size):
    """At most `size` pieces; the rarest go, but no single character, which spells unknown words."""
    spelling = {p for p in pieces if p in SPECIAL_PIECES or len(p.removeprefix(_SUFFIX)) == 1}
    if len(spelling) > size:
        raise ValueError(
            f"`size` must be at least {len(spelling)}: the text's characters need so many pieces, "
            f"with the special ones. Received {size}; a smaller `max_characters` needs fewer."
        )
    room = size - len(spelling)
    whole = set([p for p in pieces if p not in spelling][:room])
    return [p for p in pieces if p in spelling or p in whole]


class Wordpiece:
    """Texts as BERT's inputs: "[CLS]", the text's pieces, "[SEP]", and "[PAD]" to a fixed length.

    Works inside `tf.data` and in graphs; all shapes but the batch are static. Text that does not
    fit is cut off. `mrl_keras.models.BertTokens` is the same as a Keras layer.

    Args:
        vocabulary: pieces, `SPECIAL_PIECES` anywhere among them, such as `learn_vocabulary` gives
            or a published BERT has.
        length: int, tokens of each text with "[CLS]" and "[SEP]", at least 3.
        lower_case: bool, lower the case and strip accents. Default True.
        kept: special pieces that are read as such where they stand in a text literally, such as
            ("[MASK]",). Default (), where "[MASK]" is brackets and a word.

    Call arguments:
        texts: strings (batch,).

    Returns:
        A dict of "input_word_ids", "input_mask" (1 for tokens, 0 for padding) and
        "input_type_ids" (0), each int32 (batch, length).

    Raises:
        ValueError: a vocabulary without the special pieces or with a piece twice, or an argument
            out of range.
        ImportError: tensorflow-text is not installed.

    Example:

    >>> from mrl_keras.data.text.wordpiece import SPECIAL_PIECES, Wordpiece
    >>> tokens = Wordpiece([*SPECIAL_PIECES, "low", "##er", "."], length=7)
    >>> tokens(["Low lower.", ""])["input_word_ids"].numpy().tolist()
    [[2, 5, 5, 6, 7, 3, 0], [2, 3, 0, 0, 0, 0, 0]]
    """

    def __init__(self, vocabulary, length, lower_case=True, kept=()):
        self.vocabulary = checked_vocabulary(vocabulary)
        self.special_ids = SpecialIds.of(self.vocabulary)
        self.length = whole_number(length, "`length`", least=3)
        self.lower_case = bool(lower_case)
        self.kept = (kept,) if isinstance(kept, str) else tuple(kept)
        unknown = sorted(set(self.kept) - set(SPECIAL_PIECES[1:]))
        if unknown:
            raise ValueError(f"`kept` must be some of {SPECIAL_PIECES[1:]}. Received {unknown}.")
        self._text = import_tensorflow_text()
        self._tokenizer = self._text.FastBertTokenizer(
            list(self.vocabulary),
            suffix_indicator=_SUFFIX,
            token_out_type=tf.int32,
            unknown_token="[UNK]",
            lower_case_nfd_strip_accents=self.lower_case,
        )

    def pieces(self, texts):
        """The ids of each text's pieces, without "[CLS]" and "[SEP]", not cut.

        Args:
            texts: strings (batch,).

        Returns:
            int32 `tf.RaggedTensor` (batch, pieces).
        """
        texts = tf.convert_to_tensor(texts, tf.string)
        if not self.kept:
            return self._tokenizer.tokenize(texts)
        pattern = _pattern(self.kept)
        parts = self._text.regex_split(texts, pattern, keep_delim_regex_pattern=pattern)
        flat = parts.flat_values
        ids_of = {p: self.special_ids[SPECIAL_PIECES.index(p)] for p in self.kept}
        kind = sum(number * tf.cast(flat == piece, tf.int32) for piece, number in ids_of.items())
        special = tf.reduce_any([flat == piece for piece in self.kept], axis=0)
        plain = self._tokenizer.tokenize(tf.where(special, "", flat))
        ids = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(kind, special), tf.cast(special, tf.int64)
        )
        return parts.with_flat_values(tf.concat([plain, ids], axis=1)).merge_dims(1, 2)

    def __call__(self, texts):
        return self.framed(self.pieces(texts))

    def framed(self, pieces):
        """BERT's inputs of ragged ids (batch, pieces): cut, framed and padded; see the class."""
        pieces = pieces[:, : self.length - 2]
        ends = tf.ones((pieces.nrows(), 1), tf.int32)
        special = self.special_ids
        ids = tf.concat([ends * special.cls, pieces, ends * special.sep], axis=1)
        words = ids.to_tensor(special.pad, shape=(None, self.length))
        mask = tf.sequence_mask(ids.row_lengths(), self.length, tf.int32)
        return {
            "input_word_ids": words,
            "input_mask": tf.ensure_shape(mask, (None, self.length)),
            "input_type_ids": tf.zeros_like(words),
        }


def _pattern(kept):
    return "|".join(f"\\[{piece.strip('[]')}\\]" for piece in kept)


def checked_vocabulary(vocabulary) -> tuple[str, ...]:
    """`vocabulary` as a tuple of str.

    Raises:
        ValueError: a special piece is missing, or a piece is there twice or empty.
    """
    pieces = tuple(vocabulary)
    others = [piece for piece in pieces if not isinstance(piece, str)]
    if others:
        raise ValueError(f"The pieces of a vocabulary must be strings. Received {others[:5]}.")
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        raise ValueError(
            f"A vocabulary must have {', '.join(SPECIAL_PIECES)}. Received one without "
            f"{', '.join(missing)}; `learn_vocabulary` makes one."
        )
    twice = [p for p, count in collections.Counter(pieces).items() if count > 1]
    if twice or "" in pieces:
        raise ValueError(
            "The pieces of a vocabulary must differ, and none be empty. Received "
            f"{twice[:5] or 'an empty piece'}{' more than once' * bool(twice)}."
        )
    return pieces


def write_vocabulary(path, vocabulary) -> None:
    """Writes one piece a line, as UTF-8; the line's number is the id. The file appears whole.

    Only "\\n" ends a line, so that pieces may hold any other character.

    Args:
        path: of the file.
        vocabulary: pieces, with `SPECIAL_PIECES` among them.

    Raises:
        ValueError: no vocabulary, a piece with "\\n", or one that UTF-8 can't hold.
    """
    path = as_path(path, "The vocabulary's path")
    pieces = checked_vocabulary(vocabulary)
    broken = [piece for piece in pieces if "\n" in piece]
    if broken:
        raise ValueError(f"A piece must be one line. Received {broken[:5]}.")
    try:
        content = "".join(f"{piece}\n" for piece in pieces).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Pieces must be texts that UTF-8 can hold. {error}.") from error
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def read_vocabulary(path) -> list[str]:
    """The pieces of a file that `write_vocabulary` wrote.

    Args:
        path: of the file.

    Raises:
        ValueError: no file, one that is not UTF-8, or no vocabulary in it.
    """
    path = as_path(path, "The vocabulary's path")
    if not exists(path):
        raise ValueError(
            f"There is no vocabulary {path}. `learn_vocabulary` and `write_vocabulary` make it."
        )
    with open_file(path, "rb") as file:
        try:
            pieces = file.read().decode().removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"The vocabulary {path} must be UTF-8. It is not ({error}): save it as UTF-8, or "
                "learn it again."
            ) from error
    return list(checked_vocabulary(pieces))


def import_tensorflow_text():
    """The module tensorflow_text, whose import registers its ops."""
    try:
        import tensorflow_text
    except ImportError as error:
        raise ImportError(
            "Text models need tensorflow-text: pip install mrl_keras[models]"
        ) from error
    return tensorflow_text
