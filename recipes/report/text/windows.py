"""Many short texts of some long ones: windows of words, without exact duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipes.report.text.encoders import TextEncoder
from recipes.report.text.judged import embedded
from recipes.report.text.vectors import Vectors

WORDS, HELD_OUT, MOST_QUERIES = (12, 24), 10, 1024


def text_windows(texts: Sequence[str], words: Sequence[int] = WORDS) -> list[str]:
    """Windows of some numbers of words, each starts half a window after the one before.

    A text shorter than a window is one window.

    Args:
        texts: sequence of str.
        words: ints, the sizes. Default 12 and 24.

    Returns:
        Distinct windows, in order.

    >>> text_windows(["a b c d e", "a b"], words=[2])
    ['a b', 'b c', 'c d', 'd e']
    """
    found = {}
    for text in texts:
        split = text.split()
        for size in words:
            for start in range(0, max(len(split) - size, 0) + 1, max(size // 2, 1)):
                found[" ".join(split[start : start + size])] = None
    found.pop("", None)
    return list(found)


def window_vectors(encoder: TextEncoder, texts, rows: int, cache, name: str) -> Vectors:
    """A database of windows, and queries that are windows of other texts.

    One text of ten gives queries only: half of them to tune by, half to judge by. A window that
    both have is left out of the queries.

    Args:
        encoder: `TextEncoder`.
        texts: sequence of str.
        rows: int, at most so many windows, drawn by a fixed seed; 0 is all.
        cache: `ResultCache`.
        name: str, of the result.
    """
    kept = text_windows([text for i, text in enumerate(texts) if i % HELD_OUT])
    known = set(kept)
    other = [w for w in text_windows(texts[::HELD_OUT]) if w not in known]
    rng = np.random.default_rng(0)
    if rows and rows < len(kept):
        kept = [kept[i] for i in np.sort(rng.choice(len(kept), rows, replace=False))]
    order = rng.permutation(len(other))
    half = min(len(order) // 2, MOST_QUERIES)
    judge, held_out = ([other[i] for i in order[low : low + half]] for low in (0, half))
    arrays = [embedded(encoder, some, cache) for some in (kept, judge, held_out)]
    about = (
        f"{len(kept):,} windows of {WORDS[0]} or {WORDS[1]} words, each "
        f"starting half a window after the one before, of {len(texts):,} texts, exact duplicates "
        f"removed, drawn by a fixed seed where there are more; queries are {len(judge):,} windows "
        f"of every tenth text, which no row comes from; {encoder.name}"
    )
    return Vectors(name, *arrays, about)
