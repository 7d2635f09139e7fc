"""The form of rows and queries that ScaNN is given.

Without a `reorder_dim` it is the L2-normalised D_s prefix. With `reorder_dim` = R ScaNN keeps int8
values of a second prefix and reorders its candidates by them. Both prefixes then stand side by
side, each L2-normalised by itself, and ScaNN uses the first one for its tree and codes:

    row   = [x[:D_s] / |x[:D_s]|,  x[:R] / |x[:R]|]
    query = [q[:D_s],              w q[:R]] / |q|.

Neither the query's length |q| nor a weight w > 0 changes the order among the codes. At w = 2^10
the second prefix alone decides the reordering. |q| is the norm at any prefix that is read: ScaNN's
codes lose queries that are much shorter than 1 (of length 1e-4 they find 94 % of the rows, of 1e-5
64 %).
"""

from __future__ import annotations

import numpy as np

from mrl_keras.retrieval.arrays import inverse_norms, squared_norms

REORDER_WEIGHT = 2.0**10
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
    """float32 (queries, D_s) or (queries, D_s + R) of finite queries as wide as what is read."""
    unit = queries * inverse_norms(squared_norms(queries))[:, None]
    if not reorder_dim:
        return unit
    return np.concatenate([unit[:, :dim], np.float32(REORDER_WEIGHT) * unit], axis=1)
