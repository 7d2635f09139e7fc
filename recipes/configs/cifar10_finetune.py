"""A ResNet trained at full width alone on CIFAR-10 gets an MRL head and is finetuned (Table 26).

    python recipes/train.py --config recipes/configs/cifar10_resnet.py --workdir runs/ff64 \\
        --config.head=ff --config.ff_dim=64 --config.steps=1560 \\
        --config.optimizer.warmup_steps=312
    python recipes/train.py --config recipes/configs/cifar10_finetune.py --workdir runs/mrl \\
        --config.init_from=runs/ff64 --config.unfrozen=...

One epoch at a quarter of the learning rate of training, after FF's four. `:tiny` starts from random
weights and freezes nothing unless `init_from` and `unfrozen` are given.
"""

from configs import cifar10_resnet


def get_config(mode=""):
    config = cifar10_resnet.get_config(mode)
    config.optimizer.learning_rate = 1e-3
    if not mode:
        config.steps = config.checkpoint_every = 390
        config.optimizer.warmup_steps = 39
        config.unfrozen = "head,embedding"
    return config
