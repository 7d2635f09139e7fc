"""A text embedder on pairs of sentences, in minutes on 2 CPU cores: M = 8, 16, ..., 128.

python recipes/train.py --config recipes/configs/sts_text_embedder.py --workdir runs/sts
... --config.objective=contrastive   # in-batch negatives, pairs of score 4 and more positive
"""

import ml_collections
from configs.text_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 128
    config.steps = 6 * 71
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 43,
            "weight_decay": 0.01,
        }
    )
    config.checkpoint_every = 71
    config.model.options = ml_collections.ConfigDict(
        {"hidden_size": 128, "num_layers": 2, "num_heads": 2, "inner_dim": 512}
    )
    config.data.name = "sts_pairs"
    if mode == "tiny":
        tiny(config)
        config.optimizer.warmup_steps = 2
        config.model.length = 12
        config.smallest_dim = 4
        config.model.options.update({"hidden_size": 16, "num_layers": 1, "inner_dim": 32})
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
