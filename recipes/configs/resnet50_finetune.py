"""A pretrained ResNet50 finetuned with a new MRL head, stages unfrozen step by step (Table 26).

    python recipes/train.py --config recipes/configs/resnet50_imagenet.py --workdir runs/ff \\
        --config.head=ff --config.ff_dim=2048
    python recipes/train.py --config recipes/configs/resnet50_finetune.py --workdir runs/mrl \\
        --config.init_from=runs/ff --config.unfrozen=...

`unfrozen` for the paper's five columns (its 4.2 is torchvision's layer4.2):

    fc                     head
    4.2 conv3, fc          "head,stage5_block2_conv3*"
    4.2 conv2, conv3, fc   "head,stage5_block2_conv[23]*"
    4.2 full, fc           "head,stage5_block2*", the default
    all                    "*"

As in the paper: learning rate 0.1, 10 epochs, the rest as for training from scratch
(resnet50_imagenet.py). How the paper scaled the warm-up and the growth of the images to 10 epochs
we don't know: here the warm-up keeps its 2 epochs, and the images grow at the same part of the
run. `init_from` may also be a `.keras` file, or with --config.model.backbone=applications:ResNet50
(and empty options) "imagenet"; its layers are called conv5_block3_3_conv and so on.

Not run at full size here: no number is claimed. `:tiny` is what the tests run, from random
weights and with nothing frozen unless `init_from` and `unfrozen` are given.
"""

from recipes.configs import resnet50_imagenet

EPOCHS, STEPS_PER_EPOCH = 10, resnet50_imagenet.STEPS_PER_EPOCH


def get_config(mode=""):
    config = resnet50_imagenet.get_config(mode)
    config.optimizer.learning_rate = 0.1
    if not mode:
        config.steps = EPOCHS * STEPS_PER_EPOCH
        config.unfrozen = "head,stage5_block2*"
    return config
