"""Rows a second and peak memory of the Beam pipeline, in one process.

    python recipes/benchmarks/corpus.py --n 1000000 --output runs/scale/corpus.csv

Makes Parquet files of small rows, embeds them by an exported model of one dense layer on Beam's
in-process runner, checks the corpus, and writes a CSV file: rows a second by the clock and by
processor time, the peak memory of the process before and after, bytes read for each prefix.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np
import pyarrow
import pyarrow.parquet

from mrl_keras.export import ServingOptions, export_saved_model
from mrl_keras.scale import EmbeddedCorpus, EmbedOptions, Layout, embed_corpus, throughput
from recipes.benchmarks.parts.memory import status_bytes
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements

_FILE_ROWS = 20_000


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, default=1_000_000, help="rows")
    add("--features", type=int, default=16, help="numbers of a record")
    add("--dims", type=int, nargs="+", default=[8, 16, 32, 64], help="prefix sizes")
    add("--shards", type=int, default=16, help="shards of the corpus")
    add("--batch_size", type=int, default=512, help="records of one call of the model")
    parser.add_measuring("runs/scale/corpus.csv", tiny={"n": 2000})
    return parser.parse_args(arguments)


def write_records(folder, options):
    os.makedirs(folder)
    rng = np.random.default_rng(0)
    for low in range(0, options.n, _FILE_ROWS):
        count = min(_FILE_ROWS, options.n - low)
        values = rng.standard_normal((count, options.features), dtype=np.float32)
        flat = pyarrow.array(values.reshape(-1))
        table = {
            "id": pyarrow.array(range(low, low + count)),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, options.features),
        }
        pyarrow.parquet.write_table(
            pyarrow.table(table), os.path.join(folder, f"{low:09d}.parquet")
        )


def export_layer(folder, options):
    inputs = keras.Input((options.features,), name="features")
    encoder = keras.Model(inputs, keras.layers.Dense(options.dims[-1])(inputs))
    return export_saved_model(
        folder, encoder, nesting_dims=options.dims, options=ServingOptions(warmup_batch_sizes=())
    )


def main(options):
    folder = tempfile.mkdtemp()
    try:
        records, corpus = os.path.join(folder, "records"), os.path.join(folder, "corpus")
        write_records(records, options)
        model = export_layer(os.path.join(folder, "model"), options)
        layout = Layout(options.dims, id_dtype="int64", shards=options.shards)
        settings = EmbedOptions(layout, batch_size=options.batch_size)
        before, wall, processor = status_bytes("VmHWM"), time.perf_counter(), time.process_time()
        result = embed_corpus(records, corpus, model, settings)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        after = status_bytes("VmHWM")
        embedded = EmbeddedCorpus(corpus)
        embedded.check()
        row = {
            "rows": len(embedded),
            "dead_letters": embedded.about["dead_letters"],
            "shards": len(embedded.shards),
            "rows_per_second": len(embedded) / wall,
            "rows_per_processor_second": len(embedded) / processor,
            "model_rows_per_second": throughput(result)["rows_per_second"],
            "peak_mib_before": before / 2**20,
            "peak_mib": after / 2**20,
            **{f"bytes_d{dim}": embedded.bytes_of(dim) for dim in options.dims},
            "command": without_folders(options.command),
        }
    finally:
        shutil.rmtree(folder)
    write_measurements(options.output, [row])
    print(
        f"{row['rows']:,} rows, {row['rows_per_second']:,.0f} a second by the clock, "
        f"{row['rows_per_processor_second']:,.0f} by processor time, at most "
        f"{after / 2**20:,.0f} MiB"
    )


if __name__ == "__main__":
    main(parse_arguments())
