"""The WordPiece vocabulary of a run: learned from its training texts once, kept in its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from mrl_keras.data import Wordpiece, learn_vocabulary, read_vocabulary, write_vocabulary
from mrl_keras.files import exists, join
from mrl_keras.models import BertTokens
from recipes.common.finetuning import sources

FILE_NAME = "vocabulary.txt"
NAMES_THERE = FILE_NAME, "assets/tokenizer/vocabulary.txt", "vocab.txt"
"""Where a run, a preset of KerasHub, and the folder of Model Garden's checkpoints have it."""


class RunVocabulary:
    """The pieces of a run, and its tokens for a data pipeline and in a graph.

    A run that is started again, evaluated or exported reads what its first start learned.

    Args:
        workdir: folder of the run, or None to keep nothing.
        config: a run's, with `vocabulary`: `size`, `lower_case` and perhaps `least_count`. Where
            `init_from` has a vocabulary beside its weights, that one is taken.
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

    def __init__(self, workdir, config, length: int, texts: Callable, kept: Sequence[str] = ()):
        options = config.vocabulary
        self._options, self._length, self._kept = options, length, tuple(kept)
        path = None if workdir is None else join(workdir, FILE_NAME)
        if path is not None and exists(path):
            self.pieces = read_vocabulary(path)
        else:
            self.pieces = self._pretrained(config)
            if self.pieces is None:
                self.pieces = self._learned(texts())
            if path is not None:
                write_vocabulary(path, self.pieces)
        self.wordpiece = Wordpiece(self.pieces, length, options.lower_case, kept=kept)

    def _learned(self, texts):
        options = self._options
        least = {key: options[key] for key in ("least_count",) if key in options}
        return learn_vocabulary(texts, options.size, options.lower_case, kept=self._kept, **least)

    def _pretrained(self, config):
        """The pieces beside the first weights of `init_from` that have some, else None."""
        for source in sources(config):
            beside = join(os.path.dirname(source), NAMES_THERE[-1])
            for path in (*(join(source, name) for name in NAMES_THERE), beside):
                if exists(path):
                    print(f"Takes the vocabulary {path}", flush=True)
                    return read_vocabulary(path)
        return None

    def __len__(self) -> int:
        return len(self.pieces)

    def layer(self, *kept: str) -> BertTokens:
        """The same tokens as a Keras layer, strings -> tokens; `kept` stand literally too."""
        kept = (*kept, *self._kept)
        return BertTokens(self.pieces, self._length, self._options.lower_case, kept=kept)
