"""FF-k with the interface of a reduction: one model for each width, trained one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from mrl_keras.baselines.reductions import finite_matrix
from mrl_keras.nesting import NestingDims


class FixedFeatures:
    """The fixed feature baseline FF-k: `fit` trains a model for each k, `transform` asks the k-th.

    A reduction starts from embeddings; this starts from what the models take, such as images.
    Nothing is shared between the models, and each sees what `train` gives it: training data alone.
    With `train=lambda dim: subnetwork(network, dim).predict` it is a slimmable network.

    Args:
        train: function k -> function, inputs (examples, ...) -> embeddings (examples, k). It is
            called once for each k: it makes a model with `image_classifier(backbone, units, [k])`,
            fits it, and gives its encoder's `predict`.

    Example:

    >>> def train(dim):
    ...     return lambda inputs: np.asarray(inputs)[:, :1].repeat(dim, axis=1)
    >>> FixedFeatures(train).fit([1, 2]).transform([[3.0, 4.0]], dim=2).tolist()
    [[3.0, 3.0]]

    Source: arXiv 2205.13147, Section 4.1, FF in Tables 1 and 2.
    """

    def __init__(self, train: Callable[[int], Callable]):
        if not callable(train):
            raise ValueError(
                "`train` must be a function from a width k to an embed function. "
                f"Received {train!r}."
            )
        self.train = train

    def fit(self, dims: Iterable[int]) -> FixedFeatures:
        """Trains the models, the smallest first; returns the baseline itself.

        Args:
            dims: `NestingDims` or ints, ascending, the widths k.

        Raises:
            ValueError: dims that don't ascend, or a `train` that gives no function.
        """
        models = {}
        for dim in NestingDims(dims):
            models[dim] = self.train(dim)
            if not callable(models[dim]):
                raise ValueError(
                    f"`train` must give an embed function. For {dim} it gave {models[dim]!r}."
                )
        self.dims, self.models = NestingDims(dims), models
        return self

    def transform(self, inputs, dim: int) -> np.ndarray:
        """The embeddings (examples, dim) of the model of width `dim`, float32.

        Raises:
            ValueError: not fitted, a width without a model, or embeddings of another shape or with
                NaN.
        """
        if not hasattr(self, "models"):
            raise ValueError("FixedFeatures is not fitted. Call `fit` first.")
        if dim not in self.models:
            raise ValueError(f"`dim` must be one of the fitted {list(self.dims)}. Received {dim}.")
        return finite_matrix(self.models[dim](inputs), "embeddings", dim).astype("float32")
