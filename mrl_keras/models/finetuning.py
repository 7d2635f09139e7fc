"""Finetuning: the weights of a pretrained backbone, and which parts of a model are trained."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping

import keras
import numpy as np

from mrl_keras.files import as_path, exists, local_copy
from mrl_keras.models.garden.backbone import GardenBackbone
from mrl_keras.variables import model_variables


def part_names(model):
    """The parts of a model that can be frozen by name, in the order of the model's layers.

    Args:
        model: `keras.Model`.

    Returns:
        A tuple of str: a Keras layer with weights by its name, a stage of a Model Garden network
        as "LAYER/STAGE", and what is in a nested model behind the model's name and "/".

    Example:

    >>> from mrl_keras.models import image_classifier, part_names, small_resnet
    >>> part_names(image_classifier(small_resnet((8, 8, 3), 4, filters=(2,)), 3, [2, 4]))[:3]
    ('stem_conv', 'stem_conv_bn', 'stage2_block0_conv1')
    """
    return tuple(_parts(model))


def train_only(model, patterns):
    """Train the named parts of a model and freeze all others: Table 26's steps of unfreezing.

    Frozen weights keep their values, and frozen batch normalisation its moving statistics, which
    it then also normalises with. Call `compile` afterwards.

    Args:
        model: `keras.Model`.
        patterns: list of str. Each is a part's name (see `part_names`), of a nested one also the
            last piece, where * stands for anything: "head", "stage5_block2*",
            "image_tower/*", "*".

    Returns:
        A tuple of the trained parts' names.

    Raises:
        ValueError: a pattern that fits no part.

    Example:

    >>> from mrl_keras.models import image_classifier, small_resnet, train_only
    >>> model = image_classifier(small_resnet((8, 8, 3), 4, filters=(2, 2)), 3, [2, 4])
    >>> train_only(model, ["head", "embedding"])
    ('embedding', 'head')
    >>> len(model.trainable_weights)  # a kernel and a bias of each of three dense maps
    6

    Source: arXiv 2205.13147, Table 26.
    """
    parts = _parts(model)
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in parts):
            short = dict.fromkeys(re.sub(r"(block_?\d+)_.*", r"\1_*", name) for name in parts)
            raise ValueError(f"No part is named {pattern!r}. The parts are {', '.join(short)}.")
    chosen = {name for name in parts if any(_fits(name, pattern) for pattern in patterns)}
    layers = {name: layer for name, (layer, stage) in parts.items() if stage is None}
    # A layer may hold another part, as a tied head its embedding: the outer first.
    for name in sorted(layers, key=lambda n: -len(layers[n]._flatten_layers())):
        layers[name].trainable = name in chosen
    frozen = {}
    for name, (layer, stage) in parts.items():
        if stage is not None:
            frozen.setdefault(id(layer), (layer, []))[1].extend([stage] * (name not in chosen))
    for layer, stages in frozen.values():
        layer.trainable = True
        layer.frozen = stages
    return tuple(name for name in parts if name in chosen)


def load_backbone(model, source, head="head"):
    """Give a model the weights of a pretrained backbone; the head keeps its own.

    Weights are matched by their names where the source has them, else by their order, and checked
    by their shapes. What else the source has, such as an old head, is left aside.

    Args:
        model: `keras.Model`, or a layer such as `GardenBert`; built.
        source: what holds the pretrained weights: the path of a `.keras` file; the path of a
            Model Garden checkpoint (a prefix or a folder), where `model` has one Model Garden
            network; a dict of arrays by the names of `mrl_keras.variables.model_variables`, of
            a model like this or of one that holds such a part, as "bert/..."; or a list of
            arrays, the variables of a model in their order.
        head: name of the layer whose own weights stay; that layer may be missing. Default
            "head".

    Returns:
        int, how many arrays of the source were left aside.

    Raises:
        ValueError: no such file, or weights of another network; the model is then unchanged.

    Example:

    >>> import os, tempfile
    >>> from mrl_keras.models import image_classifier, load_backbone, small_resnet
    >>> pretrained = image_classifier(small_resnet((8, 8, 3), 4, filters=(2,)), 100, [4])
    >>> path = os.path.join(tempfile.mkdtemp(), "ff.keras")
    >>> pretrained.save(path)
    >>> model = image_classifier(small_resnet((8, 8, 3), 4, filters=(2,)), 3, [2, 4])
    >>> load_backbone(model, path)  # kernel and bias of the old head
    2
    """
    what = "the given arrays"
    if isinstance(source, (str, os.PathLike)):
        what = source = as_path(source, "`source`")
        garden = [part for part in model._flatten_layers() if isinstance(part, GardenBackbone)]
        if len(garden) == 1 and not source.endswith(".keras"):
            garden[0].load_checkpoint(source)
            return 0
        if not (source.endswith(".keras") and exists(source)):
            raise ValueError(
                "`source` must be a `.keras` file, arrays or, for a model with one Model Garden "
                f"network, its checkpoint. There is no such file at {source!r}."
            )
        with local_copy(source) as path:
            source = _variables(keras.saving.load_model(path, compile=False)).values()
    variables = _variables(model, head)
    if not isinstance(source, Mapping):
        arrays = [np.asarray(keras.ops.convert_to_numpy(array)) for array in source]
        source = dict(enumerate(arrays))
        variables = dict(enumerate(variables.values()))
    else:
        prefix = _prefix(source, variables)
        variables = {prefix + name: variable for name, variable in variables.items()}
    for name, variable in variables.items():
        found = source[name].shape if name in source else "nothing"
        if found != tuple(variable.shape):
            what_of = f"number {name}" if isinstance(name, int) else name
            raise ValueError(
                f"The weights of {what} are of another backbone: {what_of} must have the shape "
                f"{tuple(variable.shape)} of {variable.path}. It has {found}."
            )
    for name, variable in variables.items():
        if not variable.path.endswith("seed_generator_state"):
            variable.assign(source[name])
    return len(source) - len(variables)


def _variables(model, head=None):
    """{name: variable} of a model in its order, without metrics and those of its head alone."""
    layers = getattr(model, "layers", ())
    names = [layer.name for layer in layers]
    others = {id(v) for layer in layers if layer.name != head for v in layer.variables}
    own = {id(v) for v in model.get_layer(head).variables} - others if head in names else set()
    return {name: v for name, v in model_variables(model).items() if id(v) not in own}


def _prefix(source, variables):
    """What precedes the names of `variables` in `source`: "", or the path of the part there."""
    first = next(iter(variables))
    ends = (name for name in source if name == first or name.endswith(f"/{first}"))
    found = [name.removesuffix(first) for name in ends]
    whole = [prefix for prefix in found if all(prefix + name in source for name in variables)]
    if len(whole) > 1:
        raise ValueError(
            f"The weights have several such networks, {', '.join(map(repr, whole))}: give those of "
            "one, such as the arrays whose names begin alike."
        )
    return (whole or found or [""])[0]


def _parts(model, prefix=""):
    """{name: (layer, stage)}, with stage None for a Keras layer."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= _parts(layer, f"{prefix}{layer.name}/")
        elif isinstance(layer, GardenBackbone):
            found |= {f"{prefix}{layer.name}/{stage}": (layer, stage) for stage in layer.stages}
        elif layer.weights:
            found[prefix + layer.name] = layer, None
    return found


def _fits(name, pattern):
    return any(fnmatch.fnmatchcase(one, pattern) for one in (name, name.rsplit("/", 1)[-1]))
