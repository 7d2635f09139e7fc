"""Small networks and tokenizers of KerasHub with random weights."""

import io

import numpy as np

TEXTS = ["a cat sleeps", "a dog runs", "the sun is hot", "rain falls"]
OTHERS = ["the cat is asleep", "the dog runs on", "the sun burns", "it rains"]
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *sorted(set(" ".join(TEXTS + OTHERS).split())),
]
SMALL = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


def bert(**options):
    import keras_hub

    return keras_hub.models.BertBackbone(
        **{"vocabulary_size": len(PIECES), "max_sequence_length": 8, **SMALL, **options}
    )


def bert_preprocessor(length=6):
    import keras_hub

    tokenizer = keras_hub.models.BertTokenizer(vocabulary=PIECES, lowercase=True)
    return keras_hub.models.BertTextEmbedderPreprocessor(tokenizer, sequence_length=length)


def roberta(length=8):
    """A backbone and a preprocessor whose tokenizer knows byte pairs."""
    import keras_hub

    pieces = ["<s>", "<pad>", "</s>", "<mask>", "a", "c", "t", "ca", "cat", "Ġ", "Ġc", "Ġa"]
    tokenizer = keras_hub.models.RobertaTokenizer(
        vocabulary={piece: number for number, piece in enumerate(pieces)},
        merges=["c a", "ca t", "Ġ c", "Ġ a"],
    )
    backbone = keras_hub.models.RobertaBackbone(
        vocabulary_size=len(pieces), max_sequence_length=length, **SMALL
    )
    return backbone, keras_hub.models.RobertaTextClassifierPreprocessor(
        tokenizer, sequence_length=length
    )


def albert(length=8):
    """A backbone and a preprocessor whose tokenizer is a SentencePiece model."""
    import keras_hub
    import sentencepiece

    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS + OTHERS),
        model_writer=proto,
        vocab_size=32,
        model_type="WORD",
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece="<pad>",
        unk_piece="<unk>",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        user_defined_symbols="[MASK]",
        minloglevel=2,
    )
    tokenizer = keras_hub.models.AlbertTokenizer(proto=proto.getvalue())
    backbone = keras_hub.models.AlbertBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        num_heads=2,
        embedding_dim=8,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=length,
    )
    return backbone, keras_hub.models.AlbertTextClassifierPreprocessor(
        tokenizer, sequence_length=length
    )


def vit(**options):
    import keras_hub

    return keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=8,
        **options,
    )


def images(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 16, 16, 3)).astype("float32")
