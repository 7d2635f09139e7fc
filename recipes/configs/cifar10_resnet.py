"""A small ResNet on CIFAR-10 in minutes on 2 CPU cores: M = 2, 4, ..., 64.

    python recipes/train.py --config recipes/configs/cifar10_resnet.py --workdir runs/cifar10

RESULTS
"""

import ml_collections
from configs.image_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 128
    config.steps = 12 * 390
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 4e-3,
            "schedule": "triangular",
            "warmup_steps": 936,
            "weight_decay": 0.05,
        }
    )
    config.checkpoint_every = 780
    config.smallest_dim, config.ff_dim = 2, 2
    config.model.backbone = "small_resnet"
    config.model.width = 64
    config.model.options = ml_collections.ConfigDict(
        {"filters": (32, 64, 128), "blocks": 1, "stem_strides": 2}
    )
    config.data.name = "cifar10"
    if mode == "tiny":
        tiny(config)
        config.optimizer.warmup_steps = 2
        config.model.width = 16
        config.model.options.filters = (8, 16)
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
