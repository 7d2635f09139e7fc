"""Embeds files of texts, images or rows into a corpus of Parquet shards, with Apache Beam.

    python recipes/embed_corpus.py --model=saved_models/emoji --corpus=runs/corpus texts/*.txt
    python recipes/embed_corpus.py --model=gs://BUCKET/model --corpus=gs://BUCKET/corpus \
        gs://BUCKET/texts -- --runner=DataflowRunner --project=P --region=R \
        --temp_location=gs://BUCKET/temp --sdk_container_image=IMAGE

Inputs are files, patterns or folders of .txt (a record a line), .parquet, .tfrecord, or images. Bad
records go to dead_letters.jsonl in the corpus, each with its reason. What comes after -- is for
Beam; without it the pipeline runs in this process. With --shard_plan the same command goes on with
the shards of a corpus that is there.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from mrl_keras.files import exists, join
from mrl_keras.scale import (
    EmbeddedCorpus,
    EmbedOptions,
    Layout,
    RecordOptions,
    build_shards,
    embed_corpus,
    throughput,
)
from mrl_keras.scale.corpus import MANIFEST
from mrl_keras.scale.pipeline import model_layout
from recipes.common.arguments import ScriptParser
from recipes.common.planning import parse_plan


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("inputs", nargs="+", help="files, patterns or folders")
    add("--corpus", required=True, help="folder to write, local or remote")
    add("--model", default="", help="an exported model; none for rows that are embeddings")
    add("--signature", default="embed", help="of the model, with one input")
    add("--dims", type=int, nargs="+", help="prefix sizes where there is no model")
    add("--inputs_from", default="", help="column or feature to embed, where there are several")
    add("--ids_from", default="id", help="column or feature with the ids")
    add("--payload", nargs="+", default=[], help="columns or features to keep; of lines: text")
    add("--storage", default="float32", help="float32, bfloat16 or int8")
    add("--id_dtype", default="string", help="string or int64")
    add("--shards", type=int, default=8, help="over which rows are dealt by a hash of the id")
    add("--batch_size", type=int, default=64, help="records of one call of the model")
    add("--shard_plan", help="also build an index and a model of each shard, such as 8:100,128")
    add("--k", type=int, default=10, help="rows that such a model answers")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    options.beam = arguments[cut + 1 :]
    if not options.model and not options.dims:
        parser.error("needs --model, or --dims where the inputs are embeddings")
    return options, parser


def embed(options, layout):
    """The corpus of the inputs; prints what came of them."""
    records = RecordOptions(options.inputs_from, options.ids_from, options.payload)
    settings = EmbedOptions(layout, records, options.signature, options.batch_size)
    result = embed_corpus(options.inputs, options.corpus, options.model, settings, options.beam)
    corpus = EmbeddedCorpus(options.corpus)
    dead = corpus.about["dead_letters"]
    print(f"Embedded {len(corpus):,} rows into {options.corpus}, {dead:,} dead letters")
    if options.model:
        speed = throughput(result)
        print(f"The model embedded {speed['rows_per_second']:,.0f} rows a second")
    return corpus


def embedded(options, layout):
    """The corpus that is there, of the same layout."""
    corpus = EmbeddedCorpus(options.corpus)
    if corpus.layout != layout:
        raise ValueError(
            f"{options.corpus} is embedded as {corpus.layout}. Received {layout}: give the same "
            "options, or another folder."
        )
    print(f"{options.corpus} is embedded: going on with its shards")
    return corpus


def main(arguments=None):
    options, parser = parse_arguments(arguments)
    try:
        of = {name: getattr(options, name) for name in ("storage", "id_dtype", "shards")}
        if options.dims:
            of["dims"] = options.dims
        layout = model_layout(options.model, **of) if options.model else Layout(**of)
        plan = options.shard_plan and parse_plan(options.shard_plan, options.k)
        if plan:
            plan.check_dims(layout.dims)
        there = plan and exists(join(options.corpus, MANIFEST))
        corpus = embedded(options, layout) if there else embed(options, layout)
        if plan:
            shards = options.corpus.rstrip("/") + "-shards"
            paths = build_shards(corpus, shards, plan, progress=True)
            print(f"Built {len(paths)} shards in {shards}")
    except (ValueError, ImportError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
