"""Pretrained weights and frozen parts, as a config of any task names them.

    init_from  the pretrained weights of everything but the head: the work directory of a run, a
               `.keras` file, a Model Garden checkpoint (backbones "garden:..."), or "imagenet"
               for the weights of `keras.applications` (backbones "applications:..."), which
               Keras downloads; empty starts from random weights
    unfrozen   the parts that are trained, as names with * such as "head,stage5_block2*" (see
               `mrl_keras.models.train_only`); empty trains all

`init_from` is read when a run begins; when it goes on, its checkpoint has the weights.
"""

import numpy as np

from mrl_keras.files import exists, join
from mrl_keras.models import image_backbone, load_backbone, train_only
from recipes.common.run import Run


def freeze_parts(config, model):
    """Freezes the parts that `config.unfrozen` leaves out.

    Raises:
        ValueError: a name that fits no part, or parts frozen at random weights.
    """
    patterns = [part for part in config.get("unfrozen", "").replace(" ", "").split(",") if part]
    if not patterns or patterns == ["*"]:
        return
    if not config.get("init_from"):
        raise ValueError(
            f"`unfrozen` is {config.unfrozen!r}, which would freeze the rest at random weights: "
            "set `init_from` too."
        )
    trained = train_only(model, patterns)
    inside = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    print(f"Trains {inside} of {model.count_params()} weights: {', '.join(trained)}", flush=True)


def load_initial_weights(config, model):
    """Loads the weights of `config.init_from` into a model; an empty one changes nothing.

    Args:
        config: the run's.
        model: the run's, built.

    Raises:
        ValueError: no weights there, or those of another backbone.
    """
    source = config.get("init_from")
    if not source:
        return
    if exists(join(source, "config.json")):
        weights = Run.open(source).checkpoints.model_arrays()
    elif source == "imagenet":
        weights = _imagenet_weights(config, model)
    else:
        weights = source
    left = load_backbone(model, weights)
    print(f"Starts from {source}, without {left} arrays of its head", flush=True)


def _imagenet_weights(config, model):
    name = config.model.backbone
    if not name.startswith("applications:"):
        raise ValueError(
            "`init_from` 'imagenet' is for backbones of keras.applications, such as "
            f"'applications:ResNet50'. Received the backbone {name!r}."
        )
    options = {**config.model.options, "weights": "imagenet"}
    return image_backbone(name, model.input_shape[1:], **options).variables
