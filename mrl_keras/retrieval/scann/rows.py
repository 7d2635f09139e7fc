"""The form of rows and queries that ScaNN is given.

Without a `reorder_dim` it is the L2-normalised D_s prefix. With `reorder_dim` = R ScaNN keeps int8
values of a second prefix and reorders its candidates by them. Both prefixes then stand side by
side, each L2-normalised by itself, and ScaNN uses the first one for its tree and codes:

    row   = [x[:D_s] / |x[:D_s]|,    x[:R] / |x[:R]|]
    query = [w q[:D_s] / |q[:D_s]|,  q[:R] / |q[:R]|].

A weight w > 0 keeps the order among the codes; at w = 2^-10 the second prefix alone decides the
reordering.
"""

from __future__ import annotations

import numpy as np

from mrl_keras.retrieval.arrays import inverse_norms, squared_norms

SHORTLIST_WEIGHT = 2.0**-10
"""The w of the module's docstring."""


def check_width(width: int, dim: int, reorder_dim: int | None) -> None:
    """Raises unless rows of this width hold D_s, or a `reorder_dim` above it."""
    if width != (reorder_dim or dim) or (reorder_dim is not None and reorder_dim <= dim):
        raise ValueError(
            "`prefix_rows` must be as wide as D_s, or as wide as a `reorder_dim` above D_s. "
            f"Received the width {width}, D_s {dim} and reorder_dim={reorder_dim}."
        )


def searcher_rows(rows, dim: int, reorder_dim: int | None, normalize: bool) -> np.ndarray:
    """float32 (rows, D_s) or (rows, D_s + R), a copy; `normalize` as for a shortlist's build."""
    parts = [rows[:, :dim], *([rows] if reorder_dim else [])]
    if normalize:
        parts = [part * inverse_norms(squared_norms(part))[:, None] for part in parts]
    return np.concatenate(parts, axis=1)


def searcher_queries(queries, dim: int, reorder_dim: int | None) -> np.ndarray:
    """float32 (queries, D_s) or (queries, D_s + R) of finite queries."""
    asked = searcher_rows(queries, dim, reorder_dim, normalize=True)
    if reorder_dim:
        asked[:, :dim] *= np.float32(SHORTLIST_WEIGHT)
    return asked
