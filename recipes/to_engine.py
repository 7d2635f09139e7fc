"""Puts embedded rows into a search engine, and asks it.

    python recipes/to_engine.py --rows=runs/corpus --engine=qdrant --address=http://HOST:6333 \
        --plan=8:100,128 --ask "party" "rain"
    python recipes/to_engine.py --rows=runs/corpus --engine=pgvector \
        --address=postgresql://USER@HOST/DATABASE --plan=8:100,128
    python recipes/to_engine.py --rows=runs/cifar10 --engine=vespa --address=vespa --plan=8:100,64

The rows are those of embed_corpus.py, of its shards, of an index, or of a run that was exported.
Rows whose ids the engine has are left as they are: the same command goes on where one was stopped;
--update replaces them. Vespa's schema, feed and requests are written into the folder --address.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from tqdm.auto import tqdm

from mrl_keras.engines import (
    PgvectorEngine,
    PgvectorOptions,
    QdrantEngine,
    QdrantOptions,
    VespaApplication,
)
from mrl_keras.files import atomic_file, join, write_json, write_text
from mrl_keras.scale import ExportedEncoder
from recipes.common.arguments import ScriptParser
from recipes.common.engine_rows import find_rows
from recipes.common.planning import parse_plan

ENGINES = ("qdrant", "pgvector", "vespa")


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--rows", required=True, help="a corpus, shards, an index or a run")
    add("--engine", choices=ENGINES, required=True)
    add("--address", required=True, help="URL; of qdrant also a folder, of vespa one to write")
    add("--name", default="docs", help="of the collection, table or schema")
    add("--plan", required=True, help="D_s:ROWS,DIM:ROWS,...,D_r, such as 8:100,128")
    add("--k", type=int, default=10, help="rows of an answer")
    add("--update", action="store_true", help="replace rows that are there")
    add("--shards", type=int, default=1, help="of a Qdrant collection")
    add("--quantization", choices=["int8"], help="of the vectors that Qdrant searches")
    add("--ask", nargs="+", default=[], help="texts to ask for then")
    add(
        "--filter",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="what answers must have; several values of a field: one of them",
    )
    add("--exact", action="store_true", help="answer by scanning all rows")
    add("--model", help="exported model that embeds what is asked; else that of the corpus")
    options = parser.parse_args(arguments)
    wrong = [one for one in options.filter if "=" not in one]
    if wrong:
        parser.error(f"--filter takes FIELD=VALUE, not {wrong[0]!r}")
    options.filters = parse_filters(options.filter) or None
    return options, parser


def parse_filters(texts):
    """{field: values} of FIELD=VALUE: numbers, true and false as such, other values as texts.

    >>> parse_filters(["lang=en", "lang=de", "year=2020", 'code="7"'])
    {'lang': ['en', 'de'], 'year': [2020], 'code': ['7']}
    """
    filters = {}
    for text in texts:
        name, value = text.split("=", 1)
        with contextlib.suppress(ValueError):
            found = json.loads(value)
            value = found if isinstance(found, (bool, int, str)) else value
        filters.setdefault(name, []).append(value)
    return filters


def make_engine(options, rows, plan):
    """The engine, with a vector or an index for what the plan searches."""
    if options.engine == "qdrant":
        return QdrantEngine(
            qdrant_client(options.address), options.name, plan.dims, metric=rows.metric,
            id_dtype=rows.id_dtype,
            options=QdrantOptions(quantization=options.quantization, shards=options.shards),
        )  # fmt: skip
    return PgvectorEngine(
        options.address, options.name, rows.dims, metric=rows.metric, id_dtype=rows.id_dtype,
        options=PgvectorOptions(shortlist_dims=plan.dims[:1]),
    )  # fmt: skip


def qdrant_client(address):
    """A client of a server's URL, or of a local folder."""
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise ImportError(
            'Qdrant needs its client. Install it with: pip install "mrl_keras[qdrant]"'
        ) from error
    if "://" in address:
        return QdrantClient(address, check_compatibility=False)
    return QdrantClient(path=address)


def fill(engine, rows, update):
    """Uploads all rows; returns how many were written."""
    engine.create()
    written, width = 0, engine.width
    with tqdm(total=rows.count, desc="Uploading", unit="row", unit_scale=True) as bar:
        for part in rows.read():
            vectors = part.vectors[:, :width]
            written += engine.upload(vectors, part.ids, part.payload, resume=not update)
            bar.update(len(part.ids))
    engine.finish()
    return written


def embed_texts(options, rows):
    """Embeddings of what is asked."""
    model = options.model or rows.model
    if not model:
        raise ValueError(
            "--ask needs the exported model that embedded the rows: name it by --model."
        )
    encoder = ExportedEncoder(model, batch_size=len(options.ask))
    return encoder([encoder.prepare(text) for text in options.ask])


def show(options, found):
    for asked, scores, ids in zip(options.ask, found.scores, found.ids, strict=True):
        print(asked)
        for score, name in zip(scores.tolist(), ids.tolist(), strict=True):
            if name not in ("", -1):
                print(f"   {score:.4f}  {name}")


def write_vespa(options, rows, plan):
    """The application's schema, the feed and a request for each text, as files."""
    kinds = {str: "string", bool: "bool", int: "long"}
    fields = {}
    for part in rows.read():
        for payload in part.payload:
            fields |= {name: kinds.get(type(value), "string") for name, value in payload.items()}
    name, folder = options.name, options.address
    application = VespaApplication(name, plan, rows.metric, rows.id_dtype, fields)
    requests = {}
    if options.ask:
        for text, one in zip(options.ask, embed_texts(options, rows), strict=True):
            requests[text] = application.request(one, options.filters, options.exact)
    write_text(join(folder, "schemas", f"{name}.sd"), application.schema())
    with atomic_file(join(folder, "feed.jsonl")) as path, open(path, "w") as file:
        for part in rows.read():
            for line in application.feed(part.vectors, part.ids, part.payload):
                file.write(f"{line}\n")
    if requests:
        write_json(join(folder, "requests.json"), requests)
    print(f"Wrote {folder}, for `vespa deploy` and `vespa feed feed.jsonl`")


def main(arguments=None):
    options, parser = parse_arguments(arguments)
    try:
        rows, plan = find_rows(options.rows), parse_plan(options.plan, options.k)
        plan.check_dims(rows.dims)
        if options.engine == "vespa":
            write_vespa(options, rows, plan)
            return
        with make_engine(options, rows, plan) as engine:
            written = fill(engine, rows, options.update)
            print(f"{written:,} rows written, {len(engine):,} in {options.engine}")
            if options.ask:
                embeddings = embed_texts(options, rows)[:, : engine.width]
                show(options, engine.query(embeddings, plan, options.filters, options.exact))
    except (ValueError, ImportError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
