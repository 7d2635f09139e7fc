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
    config.data = ml_collections.ConfigDict(
        {
            "name": "",
            "data_dir": "",
            "train_split": "train",
            "eval_split": "test",
            "in_memory": True,
            "max_examples": 0,
            "augment": "pad_crop_flip",
            "dtype": "uint8",
            "resolution": (224, 224),
            "ramp": (0.725, 0.85),
            "eval_resolution": 224,
            "eval_crop": 0.875,
            "shuffle_buffer": 8192,
            "made_shape": (16, 16, 3),
            "made_classes": 4,
            "made_examples": 64,
        }
    )
    config.evaluators = evaluator_options("linear", "neighbours")
    config.evaluation = ml_collections.ConfigDict({"database": 0, "batch_size": 500})
    return config


def tiny(config):
    """`config` cut down to made images and a few steps: the same code in seconds."""
    common_defaults.tiny(config)
    config.data.in_memory = True
    config.data.augment = "pad_crop_flip"
    return config
