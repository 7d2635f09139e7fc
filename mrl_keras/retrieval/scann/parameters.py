"""The parameters of a ScaNN shortlist, and the rule that chooses them from N and D_s."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

from mrl_keras.checks import whole_number

EXACT_BELOW = 20_000
"""Below this number of rows the rule is brute force, which is exact and took 0.6 ms for a single
query, 0.1 ms for each of a batch (2 cores, D_s = 16, 200 rows); ScaNN took 0.07 ms and 0.03 ms."""

CODES = 16
"""Values of a 4-bit code; ScaNN needs as many rows to train its codes."""


@dataclass(frozen=True)
class ScannParameters:
    """How a ScaNN shortlist is built and searched.

    Args:
        num_leaves: int, leaves of the k-means tree.
        leaves_to_search: int, leaves opened for a query unless a plan says otherwise.
        dims_per_block: int, dims that one 4-bit code stands for. Defaults to 1.
        anisotropic_threshold: float in (0, 1), the T of ScaNN's score-aware quantisation loss,
            or `None` for the plain reconstruction loss. Defaults to 0.2.
        training_sample_size: int, rows that train the tree and the codes. Defaults to 100,000.
        training_iterations: int, k-means iterations of the tree. Defaults to 12.
        reorder_dim: int above D_s, a prefix of which ScaNN keeps an int8 copy, or `None`. Plans
            whose first rerank is at this dim, and not their last, leave that rerank to ScaNN: a
            call over all its candidates, where a rerank over blocks gathers and converts each
            row first. The copy takes D_s + `reorder_dim` bytes for each row.

    Raises:
        ValueError: a number out of range, or more leaves to search than there are.

    Three options of ScaNN are left out: its bfloat16 rows do not survive a SavedModel, its
    TensorFlow ops have no SOAR, and its truncation does not normalise the prefix.

    >>> ScannParameters(num_leaves=500, leaves_to_search=25).dims_per_block
    1
    """

    num_leaves: int
    leaves_to_search: int
    dims_per_block: int = 1
    anisotropic_threshold: float | None = 0.2
    training_sample_size: int = 100_000
    training_iterations: int = 12
    reorder_dim: int | None = None

    def __post_init__(self):
        for name in (
            "num_leaves",
            "leaves_to_search",
            "dims_per_block",
            "training_sample_size",
            "training_iterations",
        ):
            least = CODES if name == "training_sample_size" else 1
            number = whole_number(getattr(self, name), f"`{name}`", least)
            object.__setattr__(self, name, number)
        if self.leaves_to_search > self.num_leaves:
            raise ValueError(
                f"`leaves_to_search` must not exceed num_leaves={self.num_leaves}. "
                f"Received {self.leaves_to_search}."
            )
        threshold = self.anisotropic_threshold
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(
                "`anisotropic_threshold` must lie strictly between 0 and 1, or be None. "
                f"Received {threshold!r}."
            )
        if self.reorder_dim is not None:
            number = whole_number(self.reorder_dim, "`reorder_dim`", 2)
            object.__setattr__(self, "reorder_dim", number)

    def to_dict(self) -> dict:
        """The arguments, for a manifest; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, arguments: dict) -> ScannParameters:
        """Reads what `to_dict` gave. Names that are not arguments are left out.

        Earlier versions wrote three arguments more, which could hold one value only.
        """
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in arguments.items() if name in names})


def scann_parameters(n_rows: int, dim: int) -> ScannParameters:
    """The rule that chooses a shortlist's parameters from N and D_s.

    - leaves: 4 sqrt(N), at most N / 40 so that a leaf holds about 40 rows or more;
    - leaves to search: 5 %, at least 10 (all where there are fewer);
    - dims per block: 1 up to 64 dims, else 2. A short prefix is cheap to scan whatever its codes
      are: at D_s = 16 and N = 100,000, one dim for each code raised the recall of 200 rows from
      0.67 to 0.86 for a tenth more time;
    - training sample: 100,000 rows, or all.

    Args:
        n_rows: int, N.
        dim: int, D_s.

    Returns:
        `ScannParameters`.

    Raises:
        ValueError: a number below 1.

    >>> scann_parameters(1_000_000, 16).num_leaves
    4000
    """
    n_rows, dim = whole_number(n_rows, "`n_rows`"), whole_number(dim, "`dim`")
    leaves = max(1, min(round(4 * math.sqrt(n_rows)), n_rows // 40))
    return ScannParameters(
        num_leaves=leaves,
        leaves_to_search=min(leaves, max(10, round(0.05 * leaves))),
        dims_per_block=1 if dim <= 64 else 2,
        training_sample_size=min(max(n_rows, CODES), 100_000),
    )


def uses_scann(scann: str | ScannParameters | None, n_rows: int) -> bool:
    """Whether `IndexOptions.scann` asks for ScaNN over `n_rows` rows."""
    return n_rows >= EXACT_BELOW if scann == "auto" else scann is not None
