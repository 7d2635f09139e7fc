"""What the text embedding configurations share; each sets its own values over these."""

import ml_collections

from recipes.common.evaluators import evaluator_options
from recipes.configs import common_defaults


def defaults():
    """A `ConfigDict` with every key that the task reads."""
    config = common_defaults.defaults("text_embedding")
    config.init_from = ""
    config.unfrozen = ""

    config.objective = "ranking"
    config.temperature = 0.05
    config.positive_score = 4.0
    config.nesting_dims = ()
    config.embedding_width = 0
    config.smallest_dim = 8
    config.relative_importance = ""
    config.model = ml_collections.ConfigDict({"pooling": "mean", "length": 32, "options": {}})
    config.vocabulary = ml_collections.ConfigDict(
        {"size": 8000, "least_count": 10, "lower_case": True}
    )
    config.data = ml_collections.ConfigDict(
        {
            "name": "",
            "data_dir": "",
            "first": "sentence1",
            "second": "sentence2",
            "score": "score",
            "train_split": "train",
            "eval_split": "test",
            "max_examples": 0,
            "made_examples": 64,
        }
    )
    config.evaluators = evaluator_options("pair_similarity", "untrained", "word_overlap")
    config.evaluation = ml_collections.ConfigDict({"batch_size": 500})
    return config


def tiny(config):
    """`config` cut down to made sentences and a few steps: the same code in seconds."""
    common_defaults.tiny(config)
    config.vocabulary.update({"size": 100, "least_count": 1})
    return config
