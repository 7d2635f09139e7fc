"""Embedding a corpus with Apache Beam: records -> embeddings -> Parquet shards -> manifest.

```
files -> read -> prepare -> RunInference -> deal to shards -> write each shard -> manifest
            \\         \\                        \\                    \\
             '---------'------------------------'---- dead letters ---'
```

The functions of the steps are this module's, so workers need mrl_keras installed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.files import absolute_path, exists, join, write_text
from mrl_keras.scale.corpus import MANIFEST, Layout, shard_of, write_corpus, write_shard
from mrl_keras.scale.encoder import ExportedEncoder, Refused
from mrl_keras.scale.records import BadRecord, RecordOptions, find_files, read_records

DEAD_LETTERS = "dead_letters.jsonl"
NAMESPACE = "mrl_keras"
"""The namespace of the model's metrics."""


@dataclass(frozen=True)
class EmbedOptions:
    """How a corpus is embedded.

    Args:
        layout: `Layout` of the corpus. Defaults to `None`: the dims and the metric of the model,
            and the layout's other defaults.
        records: `RecordOptions`, what is read of each record. Defaults to its defaults.
        signature: str, of the model, with one input. Defaults to "embed".
        batch_size: int, records of one call of the model. Defaults to 64.

    Raises:
        ValueError: `batch_size` below 1.
    """

    layout: Layout | None = None
    records: RecordOptions = field(default_factory=RecordOptions)
    signature: str = "embed"
    batch_size: int = 64

    def __post_init__(self):
        object.__setattr__(self, "batch_size", whole_number(self.batch_size, "`batch_size`"))


def model_layout(model: str, **changes) -> Layout:
    """The `Layout` with an exported model's dims, and the metric of its index if it has one.

    Args:
        model: str, a folder that `export_saved_model` wrote.
        **changes: other fields of `Layout`.
    """
    from mrl_keras.export import load_manifest

    manifest = load_manifest(model)
    metric = (manifest["retrieval"] or {}).get("metric", "cosine")
    return Layout(**{"dims": manifest["nesting_dims"], "metric": metric, **changes})


def embed_handler(model: str, signature: str = "embed", batch_size: int = 64):
    """Beam's `ModelHandler` of an exported model: prepared records in, embeddings out.

    Each process loads the model once, and workers of one machine may share it
    (`share_model_across_processes`). Batches have a fixed size, so that another run gives the same
    rows to the bit on the same kind of machine. RunInference counts calls, their time and the
    model's bytes in the namespace "mrl_keras".

    Args:
        model, signature, batch_size: as for `ExportedEncoder`, whose `prepare` makes the records.

    Returns:
        A `apache_beam.ml.inference.base.ModelHandler`.

    Raises:
        ImportError: Apache Beam is not installed.

    Example:

    >>> handler = embed_handler("saved_models/emoji")                     # doctest: +SKIP
    >>> texts | RunInference(handler)                                     # doctest: +SKIP
    """
    return _handler_class()(model, signature, batch_size)


@functools.cache
def _handler_class():
    """The class, made where Beam is needed, since it derives from Beam's."""
    _beam()
    from apache_beam.ml.inference.base import ModelHandler

    class EmbedHandler(ModelHandler):
        def __init__(self, model, signature, batch_size):
            self._arguments = (model, signature, batch_size)
            super().__init__()

        def load_model(self):
            encoder = ExportedEncoder(*self._arguments)
            encoder.load()
            return encoder

        def run_inference(self, batch, model, inference_args=None):
            return model.embed_each(batch)

        def batch_elements_kwargs(self):
            return {"min_batch_size": self._arguments[2], "max_batch_size": self._arguments[2]}

        def get_num_bytes(self, batch):
            return sum(len(one) if isinstance(one, str) else one.nbytes for one in batch)

        def get_metrics_namespace(self):
            return NAMESPACE

        def share_model_across_processes(self):
            return True

    return EmbedHandler


def embed_corpus(
    inputs: Sequence[str],
    output: str,
    model: str,
    options: EmbedOptions | None = None,
    beam_options=None,
):
    """Embeds files of records into an `EmbeddedCorpus`, with any runner of Beam.

    A bad record, one that the model refuses or embeds to what is not finite, and a second record of
    the same id (the first by file and row stays) go to `dead_letters.jsonl` with their reason; the
    run goes on. A run that was stopped left no manifest: start it again, and it writes the same
    shards.

    Args:
        inputs: paths, patterns or folders, as `find_files` takes them; every worker must reach
            them, the model and the output.
        output: str, a folder without a corpus, local or remote.
        model: str, a folder that `export_saved_model` wrote; or "", for records that are
            embeddings already, which needs `options.layout`.
        options: `EmbedOptions`. Defaults to `None`, its defaults.
        beam_options: `apache_beam.options.pipeline_options.PipelineOptions`, or a list of command
            line flags such as `["--runner=FlinkRunner"]`. Defaults to `None`, one process here.

    Returns:
        Beam's result, whose `metrics()` hold the throughput.

    Raises:
        ValueError: nothing to read, a corpus that exists, no such model, or no record that could
            be embedded.
        ImportError: Apache Beam or pyarrow is not installed.
    """
    beam = _beam()
    options, output = options or EmbedOptions(), absolute_path(output, "`output`")
    paths = find_files([inputs] if isinstance(inputs, str) else inputs)
    if exists(join(output, MANIFEST)):
        raise ValueError(f"{output} holds a corpus, and nothing is overwritten. Name another one.")
    encoder = None
    about = {"encoder": None, "inputs": len(paths)}
    if model:
        model = absolute_path(model, "`model`")
        encoder = ExportedEncoder(model, options.signature, options.batch_size)
        name = {"signature": options.signature, "fingerprint": encoder.fingerprint()}
        about["encoder"] = {"model": model, **name}
    elif options.layout is None:
        raise ValueError(
            "`options.layout` must give the dims where there is no model. Received None."
        )
    layout = options.layout or model_layout(model)
    pipeline = beam.Pipeline(options=_pipeline_options(beam_options))
    records, bad = _split(
        pipeline
        | "Files" >> beam.Create(paths)
        | "Spread" >> beam.Reshuffle()
        | "Read"
        >> beam.FlatMap(_read, options.records, encoder, layout).with_outputs(_DEAD, main="good")
    )
    dead = [bad]
    if encoder is not None:
        from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

        handler = embed_handler(model, options.signature, options.batch_size)
        records = records | "Embed" >> RunInference(KeyedModelHandler(handler))
    rows, bad = _split(
        records | "Deal" >> beam.FlatMap(_deal, layout).with_outputs(_DEAD, main="good")
    )
    dead.append(bad)
    shards, bad = _split(
        rows
        | "By shard" >> beam.GroupByKey()
        | "Write" >> beam.FlatMap(_write, output, layout).with_outputs(_DEAD, main="good")
    )
    dead.append(bad)
    letters = (
        dead
        | "All dead" >> beam.Flatten()
        | "Dead texts" >> beam.Map(json.dumps, sort_keys=True)
        | "Dead together" >> beam.combiners.ToList()
        | "Dead letters" >> beam.Map(_write_dead, output)
    )
    _ = (
        shards
        | "All shards" >> beam.combiners.ToList()
        | "Manifest" >> beam.Map(_finish, beam.pvalue.AsSingleton(letters), output, layout, about)
    )
    result = pipeline.run()
    result.wait_until_finish()
    return result


def throughput(result) -> dict[str, float]:
    """{"rows", "seconds", "rows_per_second", "model_bytes"} of the model's calls in a result.

    The seconds are those of all workers together, inside the model.
    """
    found = {}
    metrics = result.metrics().query()
    for one in metrics["counters"]:
        found[one.key.metric.name] = one.committed
    for one in metrics["distributions"]:
        found[one.key.metric.name] = one.committed.sum
    rows = found.get("num_inferences", 0)
    seconds = found.get("inference_batch_latency_micro_secs", 0) / 1e6
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds if seconds else 0.0,
        "model_bytes": found.get("model_byte_size", 0),
    }


_DEAD = "dead"


def _split(outputs):
    return outputs["good"], outputs[_DEAD]


def _dead(where, reason, name=None):
    from apache_beam.pvalue import TaggedOutput

    path, row = where
    letter = {"file": path, "row": row, "reason": reason}
    return TaggedOutput(_DEAD, letter if name is None else {**letter, "id": name})


def _read(path, options, encoder, layout):
    """((id, where, payload), prepared value) of each record of a file."""
    for record in read_records(path, options):
        if isinstance(record, BadRecord):
            yield _dead(record.where, record.reason)
            continue
        try:
            name = _checked_id(record.id, layout.id_dtype)
            value = record.value if encoder is None else encoder.prepare(record.value)
        except ValueError as error:
            yield _dead(record.where, str(error), record.id)
            continue
        yield (name, record.where, record.payload), value


def _checked_id(name, id_dtype):
    if id_dtype == "string":
        name = str(name)
        if not name or "\0" in name:
            raise ValueError("an id must be a text without null characters")
        return name
    try:
        number = int(name)
    except ValueError:
        raise ValueError(f"the id {name!r} is no int") from None
    if number == -1 or not -(2**63) <= number < 2**63:
        raise ValueError(f"the id {number} is -1 or not within int64")
    return number


def _deal(record, layout):
    """(shard, (id, where, payload, bytes of the embedding)) of one embedded record."""
    (name, where, payload), vector = record
    if isinstance(vector, Refused):
        yield _dead(where, vector.reason, name)
        return
    width = layout.dims.width
    vector = np.asarray(vector)
    if vector.shape != (width,) or vector.dtype.kind not in "fiu":
        yield _dead(where, f"its embedding is {vector.dtype} {vector.shape}, not ({width},)", name)
        return
    vector = vector.astype(np.float32)
    if not np.isfinite(np.dot(vector, vector)):
        yield _dead(where, "its embedding is not finite", name)
        return
    yield shard_of(name, layout.shards), (name, where, payload, vector.tobytes())


def _write(shard_rows, output, layout):
    """Writes one shard; of records with the same id the first by file and row stays."""
    shard, rows = shard_rows
    rows = sorted(rows, key=lambda row: row[:2])
    kept = []
    for row in rows:
        if kept and kept[-1][0] == row[0]:
            path, number = kept[-1][1]
            yield _dead(row[1], f"its id is that of row {number} of {path}", row[0])
        else:
            kept.append(row)
    names, _, payload, parts = zip(*kept, strict=True)
    vectors = np.frombuffer(b"".join(parts), np.float32).reshape(len(kept), layout.dims.width)
    yield write_shard(output, shard, list(names), vectors, list(payload), layout)


def _write_dead(lines, output):
    write_text(join(output, DEAD_LETTERS), "".join(f"{line}\n" for line in sorted(lines)))
    return len(lines)


def _finish(shards, dead, output, layout, about):
    if not shards:
        raise ValueError(
            f"No record could be embedded. {join(output, DEAD_LETTERS)} says why for {dead}."
        )
    write_corpus(output, shards, layout, {**about, "dead_letters": dead})


def _pipeline_options(given):
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    if not isinstance(given, PipelineOptions):
        given = PipelineOptions(list(given or []))
    standard = given.view_as(StandardOptions)
    # Beam's own default looks for Prism, a program that it downloads.
    standard.runner = standard.runner or "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
    return given


def _beam():
    try:
        import apache_beam
    except ImportError as error:
        raise ImportError(
            "Embedding a corpus needs Apache Beam, which is not installed. Install it with: "
            'pip install "mrl_keras[beam]"'
        ) from error
    return apache_beam
