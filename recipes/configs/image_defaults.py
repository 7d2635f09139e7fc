"""What the image classification configurations share; each sets its own values over these."""

import ml_collections

from recipes.common.evaluators import evaluator_options
from recipes.configs import common_defaults


def defaults():
    """A `ConfigDict` with every key that the task reads."""
    config = common_defaults.defaults("image_classification")
    config.init_from = ""
    config.unfrozen = ""

    config.head = "mrl"
    config.nesting_dims = ()
    config.embedding_width = 0
    config.smallest_dim = 8
    config.spacing = "log"
    config.dims_count = 11
    config.ff_dim = 8
    config.slimmable_widths = (0.25, 0.5, 0.75, 1.0)
    config.relative_importance = ""
    config.label_smoothing = 0.0

    config.model = ml_collections.ConfigDict({"backbone": "", "options": {}})
    config.data = common_defaults.image_data(eval_crop=0.875, made_classes=4)
    config.evaluators = evaluator_options("linear", "neighbours")
    config.evaluation = ml_collections.ConfigDict({"database": 0, "batch_size": 500})
    return config


def tiny(config):
    """`config` cut down to made images and a few steps: the same code in seconds."""
    common_defaults.tiny(config)
    config.data.in_memory = True
    config.data.augment = "pad_crop_flip"
    return config
