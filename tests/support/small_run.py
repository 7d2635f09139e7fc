"""The smallest run: made images, a network of few variables, momentum; steps of milliseconds."""

import importlib


def small_config(steps, every):
    """The tiny CIFAR-10 configuration, cut down to one stage and M = 2, 4, 8."""
    config = importlib.import_module("recipes.configs.cifar10_resnet").get_config("tiny")
    config.optimizer = {"name": "sgd", "learning_rate": 0.05}
    config.embedding_width, config.model.options.filters = 8, (8,)
    config.steps, config.checkpoint_every = steps, every
    return config
