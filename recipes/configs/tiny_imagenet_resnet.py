"""A small ResNet on 100 classes of Tiny ImageNet, 32 x 32 pixels: M = 8, 16, ..., 128.

    python recipes/train.py --config recipes/configs/tiny_imagenet_resnet.py --workdir runs/tiny

`tiny_imagenet100` is a TFDS set of 100 of Tiny ImageNet's classes at 32 x 32 pixels, 500 training
and 50 test images each; `tiny_imagenet100_novel` has 100 others, which no run is trained on.

Top-1 accuracy (%) on the 5,000 test images, means of three seeds (their standard deviation):

    dims             8            16            32            64           128
    linear, MRL  27.19 (0.51)  32.81 (0.25)  34.81 (0.60)  35.82 (0.23)  36.32 (0.62)
    linear, FF   26.83 (0.75)  31.86 (0.45)  34.71 (0.15)  36.76 (0.68)  37.23 (0.64)
    1-NN, MRL    17.07 (0.08)  22.90 (0.42)  25.12 (0.90)  26.29 (0.65)  26.78 (0.40)
    1-NN, FF     17.05 (0.14)  21.99 (0.34)  24.51 (0.38)  26.28 (0.12)  27.08 (0.36)

The embedding is what the network pools, as the paper's ResNet50's is. With a linear map behind the
pooling (`--config.model.options.projection=True`), seed 0, MRL has 28.94, 33.68, 34.82, 35.16 and
35.30, and FF-128 36.46.

`recipes/results/tiny-imagenet-report` has the rest. A run takes some 6 minutes of one core of an
Intel Xeon, two at a time (`TF_NUM_INTRAOP_THREADS=1`, as `train_runs.py --at_once=2` sets), reading
and evaluation included: sooner than one after the other on two cores, whose second one small layers
leave idle.

The learning rate and the epochs were chosen by FF-128 alone, seed 0, with the linear map: 38.76 %
after 16 epochs at a learning rate of 0.1 and 37.16 % at 0.3; 28.50 % after 8 epochs at 0.05 without
augmentation. 12 epochs (36.36 %) are a compromise with time: the last two still bring 1.1 points.
Without the map FF-128 has 37.18 % there.
"""

import ml_collections

from recipes.configs.image_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 128
    config.steps = 12 * 390
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.1,
            "schedule": "cosine",
            "warmup_steps": 390,
            "weight_decay": 5e-4,
        }
    )
    config.checkpoint_every = 2 * 390
    config.smallest_dim, config.ff_dim = 8, 128
    config.embedding_width = 128
    config.model.backbone = "small_resnet"
    config.model.options = ml_collections.ConfigDict(
        {
            "filters": (16, 32, 64, 128),
            "blocks": (0, 1, 1, 1),
            "stem_strides": 2,
            "projection": False,
        }
    )
    config.data.name = "tiny_imagenet100"
    if mode == "tiny":
        tiny(config)
        config.optimizer.warmup_steps = 0
        config.embedding_width, config.ff_dim = 16, 16
        config.model.options.update(filters=(8, 16), blocks=(1, 1))
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
