"""A tiny BERT on WikiText-2's small split on 2 CPU cores: M = 8, 16, ..., 128.

    python recipes/train.py --config recipes/configs/wikitext2_mlm.py --workdir runs/wikitext2

`wikitext2_small` is a TFDS set of paragraphs with the feature "text"; any other text set takes its
place by `--config.data.name` and `--config.data.feature`.

Masked tokens of the validation split, one fixed mask, seeds 0 and 1; the interpolated prefixes,
marked ~, were not trained:

    dims                       8    ~12     16    ~24     32    ~48     64    ~96    128
    top-1 (%), seed 0       6.94   7.73   8.54   9.98  10.84  11.78  12.32  12.56  12.73
    top-1 (%), seed 1       6.43   7.85   8.48   9.62  10.79  11.73  12.37  12.60  12.72
    crossentropy, seed 0    6.36   6.30   6.26   6.19   6.15   6.10   6.07   6.06   6.05
    crossentropy, seed 1    6.39   6.32   6.27   6.22   6.16   6.11   6.08   6.07   6.06

Without a model: 5.35 % for always the most frequent piece, and a crossentropy of 6.49 for the
frequencies of the pieces. 360,000 words are little for a masked language model; what shows is that
context helps every prefix. The vocabulary has 3,894 pieces.

Seed 1 is the command above with --config.seed=1. Learning the vocabulary and training took 607 and
676 CPU seconds, on two cores that did much other work at the same time: whether two idle ones take
less than 10 minutes was not measured.

`recipes/results/masked-tokens-report` has one model for each dim beside it (Table 7).
"""

import ml_collections

from recipes.configs.mlm_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 64
    config.steps = 1600
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "schedule": "linear",
            "warmup_steps": 160,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
        }
    )
    config.jit_compile = True
    config.checkpoint_every = 400
    config.length, config.masked_positions = 64, 10
    config.model.update(
        {
            "hidden_size": 128,
            "num_layers": 2,
            "num_heads": 2,
            "inner_dim": 512,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
    )
    config.vocabulary.size = 4000
    config.data.name = "wikitext2_small"
    config.data.replace = (("<unk>", "[UNK]"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
    if mode == "tiny":
        tiny(config)
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
