"""ViT-B/16 as in the paper (Appendix C): M = 12, 24, ..., 768.

    python recipes/train.py --config recipes/configs/vit_b16_jft.py --workdir runs/vit \
        --strategy=tpu --config.data.name=SET --config.batch_size=8192

Adafactor, linear decay from 1e-3, 300,000 steps, batches of 128 for each core: `batch_size` is
the global one, here for 8 cores. JFT-300M is private, so any TFDS image classification set takes
its place. The default is the largest that is public, ImageNet-21K, which TFDS does not offer:
`mrl_keras.data.image.imagenet_4k.imagenet_21k` builds it from a local folder. (ImageNet-4K, the
default before, is the paper's retrieval set, of classes that no model was trained on.)

Not run at full size here: no number is claimed. `:tiny` is what the tests run.
"""

import ml_collections

from recipes.configs.image_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 8 * 128
    config.steps = 300_000
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adafactor",
            "learning_rate": 1e-3,
            "schedule": "linear",
            "warmup_steps": 0,
        }
    )
    config.precision = "mixed_bfloat16"
    config.jit_compile = True
    config.checkpoint_every = 5000
    config.smallest_dim, config.ff_dim = 12, 12
    config.embedding_width = 768
    config.model.backbone = "garden:vit"
    config.model.options = ml_collections.ConfigDict(
        {"patch_size": 16, "hidden_size": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072}
    )
    config.data.name = "imagenet21k"
    config.data.eval_split = "query"
    config.data.in_memory = False
    config.data.augment = "random_resized_crop"
    if mode == "tiny":
        tiny(config)
        config.precision = "float32"
        config.embedding_width, config.smallest_dim, config.ff_dim = 24, 6, 6
        config.model.options.update(
            {"patch_size": 8, "hidden_size": 24, "num_layers": 1, "num_heads": 2, "mlp_dim": 32}
        )
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
