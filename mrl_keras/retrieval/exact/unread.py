"""How high a row may score by all dims of which only a low score by a prefix is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrl_keras.retrieval.arrays import squared_norms

SLACK = 2e-6
"""Rounding of a float32 score, in units of |q| |x|: a bound this far below may still be reached."""
SQUARE_SLACK = 1e-6
"""Rounding of a tail's squared norm, in units of |x|^2."""


class UnreadBound(NamedTuple):
    """The highest score of unread rows, which score at most s by the prefix of `dim` dims.

    With a = |q[:m]| / |q| and r = |x[:m]| / |x|, a cosine of at most s by the prefix is one of at
    most

        s a r + sqrt((1 - a^2) (1 - r^2))

    by all dims, whose highest value over all r lies at r = s a / sqrt(s^2 a^2 + 1 - a^2). An inner
    product of at most s is one of at most s + |q[m:]| |x[m:]|.

    Attributes:
        dim: int, m.
        cosine: bool, the metric; else the inner product.
        least, most: floats, the range of r over all rows.
        tail: float, the largest |x[m:]|.
        norm: float, the largest |x|; 1 for cosine, whose scores are divided by it.
    """

    dim: int
    cosine: bool
    least: float
    most: float
    tail: float
    norm: float

    @classmethod
    def of_rows(cls, dim, cosine, tails, norms):
        """The bound for rows whose tails have at most the norms `tails`, up to `SQUARE_SLACK`.

        Args:
            dim, cosine: as the attributes.
            tails, norms: float32 (rows,), norms of what the prefix leaves out, and of whole rows.
        """
        if not cosine:
            return cls(int(dim), False, 0.0, 1.0, float(tails.max()), float(norms.max()))
        squares = np.divide(tails, norms, out=np.zeros_like(tails), where=norms > 0) ** 2
        least, most = 1.0 - squares.max(), 1.0 - squares.min() + 2 * SQUARE_SLACK
        least, most = (float(np.sqrt(np.clip(one, 0.0, 1.0))) for one in (least, most))
        return cls(int(dim), True, least, most, 1.0, 1.0)

    def highest(self, queries: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The bounds of some queries, float32 (queries,), rounding included.

        Args:
            queries: float32 (queries, width), finite.
            scores: float32 (queries,), s: the score by the prefix, divided by the norm of a row's
                prefix and not by the query's where the metric is cosine.

        Returns:
            Of scores that are divided by the norm of a row and not by the query's.
        """
        tails = np.sqrt(squared_norms(queries[:, self.dim :]))
        rounding = np.float32(SLACK * self.norm) * np.sqrt(squared_norms(queries))
        if not self.cosine:
            return scores + tails * self.tail + rounding
        length = np.hypot(scores, tails)
        share = np.divide(scores, length, out=np.zeros_like(scores), where=length > 0)
        share = np.clip(share, self.least, self.most)
        return scores * share + tails * np.sqrt(1.0 - share**2) + rounding
