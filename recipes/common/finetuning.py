"""What a config says of a pretrained start, for any task.

    init_from  the pretrained weights of everything but the head: the work directory of a run, a
               `.keras` file, a Model Garden checkpoint (backbones "garden:..."), or "imagenet"
               for the weights of `keras.applications` (backbones "applications:..."), which
               Keras downloads; empty starts from random weights
    unfrozen   the parts that are trained, as names with * such as "head,stage5_block2*" (see
               `mrl_keras.models.train_only`); empty trains all

Both matter when a run begins; when it goes on, its checkpoint has the weights.
"""

import os

import numpy as np

from mrl_keras.models import image_backbone, load_backbone, train_only


def unfreeze(config, model):
    """Freezes what `config.unfrozen` leaves out.

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


def initialise(config, model, open_run):
    """Gives a model the weights of `config.init_from`, if there are any.

    Args:
        config: the run's.
        model: the run's, built.
        open_run: function from a work directory to a run with `checkpoints`.

    Raises:
        ValueError: nothing to be read there, or weights of another backbone.
    """
    source = config.get("init_from")
    if not source:
        return
    if os.path.isfile(os.path.join(source, "config.json")):
        weights = open_run(source).checkpoints.model_arrays()
    elif source == "imagenet":
        weights = _application(config, model)
    else:
        weights = source
    left = load_backbone(model, weights)
    print(f"Starts from {source}, without {left} arrays of its head", flush=True)


def _application(config, model):
    name = config.model.backbone
    if not name.startswith("applications:"):
        raise ValueError(
            "`init_from` 'imagenet' is for backbones of keras.applications, such as "
            f"'applications:ResNet50'. Received the backbone {name!r}."
        )
    options = {**config.model.options, "weights": "imagenet"}
    return image_backbone(name, model.input_shape[1:], **options).variables
