"""The parameters of a partition: the prefix that clusters, its leaves, and second leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from mrl_keras.checks import whole_number


@dataclass(frozen=True)
class PartitionParameters:
    """How the rows of an index are put into leaves, and how many of these a query opens.

    Args:
        dim: the prefix D_c that clusters the rows, a nesting dim of the index; below, at or above
            the D_s (`IndexOptions.shortlist_dim`) by which the rows of opened leaves are scored.
        num_leaves: int, leaves, as many as `centres` where those are given.
        leaves_to_search: int, leaves opened for a query unless a plan says otherwise.
        spill: the weight lambda >= 0 of a second leaf for each row, see `second_leaves`, or `None`
            for one leaf. It costs twice the rows in a leaf. Defaults to `None`.
        centres: optional array (num_leaves, D_c), finite: the leaves' centres, such as those of a
            trained codebook, in place of k-means. Leaves that no row is nearest to are left out.
        training_sample_size: int, rows that train the k-means, at least `num_leaves`. Defaults to
            100,000.
        training_iterations: int, iterations of the k-means. Defaults to 12.

    Raises:
        ValueError: a number out of range, more leaves to search than there are, or centres of
            another shape or with NaN or inf.

    >>> PartitionParameters(dim=8, num_leaves=500, leaves_to_search=25, spill=1.0).spill
    1.0
    """

    dim: int
    num_leaves: int
    leaves_to_search: int
    spill: float | None = None
    centres: np.ndarray | None = field(default=None, repr=False, compare=False)
    training_sample_size: int = 100_000
    training_iterations: int = 12

    def __post_init__(self):
        for name in ("dim", "num_leaves", "leaves_to_search", "training_iterations"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"`{name}`"))
        size = whole_number(self.training_sample_size, "`training_sample_size`", self.num_leaves)
        object.__setattr__(self, "training_sample_size", size)
        if self.leaves_to_search > self.num_leaves:
            raise ValueError(
                f"`leaves_to_search` must not exceed num_leaves={self.num_leaves}. "
                f"Received {self.leaves_to_search}."
            )
        # A bool is a number in Python, and `spill=True` would be taken for a weight of 1.
        if self.spill is not None and (isinstance(self.spill, bool) or not 0 <= self.spill < 1e6):
            raise ValueError(
                "`spill` must be None or the weight of SOAR's rule, at least 0 and below 1e6. "
                f"Received {self.spill!r}; 1.0 is a common choice."
            )
        if self.centres is not None:
            object.__setattr__(self, "centres", self._checked_centres())

    def _checked_centres(self):
        centres = np.array(self.centres, np.float32)
        if centres.shape != (self.num_leaves, self.dim):
            raise ValueError(
                f"`centres` must have the shape (num_leaves, dim), {(self.num_leaves, self.dim)}. "
                f"Received {centres.shape}."
            )
        bad = np.flatnonzero(~np.isfinite(centres).all(axis=1))
        if bad.size:
            raise ValueError(
                f"`centres` must be finite. Received NaN or inf in the leaves {bad[:20].tolist()}; "
                "leave those out, or repair what made them."
            )
        return centres

    def to_dict(self) -> dict:
        """The kind and the arguments but `centres`, as JSON holds them."""
        arguments = {name: one for name, one in asdict(self).items() if name != "centres"}
        return {"kind": "partition", "partition": arguments}

    @classmethod
    def from_dict(cls, saved: dict) -> PartitionParameters:
        """Reads what `to_dict` gave."""
        return cls(**saved["partition"])

    @classmethod
    def of_codebook(cls, codebook) -> PartitionParameters:
        """The learned leaves of a `PrefixCodebook`, of which a query opens 5 %, at least 2.

        Args:
            codebook: has `dim` and `leaf_centres()`, whose errors are passed on.
        """
        centres = codebook.leaf_centres()
        opened = min(len(centres), max(2, round(0.05 * len(centres))))
        return cls(codebook.dim, len(centres), opened, centres=centres)
