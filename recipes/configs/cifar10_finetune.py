"""Finetuning a ResNet, trained at full width alone, with a new MRL head on CIFAR-10 (Table 26).

    python recipes/train.py --config recipes/configs/cifar10_resnet.py --workdir runs/ff64 \\
        --config.head=ff --config.ff_dim=64 --config.steps=1560 \\
        --config.optimizer.warmup_steps=312
    python recipes/train.py --config recipes/configs/cifar10_finetune.py --workdir runs/mrl \\
        --config.init_from=runs/ff64 --config.unfrozen=...

Top-1 accuracy (%) on the 10,000 test images after one epoch, from FF-64 with seed 0, with one
value of `unfrozen` in each row:

    dims                         2      4      8     16     32     64
    head                     28.16  29.11  46.94  45.21  64.47  73.73
    head,embedding           29.95  41.81  63.25  71.23  73.93  75.24
    head,embedding,stage4*   33.05  57.82  67.32  72.41  74.14  74.30
    *                        34.11  58.69  67.51  72.19  74.00  74.42

Training more layers improves the small prefixes. Training MRL from the start gives 62.8 at 2 dims
and 71.8 at 4 (seed 0, four epochs). Each row took 41 to 83 CPU seconds.

One epoch at a quarter of the learning rate of training, after FF's four. `:tiny` starts from random
weights and freezes nothing unless `init_from` and `unfrozen` are given.
"""

from recipes.configs import cifar10_resnet


def get_config(mode=""):
    config = cifar10_resnet.get_config(mode)
    config.optimizer.learning_rate = 1e-3
    if not mode:
        config.steps = config.checkpoint_every = 390
        config.optimizer.warmup_steps = 39
        config.unfrozen = "head,embedding"
    return config
