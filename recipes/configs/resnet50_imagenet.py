"""ResNet50 on ImageNet-1K as in the paper (Appendix C): M = 8, 16, ..., 2048.

    python recipes/train.py --config recipes/configs/resnet50_imagenet.py --workdir runs/mrl
    ... --config.head=mrl_e                       # MRL-E
    ... --config.head=ff --config.ff_dim=8        # FF-8; also 16, 32, ..., 2048
    ... --config.model.options.blur_pool=True     # FFCV's blur before strides
    ... --config.relative_importance=8:2,16:1.5   # Table 27: 8+16boost; 8boost is 8:2
    ... --config.smallest_dim=4                   # Table 28: 4, 6, 8
    ... --config.spacing=uniform                  # Table 29

40 epochs, SGD with momentum 0.9, learning rate 0.475 for batches of 512, rising for 2 epochs and
then falling linearly to 0, weight decay 1e-4 except on batch normalisation and biases, label
smoothing 0.1, random resized crops of 160 pixels that become 192 after 31.5 epochs, evaluation
at 256. `imagenet2012` of TFDS needs its archives in FOLDER/downloads/manual.

Not run at full size here: no number is claimed. `:tiny` is what the tests run.
"""

import ml_collections

from recipes.configs.image_defaults import defaults, tiny

EPOCHS, STEPS_PER_EPOCH = 40, 1_281_167 // 512


def get_config(mode=""):
    config = defaults()
    config.batch_size = 512
    config.steps = EPOCHS * STEPS_PER_EPOCH
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.475,
            "schedule": "triangular",
            "warmup_steps": 2 * STEPS_PER_EPOCH,
            "momentum": 0.9,
            "weight_decay": 1e-4,
        }
    )
    config.precision = "mixed_bfloat16"
    config.jit_compile = True
    config.checkpoint_every = STEPS_PER_EPOCH
    config.label_smoothing = 0.1
    config.embedding_width = 2048
    config.model.backbone = "resnet"
    config.model.options = ml_collections.ConfigDict(
        {
            "blocks": (3, 4, 6, 3),
            "filters": (64, 128, 256, 512),
            "blur_pool": False,
        }
    )
    config.data.name = "imagenet2012"
    config.data.eval_split = "validation"
    config.data.in_memory = False
    config.data.augment = "random_resized_crop"
    config.data.resolution = (160, 192)
    config.data.eval_resolution = 256
    if mode == "tiny":
        tiny(config)
        config.precision = "float32"
        config.optimizer.warmup_steps = 2
        config.embedding_width, config.smallest_dim, config.ff_dim = 64, 8, 16
        config.model.options.blocks = (1, 1)
        config.model.options.filters = (8, 16)
        config.data.made_shape = (32, 32, 3)
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
