"""What the text embedding configurations share; each sets its own values over these."""

import ml_collections


def defaults():
    """A `ConfigDict` with every key that the task reads."""
    config = ml_collections.ConfigDict()
    config.task = "text_embedding"
    config.seed = 0
    config.batch_size = 128
    config.steps = 1000
    config.optimizer = ml_collections.ConfigDict()
    config.precision = "float32"
    config.gradient_accumulation = 1
    config.jit_compile = False
    config.checkpoint_every = 1000

    config.objective = "ranking"
    config.temperature = 0.05
    config.positive_score = 4.0
    config.nesting_dims = ()
    config.smallest_dim = 8
    config.relative_importance = ""
    config.model = ml_collections.ConfigDict(
        {"width": 0, "pooling": "mean", "length": 32, "options": {}}
    )
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
    config.evaluation = ml_collections.ConfigDict({"batch_size": 500})
    return config


def tiny(config):
    """`config` cut down to made sentences and a few steps: the same code in seconds."""
    config.data.name = "made"
    config.batch_size = 16
    config.steps = 12
    config.checkpoint_every = 6
    config.evaluation.batch_size = 16
    config.vocabulary.update({"size": 100, "least_count": 1})
    return config
