"""Weights of KerasHub's BERT by the names of `GardenBert`'s variables: it is the same network."""

import re

import keras

from mrl_keras.files import exists, join, local_copy
from mrl_keras.models.hub import keras_hub_module
from mrl_keras.variables import model_variables

# KerasHub's names, and Model Garden's; those of a block after its own name.
_NAMES = {
    "token_embedding/": "word_embeddings.",
    "position_embedding/": "position_embedding.",
    "segment_embedding/": "type_embeddings.",
    "embeddings_layer_norm/": "embeddings.layer_norm.",
    "pooled_dense/": "pooler_transform.",
}
_IN_BLOCK = {
    r"self_attention_layer/(\w+)/": r"self_attention.\2.",
    "self_attention_layer_norm/": "self_attention_layer_norm.",
    "feedforward_intermediate_dense/": "intermediate.",
    "feedforward_output_dense/": "output.",
    "feedforward_layer_norm/": "output_layer_norm.",
}
_NAMES |= {
    rf"transformer_layer_(?P<block>\d+)/{theirs}": rf"transformer.layer_\g<block>.{ours}"
    for theirs, ours in _IN_BLOCK.items()
}


def is_preset(path) -> bool:
    """Whether a folder, local or remote, is a preset of KerasHub with weights."""
    return exists(join(path, "config.json")) and exists(join(path, "model.weights.h5"))


def bert_arrays(path):
    """{name in `GardenBert`: array} of a preset of KerasHub's `BertBackbone`.

    KerasHub's BERT takes the exact GELU and Model Garden's an approximation of it, so that their
    outputs differ by about a thousandth.

    Args:
        path: folder that `keras_hub.models.BertBackbone.save_to_preset` wrote, or a download of
            a published preset; local or remote.

    Raises:
        ImportError: KerasHub is not installed.
        ValueError: a preset of another network.
    """
    keras_hub = keras_hub_module()
    with local_copy(path) as folder:
        network = keras_hub.models.Backbone.from_preset(folder)
    if not isinstance(network, keras_hub.models.BertBackbone):
        raise ValueError(
            f"{path} must be a preset of keras_hub.models.BertBackbone. Received one of "
            f"{type(network).__name__}."
        )
    found = {}
    for name, variable in model_variables(network).items():
        for theirs, ours in _NAMES.items():
            if match := re.match(theirs, name):
                ours = match.expand(ours) + name[match.end() :]
                found[ours] = keras.ops.convert_to_numpy(variable)
    return found
