"""What an export may be told beyond the model and the index: bounds, warm-up, input shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrl_keras.checks import whole_number


@dataclass(frozen=True)
class ServingOptions:
    """Bounds and shapes of an exported model.

    Args:
        max_k: int, the most rows that one request may ask for. Raised to the plan's `k` where
            that is larger. Defaults to 1,000.
        max_shortlist: int, the longest shortlist that one request may ask for. Raised to the
            plan's shortlist and to `max_k`. Defaults to 10,000.
        warmup_batch_sizes: ints, the batch sizes for which each signature gets a warm-up
            request; `()` for no warm-up file. Defaults to `(1, 32)`.
        input_spec: optional `tf.TensorSpec` with a batch axis of `None`, or a mapping from input
            names to such specs: what the encoder takes. `None` reads the encoder's own inputs,
            which a subclassed model does not know.

    Raises:
        ValueError: a number below 1.

    Example:

    >>> ServingOptions(max_k=50).max_shortlist
    10000
    """

    max_k: int = 1_000
    max_shortlist: int = 10_000
    warmup_batch_sizes: tuple[int, ...] = (1, 32)
    input_spec: Any | Mapping[str, Any] | None = None

    def __post_init__(self):
        sizes = tuple(
            whole_number(size, "Each of `warmup_batch_sizes`") for size in self.warmup_batch_sizes
        )
        object.__setattr__(self, "max_k", whole_number(self.max_k, "`max_k`"))
        object.__setattr__(
            self, "max_shortlist", whole_number(self.max_shortlist, "`max_shortlist`")
        )
        object.__setattr__(self, "warmup_batch_sizes", sizes)

    def bounds(self, plan) -> tuple[int, int]:
        """(most k, most shortlist) for a `SearchPlan`, whose own numbers are always allowed."""
        most_k = max(self.max_k, plan.k)
        return most_k, max(self.max_shortlist, plan.shortlist_size, most_k)
