"""BERT-Base masked language model as in the paper (Appendix C): M = 12, 24, ..., 768.

    python recipes/train.py --config recipes/configs/bert_base_mlm.py --workdir runs/bert \
        --strategy=tpu --tpu=local

AdamW, linear decay from 1e-4, batches of 1,024, 450,000 steps, on Wikipedia and books. The paper
names no sequence length and no masking; these are BERT's: 512 tokens, 15 percent masked, anew in
every epoch. Wikipedia is wiki40b, which has a validation split; the books are PG-19's, since
BooksCorpus is not distributed any more. They share each batch in the proportion of the words of
BERT's corpora, 2,500 to 800 million. Documents are streamed, one window of each in an epoch; the
vocabulary comes from 100,000 windows of the same stream. Evaluation reads at most 2,000 validation
texts of each set.

Not run at full size here: no number is claimed. `:tiny` is what the tests run.
"""

import ml_collections

from recipes.configs.mlm_defaults import defaults, tiny


def get_config(mode=""):
    config = defaults()
    config.batch_size = 1024
    config.steps = 450_000
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-4,
            "schedule": "linear",
            "warmup_steps": 0,
            "weight_decay": 0.01,
        }
    )
    config.precision = "mixed_bfloat16"
    config.jit_compile = True
    config.checkpoint_every = 5000
    config.smallest_dim, config.ff_dim = 12, 12
    config.length, config.masked_positions = 512, 76
    config.vocabulary.examples = 100_000
    config.data.name = "wiki40b/en,pg19"
    config.data.feature = "text,book_text"
    config.data.share = (2500.0, 800.0)
    marks = ("_START_ARTICLE_", "_START_SECTION_", "_START_PARAGRAPH_", "_NEWLINE_")
    config.data.replace = tuple((mark, " ") for mark in marks)
    config.data.max_eval_examples = 2000
    config.data.in_memory = False
    if mode == "tiny":
        tiny(config)
        config.precision = "float32"
    elif mode:
        raise ValueError(f"The mode must be 'tiny' or none. Received {mode!r}.")
    return config
