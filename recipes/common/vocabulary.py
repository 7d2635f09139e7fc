"""The vocabulary of a run: learned from its training text once, kept beside the checkpoints."""

from __future__ import annotations

import os

from mrl_keras.data import read_vocabulary, write_vocabulary

FILE_NAME = "vocabulary.txt"


def run_vocabulary(workdir, learn):
    """The vocabulary of a work directory, learned and written where there is none yet.

    A run that is started again, evaluated or exported reads what training has learned.

    Args:
        workdir: folder of the run, or None to keep nothing.
        learn: function without arguments that gives the pieces, from the training texts; it is
            called where they are needed only.

    Returns:
        List of pieces.

    Raises:
        ValueError: what `learn` and `read_vocabulary` raise.
    """
    path = None if workdir is None else os.path.join(workdir, FILE_NAME)
    if path is not None and os.path.exists(path):
        return read_vocabulary(path)
    vocabulary = learn()
    if path is not None:
        write_vocabulary(path, vocabulary)
    return vocabulary
