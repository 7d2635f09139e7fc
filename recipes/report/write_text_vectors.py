"""Embeddings of real texts as two .npy files, which the retrieval benchmarks take.

    python recipes/report/write_text_vectors.py --out runs/wordllama.npy
    python recipes/benchmarks/retrieval_pruned.py --rows runs/wordllama.npy \
        --queries_file runs/wordllama-queries.npy

Reads the texts of recipes/report/write_text_report.py and writes the rows, float32 (rows, d),
L2-normalised, to --out, and the queries beside it, with "-queries" in the name: windows of words
and windows of other texts, or with `--windows 0` the documents and the queries that judge.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from mrl_keras import files
from mrl_keras.evaluation.checks import unit_rows
from recipes.common.arguments import ScriptParser
from recipes.report.parts.cache import ResultCache
from recipes.report.text.encoders import find_encoder
from recipes.report.text.judged import embedded
from recipes.report.text.study import JUDGE
from recipes.report.text.windows import window_vectors
from recipes.report.write_text_report import (
    add_text_options,
    check_text_options,
    larger_texts,
    read_texts,
)


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="file of the rows, NAME.npy")
    add("--encoder", default="wordllama", help="a name, or MODULE:FUNCTION")
    add("--windows", type=int, default=300_000, help="at most so many rows; 0: the documents")
    add_text_options(parser)
    options = parser.parse_args(arguments)
    check_text_options(parser, options)
    if options.windows < 0:
        parser.error(f"--windows must be at least 0, not {options.windows}")
    if options.out.suffix != ".npy":
        parser.error(f"--out must end in .npy, not {options.out}")
    return options, parser


def rows_and_queries(options):
    """(rows, queries) by the encoder, each (texts, d)."""
    encoder, cache = find_encoder(options.encoder, options.cache), ResultCache(options.cache)
    texts = read_texts(options)
    if options.windows:
        windowed = larger_texts(texts.documents, options)
        found = window_vectors(encoder, windowed, options.windows, cache, "rows")
        return found.rows, found.queries
    return tuple(embedded(encoder, some, cache) for some in (texts.documents, texts.queries[JUDGE]))


def main(arguments=None):
    options, parser = parse_arguments(arguments)
    try:
        os.makedirs(options.cache, exist_ok=True)
        found = rows_and_queries(options)
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    os.makedirs(options.out.parent, exist_ok=True)
    for name, vectors in zip((options.out.stem, f"{options.out.stem}-queries"), found, strict=True):
        path = options.out.with_name(f"{name}.npy")
        with files.atomic_file(path) as temporary, open(temporary, "wb") as file:
            np.save(file, unit_rows(vectors).astype(np.float32), allow_pickle=False)
        print(f"{path}: {len(vectors):,} rows of {vectors.shape[1]} dims")


if __name__ == "__main__":
    main()
