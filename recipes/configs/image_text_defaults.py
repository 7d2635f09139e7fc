"""What the dual encoder configurations share; each sets its own values over these."""

import ml_collections

from recipes.common.evaluators import evaluator_options
from recipes.configs import common_defaults


def defaults():
    """A `ConfigDict` with every key that the task reads."""
    config = common_defaults.defaults("image_text")
    config.init_from = ""
    config.unfrozen = ""

    config.embedding_width = 128
    config.nesting_dims = ()
    config.smallest_dim = 8
    config.temperature = 0.07
    config.temperature_per_prefix = False
    config.relative_importance = ""
    config.image = ml_collections.ConfigDict({"backbone": "", "options": {}})
    config.text = ml_collections.ConfigDict({"pooling": "cls", "length": 32, "options": {}})
    config.vocabulary = ml_collections.ConfigDict(
        {"size": 30_000, "least_count": 10, "lower_case": True}
    )
    config.data = common_defaults.image_data(
        captions="captions", captions_per_text=1, eval_crop=1.0
    )
    config.evaluators = evaluator_options("image_text_recall")
    config.evaluation = ml_collections.ConfigDict(
        {
            "batch_size": 256,
            "max_examples": 0,
            "captions_per_text": 1,
            "zero_shot": {"name": "", "split": "test", "max_examples": 0},
        }
    )
    return config


def tiny(config):
    """`config` cut down to made images and a few steps: the same code in seconds."""
    common_defaults.tiny(config)
    config.data.in_memory = True
    config.data.augment = "pad_crop_flip"
    config.vocabulary.update({"size": 100, "least_count": 1})
    config.text.length = 10
    return config
