"""What an export may be told beyond the model and the index."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mrl_keras.checks import whole_number
from mrl_keras.export.manifest import EXTRA, MANIFEST
from mrl_keras.export.warmup import FILE_NAME as WARMUP


@dataclass(frozen=True)
class Retrieval:
    """A further nested retrieval of an exported model, with an encoder of its own.

    Args:
        encoder: Keras layer or model, the queries' raw inputs -> (batch, d) embedding.
        index: `mrl_keras.retrieval.NestedIndex` over rows of the same space.
        plan: the `SearchPlan` that its signature runs.
    """

    encoder: Any
    index: Any
    plan: Any


@dataclass(frozen=True)
class ServingOptions:
    """Further signatures, versions, metrics and bounds of an exported model.

    Args:
        heads: mapping from further signature names to functions (Keras layers, usually) of the
            embedding, each giving a tensor or a dict of tensors. Defaults to none.
        encoders: mapping from further signature names to encoders of raw inputs of their own into
            the same space: the towers of a dual encoder,
            `{"embed_image": image_tower, "embed_text": text_tower}`, one of which is the exported
            `encoder`. Each gives `embedding` (batch, d). Defaults to none.
        layers: mapping from numbers of layers to encoders of the exported encoder's raw inputs, as
            `NestedLayers.encoder` makes them, `{4: ..., 8: ..., 12: ...}`: the signature
            `embed_layer` runs the first one of at least the `layer` that a request asks for.
            Defaults to none.
        retrievals: mapping from names to `Retrieval`s beside the model's own: with "texts" there
            are `retrieve_texts`, `retrieve_texts_embeddings` and their `_dynamic` and `_batch`
            variants, so that a dual encoder finds images for a text and texts for an image.
            Defaults to none.
        functions: mapping from further signature names to functions (Keras models, usually) of the
            encoder's raw inputs, for what does not follow from the embedding, each giving a tensor
            or a dict of tensors. Defaults to none.
        version: int, the version to write. Defaults to `None`, one above the highest.
        metrics: mapping for the manifest, such as `{"top1": {8: 0.91, 64: 0.95}}`. Defaults to
            none.
        about: mapping for the manifest: how the model was made, such as
            `{"run": {"step": 4680}, "corpus": {"set": "cifar10", "split": "train"}}`. Defaults to
            none.
        files: mapping from names to files, local or remote, to copy into `assets.extra/`, such as
            the picture of how the plan was chosen. Defaults to none.
        twin: bool, whether to write the same signatures without custom ops as a second model,
            `directory` + "_plain", with the same version: for servers that do not link ScaNN. It
            searches the leaves of the same tree exactly. A model whose shortlists are exact, or
            found by sign bits or a partition, needs none of ScaNN's ops, and gets no twin. Custom
            ops of the encoder itself, such as those of `BertTokens`, are in both. Defaults to
            `False`.
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
        ValueError: a number below 1; a name of `files` that has a folder or that the export uses.

    Example:

    >>> ServingOptions(max_k=50).max_shortlist
    10000
    """

    heads: Mapping[str, Callable] = field(default_factory=dict)
    encoders: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Callable] = field(default_factory=dict)
    layers: Mapping[int, Any] = field(default_factory=dict)
    retrievals: Mapping[str, Retrieval] = field(default_factory=dict)
    version: int | None = None
    metrics: Mapping = field(default_factory=dict)
    about: Mapping = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    twin: bool = False
    max_k: int = 1_000
    max_shortlist: int = 10_000
    warmup_batch_sizes: tuple[int, ...] = (1, 32)
    input_spec: Any | Mapping[str, Any] | None = None

    def __post_init__(self):
        sizes = tuple(
            whole_number(size, "Each of `warmup_batch_sizes`") for size in self.warmup_batch_sizes
        )
        object.__setattr__(self, "warmup_batch_sizes", sizes)
        layers = {whole_number(n, "Each of `layers`"): one for n, one in self.layers.items()}
        object.__setattr__(self, "layers", dict(sorted(layers.items())))
        for name in ("max_k", "max_shortlist"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"`{name}`"))
        for name in self.files:
            taken = name in ("", ".", "..", MANIFEST, WARMUP)
            if taken or os.path.basename(name) != name:
                raise ValueError(
                    f"The names of `files` must be those of files in {EXTRA}/, without folders and "
                    f"other than {MANIFEST} and {WARMUP}. Received {name!r}."
                )
        if self.version is not None:
            object.__setattr__(self, "version", whole_number(self.version, "`version`"))

    def bounds(self, plan) -> tuple[int, int]:
        """(most k, most shortlist) for a `SearchPlan`, whose own numbers are always allowed."""
        most_k = max(self.max_k, plan.k)
        return most_k, max(self.max_shortlist, plan.shortlist_size, most_k)
