"""Handwritten numbers 00 to 99 in seconds, no download: M = 4, 8, 16, 32.

    python recipes/train.py --config recipes/configs/digit_pairs.py --workdir runs/digit_pairs

Two of scikit-learn's digits side by side, 40 training pairs of each number, 20 for the test: the
set of `recipes/quickstart.py`, with a smaller network, for comparisons of many runs. Four epochs
leave it far from converged, some 20 % top-1 at 4 dims and 80 % at 32; --config.steps=992 is four
times as many. What a comparison gave is in recipes/results/beyond/importance.md.
"""

import ml_collections

from recipes.configs.image_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 64
    config.steps = 4 * 62
    config.checkpoint_every = 4 * 62
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 3e-3,
            "schedule": "cosine",
            "warmup_steps": 0,
            "weight_decay": 0.004,
        }
    )
    config.smallest_dim = config.ff_dim = 4
    config.model.backbone = "small_convnet"
    config.embedding_width = 32
    config.model.options = ml_collections.ConfigDict({"filters": (8, 16, 32), "max_value": 16})
    config.data.name, config.data.augment = "digit_pairs", "none"
    if mode == "tiny":
        tiny(config)
        config.model.options.filters = (4, 8)
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
