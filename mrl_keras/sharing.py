"""Layers that hold a layer of their model find it again in a copy of the model.

`keras.models.clone_model` and `Model.from_config` make each layer from its own config, and so a
layer within a config twice. In a copy the outer layer looks for the model's own one as soon as it
is called.
"""

import re

import keras
from keras.src.models.functional import Functional


class HoldsModelLayer:
    """A mixin for layers whose argument `_held` is a layer that the model may hold as well.

    Made by `from_config` and called on symbolic tensors, it takes the layer of the same class, name
    and config that their model has, if there is one, in place of its own copy.
    """

    _held = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._revived = self._alone = False

    def __call__(self, *args, **kwargs):
        tensors = [x for x in keras.tree.flatten(args) if isinstance(x, keras.KerasTensor)]
        if self._revived and tensors:
            self._revived = False
            own = getattr(self, self._held)
            found = _layer_like(own, tensors, self)
            self._alone = found is None
            if found not in (None, own):
                self._replace(own, found)
        return super().__call__(*args, **kwargs)

    def _replace(self, own, found):
        """Hold `found` in the place of `own`, so that the order of the weights stays."""
        place = [id(layer) for layer in self._layers].index(id(own))
        self._tracker.unlock()
        delattr(self, self._held)
        self._tracker.untrack(own)
        setattr(self, self._held, found)
        self._layers.insert(place, self._layers.pop())
        if self.built:
            self._tracker.lock()

    @classmethod
    def _revive(cls, arguments):
        """An instance made of a config, which looks for the model's own layer."""
        made = cls(**arguments)
        made._revived = True
        return made


class HeldBySiblings:
    """A mixin for layers that a `HoldsModelLayer` may hold which reads the same tensors.

    Of two layers that read the same tensor, a copy of the model may call either first.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._revived = False

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        tensors = [x for x in keras.tree.flatten(args) if isinstance(x, keras.KerasTensor)]
        if self._revived and tensors:
            self._revived = False
            for holder in _operations(tensors):
                if isinstance(holder, HoldsModelLayer) and holder._alone:
                    own = getattr(holder, holder._held)
                    if own is not self and _alike(self, own) and _config(self) == _config(own):
                        holder._alone = False
                        holder._replace(own, self)
        return outputs

    @classmethod
    def from_config(cls, config):
        made = super().from_config(config)
        made._revived = True
        return made


def _alike(one, other):
    return type(one) is type(other) and one.name == other.name


def _layer_like(own, tensors, holder):
    """The layer of the tensors' model that `own` is, or is a copy of; None if there is none."""
    layers, made_inside = {}, {}
    for operation in _operations(tensors):
        if isinstance(operation, keras.layers.Layer) and operation is not holder:
            for layer in operation._flatten_layers():
                layers[id(layer)] = layer
                if not isinstance(layer, (keras.Sequential, Functional)):
                    inside = layer._flatten_layers(include_self=False)
                    made_inside |= {id(one): one for one in inside}
    if id(own) in layers:
        return own
    config = _config(own)
    same = [x for x in layers.values() if _alike(x, own) and _config(x) == config]
    if len(same) > 1:
        raise ValueError(
            f"A copy of {holder.name!r} must share the model's own layer {own.name!r}, and the "
            f"model has {len(same)} of this class, name and config. Give each a name of its own."
        )
    if same:
        return same[0]
    # A layer that makes layers gives them new automatic names, such as embedding_1.
    same = [x for x in made_inside.values() if type(x) is type(own) and _base(x) == _base(own)]
    same = [x for x in same if _config(x) == {**config, "name": x.name}]
    return same[0] if len(same) == 1 else None


def _config(layer):
    """A layer's config without the numbers that Keras gives objects while it loads a file."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(one) for k, one in value.items() if k != "shared_object_id"}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    return plain(layer.get_config())


def _base(layer):
    return re.sub(r"_\d+$", "", layer.name)


def _operations(tensors):
    """The operations that lead to `tensors`, and those that read the same tensors as these."""
    found, waiting = {}, list(tensors)
    while waiting:
        history = getattr(waiting.pop(), "_keras_history", None)
        if history is None or id(history.operation) in found:
            continue
        found[id(history.operation)] = history.operation
        for node in history.operation._inbound_nodes:
            waiting += node.input_tensors
    beside = [node.operation for one in found.values() for node in one._outbound_nodes]
    return [*found.values(), *beside]
