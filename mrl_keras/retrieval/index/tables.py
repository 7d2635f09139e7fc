"""Tables of a common number of rows that grow chunk by chunk, in memory or in files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class GrowingTables:
    """Tables in memory: allocated at once where the total is known.

    Otherwise each chunk makes them longer in place. The allocator moves large tables by
    remapping pages, so that there are never two copies, as `np.concatenate` would make.

    Args:
        like: arrays (0, columns), one for each table.
        total: int, the number of rows, or `None`.
    """

    def __init__(self, like: Sequence[np.ndarray], total: int | None):
        self._tables = [np.empty((total or 0, one.shape[1]), one.dtype) for one in like]
        self._known = total is not None
        self.rows = 0

    def append(self, parts: Sequence[np.ndarray]) -> None:
        """Adds rows, an array (rows, columns) for each table."""
        stop = self.rows + len(parts[0])
        for table, part in zip(self._tables, parts, strict=True):
            if not self._known:
                table.resize((stop, table.shape[1]), refcheck=False)
            table[self.rows : stop] = part
        self.rows = stop

    def finish(self) -> list[np.ndarray]:
        """The tables."""
        return self._tables


class TableFiles:
    """The same in .npy files, one after another, of which nothing stays in memory.

    Args:
        like: arrays (0, columns), one for each table.
        paths: local paths of new files.
    """

    def __init__(self, like: Sequence[np.ndarray], paths: Sequence[str]):
        self._like, self._paths = like, paths
        self.rows = 0
        self._write_headers("wb")

    def append(self, parts: Sequence[np.ndarray]) -> None:
        """Adds rows, an array (rows, columns) for each table."""
        for path, part in zip(self._paths, parts, strict=True):
            with open(path, "ab") as file:
                file.write(np.ascontiguousarray(as_written(part)).data)
        self.rows += len(parts[0])

    def finish(self) -> list[np.ndarray]:
        """The tables as memory maps, which outlive a renaming of their folder."""
        self._write_headers("r+b")
        return [
            np.load(path, mmap_mode="r", allow_pickle=False).view(one.dtype)
            for path, one in zip(self._paths, self._like, strict=True)
        ]

    def _write_headers(self, mode):
        for path, one in zip(self._paths, self._like, strict=True):
            header = {
                "descr": np.lib.format.dtype_to_descr(as_written(one).dtype),
                "fortran_order": False,
                "shape": (self.rows, one.shape[1]),
            }
            # NumPy leaves room for the number of rows to grow, so the length stays the same.
            with open(path, mode) as file:
                np.lib.format.write_array_header_1_0(file, header)


def as_written(table: np.ndarray) -> np.ndarray:
    """The table as a .npy file holds it: NumPy's format has no bfloat16, but its bits as uint16."""
    return table.view(np.uint16) if table.dtype.name == "bfloat16" else table
