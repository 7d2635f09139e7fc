"""A dual encoder of emoji and their captions, in minutes on 2 CPU cores: M = 8, 16, ..., 128.

    python recipes/train.py --config recipes/configs/emoji_captions.py --workdir runs/emoji

1,102 images and their 2 to 21 captions train, 275 test. A training text is a drawn number of up to
8 drawn captions of its image; evaluation joins all captions of an image to one text, so that chance
is 1/275 for recall@1 and 10/275, 3.6 %, for recall@10 in both directions.

Not measured yet at full length: no number is claimed. `:tiny` is what the tests run.
"""

import ml_collections
from configs.image_text_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 128
    config.steps = 60 * 8
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "warmup_steps": 48,
            "weight_decay": 0.1,
        }
    )
    config.checkpoint_every = 120
    config.temperature = 0.1
    config.image.backbone = "small_resnet"
    config.image.options = ml_collections.ConfigDict(
        {"width": 128, "filters": (16, 32, 64, 128), "blocks": 1, "stem_strides": 2}
    )
    config.text.pooling = "mean"
    config.text.length = 40
    config.text.options = ml_collections.ConfigDict(
        {"hidden_size": 128, "num_layers": 1, "num_heads": 2, "inner_dim": 256, "dropout": 0.2}
    )
    config.vocabulary.update({"size": 3000, "least_count": 3})
    config.data.name = "emoji_captions"
    config.data.captions_per_text = 8
    config.evaluation.captions_per_text = 100
    if mode == "tiny":
        tiny(config)
        config.optimizer.warmup_steps = 2
        config.embedding_width, config.smallest_dim = 16, 4
        config.image.options.update({"width": 16, "filters": (8, 16)})
        config.text.options.update({"hidden_size": 16, "inner_dim": 32})
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
