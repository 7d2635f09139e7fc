"""Rows stored as int8, each with a scale of its own."""

from __future__ import annotations

import numpy as np

LARGEST_CODE = 127


class QuantizedRows:
    """A table of rows as int8 codes times a scale for each row; half a step is lost at most.

        row = codes * scale,    scale = max |row| / 127

    It stands where a block of a `NestedIndex` is an array: rows are taken by `[...]` and by
    `np.take(block, indices, axis=0)`, and `mrl_keras.retrieval.arrays.as_float32` gives numbers.

    Args:
        codes: int8 (..., dims), in memory or memory-mapped.
        scales: float32 (..., 1).

    >>> rows = QuantizedRows.of(np.array([[127.0, -64.0], [0.0, 0.0]], "float32"))
    >>> rows.codes.tolist(), rows.scales[:, 0].tolist(), rows[:1].float32().tolist()
    ([[127, -64], [0, 0]], [1.0, 0.0], [[127.0, -64.0]])
    """

    dtype = np.dtype(np.int8)

    def __init__(self, codes: np.ndarray, scales: np.ndarray):
        self.codes, self.scales = codes, scales

    @classmethod
    def of(cls, rows: np.ndarray) -> QuantizedRows:
        """The nearest codes of float32 rows (rows, dims); a row with NaN or inf stays one."""
        largest = np.abs(rows).max(axis=1, keepdims=True)
        scales = (largest / np.float32(LARGEST_CODE)).astype(np.float32)
        usable = np.isfinite(scales) & (scales > 0)
        codes = np.divide(rows, scales, out=np.zeros(rows.shape, np.float32), where=usable)
        # The scale is rounded, so that the largest value may come out a little above 127.
        codes = np.clip(np.rint(codes), -LARGEST_CODE, LARGEST_CODE)
        return cls(codes.astype(np.int8), scales)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows) -> QuantizedRows:
        return QuantizedRows(self.codes[rows], self.scales[rows])

    def take(self, indices, axis=0, **options) -> QuantizedRows:
        """What `np.take(block, indices, axis=0)` calls."""
        parts = (np.take(part, indices, axis=axis, **options) for part in (self.codes, self.scales))
        return QuantizedRows(*parts)

    def float32(self) -> np.ndarray:
        """The rows as numbers, float32 (..., dims)."""
        rows = self.codes.astype(np.float32)
        with np.errstate(invalid="ignore"):  # a scale that is not finite makes the row NaN
            return np.multiply(rows, self.scales, out=rows)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.float32().astype(dtype or np.float32, copy=False)
