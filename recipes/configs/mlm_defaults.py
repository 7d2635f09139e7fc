"""What the masked language model configurations share; each sets its own values over these."""

import ml_collections

from recipes.common.evaluators import evaluator_options
from recipes.common.export_options import export_config
from recipes.configs import common_defaults


def defaults():
    """A `ConfigDict` with every key that the task reads."""
    config = common_defaults.defaults("masked_lm")
    config.init_from = ""
    config.unfrozen = ""

    config.head = "mrl_e"
    config.nesting_dims = ()
    config.smallest_dim = 8
    config.ff_dim = 8
    config.relative_importance = ""
    config.length = 128
    config.masked_positions = 19
    config.mask_rate = 0.15

    config.model = ml_collections.ConfigDict(
        {
            "hidden_size": 768,
            "num_layers": 12,
            "num_heads": 12,
            "inner_dim": 3072,
            "dropout": 0.1,
            "attention_dropout": 0.1,
        }
    )
    config.vocabulary = ml_collections.ConfigDict(
        {"size": 30522, "lower_case": True, "examples": 0}
    )
    config.data = ml_collections.ConfigDict(
        {
            "name": "",
            "data_dir": "",
            "feature": "text",
            "share": (1.0,),
            "train_split": "train",
            "eval_split": "validation",
            "in_memory": True,
            "max_examples": 0,
            "max_eval_examples": 0,
            "packed": True,
            "replace": (),
            "shuffle_buffer": 8192,
            "made_examples": 64,
        }
    )
    config.evaluators = evaluator_options("masked_tokens")
    config.evaluation = ml_collections.ConfigDict({"batch_size": 64})
    config.export = export_config(corpus="none", masks=8, pieces=5)
    return config


def tiny(config):
    """`config` cut down to made sentences and a few steps: the same code in seconds."""
    common_defaults.tiny(config, batch_size=8)
    config.data.in_memory = True
    config.optimizer.warmup_steps = 2
    config.length, config.masked_positions = 16, 3
    config.vocabulary.size = 120
    config.model.update({"hidden_size": 24, "num_layers": 1, "num_heads": 2, "inner_dim": 32})
    config.smallest_dim, config.ff_dim = 6, 6
    return config
