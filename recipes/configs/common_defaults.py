"""What the configurations of all tasks share; a task's own defaults add the keys that it reads."""

import ml_collections

from recipes.common.export_options import export_config


def defaults(task):
    """A `ConfigDict` with the keys that training reads for any task."""
    config = ml_collections.ConfigDict()
    config.task = task
    config.seed = 0
    config.batch_size = 128
    config.steps = 1000
    config.optimizer = ml_collections.ConfigDict()
    config.precision = "float32"
    config.gradient_accumulation = 1
    config.jit_compile = False
    config.checkpoint_every = 1000
    config.export = export_config()
    return config


def tiny(config, batch_size=16):
    """`config` cut down to made data and a few steps."""
    config.data.name = "made"
    config.batch_size = config.evaluation.batch_size = batch_size
    config.steps = 12
    config.checkpoint_every = 6
    config.export.held_out, config.export.least_queries = 0.5, 4
    return config


def image_data(**others):
    """The `data` of a task that reads images; `others` are its own keys and values."""
    return ml_collections.ConfigDict(
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
            "shuffle_buffer": 8192,
            "made_shape": (16, 16, 3),
            "made_examples": 64,
            **others,
        }
    )
