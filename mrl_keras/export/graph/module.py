"""The module that is saved: the encoder's state, the nested search, and the signatures."""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Callable, Mapping

import tensorflow as tf

from mrl_keras.export.graph.inputs import RawInputs

_NUMBERS = ("k", "shortlist", "leaves")
_TrackableResource = tf.saved_model.experimental.TrackableResource


@dataclasses.dataclass(frozen=True)
class ServedParts:
    """What a model serves besides retrieval.

    Args:
        inputs: `RawInputs` of the encoder.
        heads: dict from signature names to functions of the embedding.
        encoders: dict from signature names to the `RawInputs` of further encoders.
        functions: dict from signature names to functions of the raw inputs.
        layers: dict from ascending numbers of layers to the `RawInputs` of an encoder that ends
            there.
    """

    inputs: RawInputs
    heads: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    encoders: Mapping[str, RawInputs] = dataclasses.field(default_factory=dict)
    functions: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    layers: Mapping[int, RawInputs] = dataclasses.field(default_factory=dict)


class ServedSearch(tf.Module):
    """A nested search from raw inputs or from embeddings, with optional numbers in bounds.

    Args:
        inputs: `RawInputs` of the queries.
        search: `NestedSearch`.
        bounds: (most k, most shortlist), the limits of the optional inputs.

    Attributes:
        default_numbers: dict of the plan's `k`, `shortlist` and `leaves`.
    """

    def __init__(self, inputs, search, bounds):
        super().__init__(name="served_search")
        self._inputs, self._bounds, self.nested_search = inputs, bounds, search
        plan = search.plan
        numbers = (plan.k, plan.shortlist_size, search.default_leaves)
        self.default_numbers = dict(zip(_NUMBERS, numbers, strict=True))

    def signatures(self, name):
        """{signature: `tf.function`}, named `name` and, from embeddings, `name`_embeddings."""
        made, embedding = {}, {"embedding": _spec([None, self._inputs.width])}
        for start, specs, encode in (
            (name, dict(self._inputs.specs), self._inputs.encode),
            (f"{name}_embeddings", embedding, lambda inputs: inputs["embedding"]),
        ):
            made[start] = _function(specs, _chain(encode, self._retrieve))
            made[f"{start}_dynamic"] = _function(
                specs, _chain(encode, self._retrieve_dynamic), self.default_numbers
            )
            made[f"{start}_batch"] = _function(
                specs, _chain(encode, self._retrieve_batch), list(_NUMBERS)
            )
        return made

    def _retrieve(self, embedding):
        return self.nested_search.search(embedding, *self.default_numbers.values())

    def _retrieve_dynamic(self, embedding, k, shortlist, leaves):
        most_k, most_shortlist = self._bounds
        k = tf.clip_by_value(k, 1, most_k)
        shortlist = tf.clip_by_value(shortlist, k, most_shortlist)
        leaves = tf.clip_by_value(leaves, 1, self.nested_search.num_leaves)
        return self.nested_search.search(embedding, k, shortlist, leaves)

    def _retrieve_batch(self, embedding, k, shortlist, leaves):
        """One number for each query: rows of several requests may be merged into one batch.

        The answer is as wide as the plan's k, whatever the neighbours ask for.
        """
        width, most_shortlist = self.nested_search.plan.k, self._bounds[1]
        k = tf.clip_by_value(k, 1, width)
        shortlists = tf.clip_by_value(shortlist, k, most_shortlist)
        # The searcher takes one number of leaves for a batch: the most that a query asks for.
        leaves = tf.clip_by_value(tf.reduce_max(leaves), 1, self.nested_search.num_leaves)
        longest = tf.maximum(tf.reduce_max(shortlists), width)
        return self.nested_search.search(embedding, width, longest, leaves, (k, shortlists))


class ServingModule(tf.Module):
    """Everything that a SavedModel of this package serves, as named signatures.

    | signature | inputs | outputs |
    |---|---|---|
    | `embed` | raw inputs | `embedding` (batch, d) |
    | `embed_dim` | raw inputs, `dim` scalar | `embedding` (batch, dim), L2-normalised prefix |
    | `embed_dim_batch` | raw inputs, `dim` (batch,) | `embedding` (batch, d), zero after each dim |
    | `embed_layer` | raw inputs, `layer` scalar | `embedding` (batch, d) of that layer |
    | `classify` | raw inputs | `class`, `probability` (batch,), `logits` (batch, classes) |
    | `classify_adaptive` | raw inputs | `class`, `probability`, `dim`, each (batch,) |
    | a head's or function's name | raw inputs | what it gives |
    | a further encoder's name | its own raw inputs | `embedding` (batch, d) |
    | `retrieve` | raw inputs | `ids`, `indices`, `scores`, each (batch, k); `certified` (batch,) |
    | `retrieve_dynamic` | and `k`, `shortlist`, `leaves` scalars, optional | (batch, k) |
    | `retrieve_batch` | and `k`, `shortlist`, `leaves` (batch,) | (batch, the plan's k) |
    | `retrieve_embeddings`, `_dynamic`, `_batch` | `embedding` instead of raw inputs | the same |
    | `retrieve_NAME`, ... | as `retrieve`, ..., of a further retrieval | the same |
    | `serving_default` | as `retrieve`, or `embed` without an index | |

    `certified` is of a certified plan: whether the answer is proven to be full width's.
    `retrieve` and `retrieve_embeddings` have no optional inputs, because TF Serving's batching, its
    REST API and `tf.saved_model.load` do not handle them. Optional inputs are clamped into their
    bounds, never refused.

    Args:
        parts: `ServedParts`.
        searches: dict from signature names, "retrieve" first, to `ServedSearch`es.

    Attributes:
        signatures_by_name: dict from names to the `tf.function` of each signature.
    """

    def __init__(self, parts, searches=None):
        super().__init__(name="serving")
        self._inputs, self._width = parts.inputs, parts.inputs.width
        self.searches = dict(searches or {})
        self._encode, self._layers = parts.inputs.encode, dict(parts.layers)
        self._deepest = max(self._layers, default=1)
        self.signatures_by_name = self._signatures(parts)
        # What the functions read, and not the optimizer that a compiled encoder carries.
        traced = [fn.get_concrete_function() for fn in self.signatures_by_name.values()]
        self.resources = _captured_resources(traced)
        self.state = list({id(v): v for fn in traced for v in fn.variables}.values())

    def _signatures(self, parts):
        raw = dict(self._inputs.specs)
        made = {
            "embed": _function(raw, lambda inputs: {"embedding": self._encode(inputs)}),
            "embed_dim": _function(raw, self._embed_dim, {"dim": self._width}),
            "embed_dim_batch": _function(raw, self._embed_dim_batch, ["dim"]),
        }
        if self._layers:
            made["embed_layer"] = _function(raw, self._embed_layer, {"layer": self._deepest})
        for name, own in parts.encoders.items():
            made[name] = _function(dict(own.specs), _chain(own.encode, _embedding))
        for name, head in parts.heads.items():
            made[name] = _function(raw, _chain(self._encode, head))
        for name, function in parts.functions.items():
            made[name] = _function(raw, _chain(self._inputs.pack, function))
        for name, search in self.searches.items():
            made |= search.signatures(name)
        return {**made, "serving_default": made.get("retrieve", made["embed"])}

    def example_values(self) -> dict[str, float]:
        """Numbers for requests that warm a server up: the defaults, and an embedding of ones."""
        numbers = next((s.default_numbers for s in self.searches.values()), {})
        return {"embedding": 1.0, "dim": self._width, "layer": self._deepest, **numbers}

    def _embed_dim(self, inputs, dim):
        dim = tf.clip_by_value(dim, 1, self._width)
        return {"embedding": _unit_rows(self._encode(inputs)[:, :dim])}

    def _embed_dim_batch(self, inputs, dim):
        inside = tf.range(self._width)[None, :] < tf.clip_by_value(dim, 1, self._width)[:, None]
        return {"embedding": _unit_rows(tf.where(inside, self._encode(inputs), 0.0))}

    def _embed_layer(self, inputs, layer):
        """The first of the layers that is at least `layer`, or the deepest; no other one runs."""
        place = tf.reduce_sum(tf.cast(layer > list(self._layers)[:-1], tf.int32))
        branches = [functools.partial(one.encode, inputs) for one in self._layers.values()]
        return _embedding(tf.switch_case(place, branches))


def _spec(shape, dtype=tf.float32):
    return tf.TensorSpec(shape, dtype)


def _function(inputs, compute, numbers=()):
    """A `tf.function` of a dict of tensors and of up to three int32 numbers.

    Args:
        inputs: dict from names to `tf.TensorSpec`.
        compute: function of the dict and of the numbers, by position.
        numbers: names of the (batch,) numbers, or a dict from names of scalars to their
            defaults, which become the SignatureDef's.
    """
    specs = [{name: tf.TensorSpec(s.shape, s.dtype, name=name) for name, s in inputs.items()}]
    shapes = {name: spec.shape for name, spec in inputs.items()}
    scalars = isinstance(numbers, dict)
    specs += [tf.TensorSpec([] if scalars else [None], tf.int32, name=name) for name in numbers]

    def checked(inputs):
        # A C++ session feeds any shape: a row that is too wide would be cut without a word.
        return {name: tf.ensure_shape(value, shapes[name]) for name, value in inputs.items()}

    def of_inputs(inputs):
        return compute(checked(inputs))

    def of_dim(inputs, dim):
        return compute(checked(inputs), dim)

    def of_layer(inputs, layer):
        return compute(checked(inputs), layer)

    def of_numbers(inputs, k, shortlist, leaves):
        return compute(checked(inputs), k, shortlist, leaves)

    known = {(): of_inputs, ("dim",): of_dim, ("layer",): of_layer, _NUMBERS: of_numbers}
    function = known[tuple(numbers)]
    if scalars:
        # A SavedModel reads its defaults from the function's own, where they are tensors.
        function.__defaults__ = tuple(tf.constant(n, tf.int32) for n in numbers.values())
    return tf.function(function, input_signature=specs)


def _unit_rows(rows):
    """Each row divided by its L2 norm; zero rows stay zero."""
    norms = tf.math.reduce_euclidean_norm(rows, axis=-1, keepdims=True)
    return tf.math.divide_no_nan(rows, norms)


def _chain(encode, head):
    return lambda inputs, *numbers: head(encode(inputs), *numbers)


def _embedding(embedding):
    return {"embedding": embedding}


def class_outputs(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """What `classify` serves of logits (batch, classes)."""
    logits = tf.cast(logits, tf.float32)
    return {
        "class": tf.argmax(logits, axis=-1, output_type=tf.int64),
        "probability": tf.reduce_max(tf.nn.softmax(logits), axis=-1),
        "logits": logits,
    }


def _captured_resources(traced):
    """The lookup tables, tokenizers' models and the like that traced functions read.

    A tokenizer may hold them in a list, a closure or an object that nothing tracks. A SavedModel
    needs the object of each captured handle, whoever holds it.
    """
    captured = [tensor for fn in traced for tensor in fn.captured_inputs]
    handles = {id(tensor): place for place, tensor in enumerate(captured)}
    # type() rather than isinstance, which would load modules that are imported lazily.
    live = [one for one in gc.get_objects() if issubclass(type(one), _TrackableResource)]
    places = [[handles[id(v)] for v in vars(one).values() if id(v) in handles] for one in live]
    found = [(held[0], one) for held, one in zip(places, live, strict=True) if held]
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]
