"""ALIGN as in the paper (Appendix C): ViT-B/16 and BERT-Base, M = 12, 24, ..., 768.

    python recipes/train.py --config recipes/configs/align_coco.py --workdir runs/align \\
        --strategy=tpu --config.data.name=SET --config.data.captions=FEATURE

Adafactor, linear decay from 1e-3, 1,000,000 steps, batches of 64 for each core: `batch_size` is
the global one, here for 8 cores. The loss sees the negatives of all cores. ALIGN's images and
texts are private, so any TFDS set with images and captions takes their place; the default is
`coco_captions`. Evaluation is recall@1 and @10 on 5,000 images in both directions;
`--config.evaluation.zero_shot.name=SET` adds zero-shot accuracy on a labelled set (Table 18).

Not run at full size here: no number is claimed. `:tiny` is what the tests run.
"""

import ml_collections

from recipes.configs.image_text_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 8 * 64
    config.steps = 1_000_000
    config.optimizer = ml_collections.ConfigDict(
        {"name": "adafactor", "learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 0}
    )
    config.precision = "mixed_bfloat16"
    config.jit_compile = True
    config.checkpoint_every = 5000
    config.embedding_width, config.smallest_dim = 768, 12
    config.image.backbone = "garden:vit"
    config.image.options = ml_collections.ConfigDict(
        {"patch_size": 16, "hidden_size": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072}
    )
    config.text.length = 64
    config.text.options = ml_collections.ConfigDict(
        {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "inner_dim": 3072}
    )
    config.data.name = "coco_captions"
    config.data.captions = "captions/text"
    config.data.eval_split = "val"
    config.data.in_memory = False
    config.data.augment = "random_resized_crop"
    config.evaluation.max_examples = 5000
    if mode == "tiny":
        tiny(config)
        config.precision = "float32"
        config.embedding_width, config.smallest_dim = 24, 6
        small = {"hidden_size": 24, "num_layers": 1, "num_heads": 2}
        config.image.options.update({**small, "patch_size": 8, "mlp_dim": 32})
        config.text.options.update({**small, "inner_dim": 32})
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
