"""The WordPiece vocabulary of a run: learned from its training texts once, kept in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mrl_keras.data import Wordpiece, learn_vocabulary, read_vocabulary, write_vocabulary
from mrl_keras.files import exists, join
from mrl_keras.models import BertTokens

FILE_NAME = "vocabulary.txt"


class RunVocabulary:
    """The pieces of a run, and its tokens for a data pipeline and in a graph.

    A run that is started again, evaluated or exported reads what its first start learned.

    Args:
        workdir: folder of the run, or None to keep nothing.
        options: a config's `vocabulary`: `size`, `lower_case` and perhaps `least_count`.
        length: int, tokens of a text.
        texts: function without arguments that gives the training texts; called where the
            vocabulary is not there yet.
        kept: special pieces that stand in the texts literally. Default none.

    Attributes:
        pieces: list of str.
        wordpiece: `Wordpiece`, texts -> tokens, for `tf.data`.

    Raises:
        ValueError: what `learn_vocabulary` and `read_vocabulary` refuse.
    """

    def __init__(self, workdir, options, length: int, texts: Callable, kept: Sequence[str] = ()):
        self._options, self._length, self._kept = options, length, tuple(kept)
        path = None if workdir is None else join(workdir, FILE_NAME)
        if path is not None and exists(path):
            self.pieces = read_vocabulary(path)
        else:
            least = {key: options[key] for key in ("least_count",) if key in options}
            self.pieces = learn_vocabulary(
                texts(), options.size, options.lower_case, kept=kept, **least
            )
            if path is not None:
                write_vocabulary(path, self.pieces)
        self.wordpiece = Wordpiece(self.pieces, length, options.lower_case, kept=kept)

    def __len__(self) -> int:
        return len(self.pieces)

    def layer(self, *kept: str) -> BertTokens:
        """The same tokens as a Keras layer, strings -> tokens; `kept` stand literally too."""
        kept = (*kept, *self._kept)
        return BertTokens(self.pieces, self._length, self._options.lower_case, kept=kept)
