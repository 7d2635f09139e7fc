"""A tiny BERT on WikiText-2's small split in minutes on 2 CPU cores: M = 8, 16, ..., 128.

    python recipes/train.py --config recipes/configs/wikitext2_mlm.py --workdir runs/wikitext2

`wikitext2_small` is a TFDS set of paragraphs with the feature "text"; any other text set takes its
place by `--config.data.name` and `--config.data.feature`.
"""

import ml_collections
from configs.mlm_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 64
    config.steps = 1600
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "schedule": "linear",
            "warmup_steps": 160,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        }
    )
    config.jit_compile = True
    config.checkpoint_every = 400
    config.length, config.masked_positions = 64, 10
    config.model.update(
        {
            "hidden_size": 128,
            "num_layers": 2,
            "num_heads": 2,
            "inner_dim": 512,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
    )
    config.vocabulary.size = 4000
    config.data.name = "wikitext2_small"
    config.data.replace = (("<unk>", "[UNK]"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
    if mode == "tiny":
        tiny(config)
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
