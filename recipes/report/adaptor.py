"""A report on embeddings made nested after their training, by `fit_adaptor`, on judged documents.

    python recipes/report/adaptor.py --out recipes/results/beyond --pieces 64

An encoder that was not trained nested embeds SciFact of TensorFlow Datasets. Every prefix is then
compared with plain truncation, PCA, SVD (where an adaptor starts), adaptors without labels and
adaptors with the relevance pairs of other queries, two seeds each. Writes adaptor.md, a CSV file
for each table and a PNG file for the figure.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from mrl_keras.baselines import PCA, SVD, Truncation
from mrl_keras.evaluation import JudgedRetrievalEvaluator, Outputs
from mrl_keras.models import AdaptorOptions, fit_adaptor
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.corpus import Source
from recipes.common.machine import machine_columns
from recipes.report.parts import claims
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, dims_figure, dims_table
from recipes.report.text.encoders import minilm
from recipes.report.text.judged import read_judged
from recipes.report.text.study import JUDGE, LEARN, TextStudy, index_dims

FIRST, PLAIN, PAIRS = "first dims", "adaptor", "adaptor, pairs"


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="folder to write")
    add("--data_dir", default="", help="folder of TFDS; its own where this is empty")
    add("--pieces", type=int, default=256, help="word pieces of a text that the encoder reads")
    add("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of the adaptors")
    add("--steps", type=int, default=AdaptorOptions().steps, help="training steps")
    add("--cache", default="runs/text-report-cache", help="folder of embeddings")
    options = parser.parse_args(arguments)
    options.command = without_folders(options.command)
    return options


def read_study(options):
    """`TextStudy` of SciFact and all-MiniLM-L6-v2."""
    where = {"data_dir": options.data_dir}
    documents = Source("scifact_corpus", "train", ids="id", texts=["title", "text"], **where)
    queries = Source("scifact_queries", texts=["text"], relevant="relevant_ids", **where)
    texts = read_judged(documents, queries, {LEARN: "train", JUDGE: "test"})
    os.makedirs(options.cache, exist_ok=True)
    encoder = minilm(options.cache, options.pieces)
    return TextStudy([encoder], texts, ResultCache(options.cache))


def adapted(study, system, options):
    """The documents and judging queries through a trained adaptor, and its processor seconds.

    Args:
        study: `TextStudy`.
        system: `PLAIN` or `PAIRS`.
        options: `AdaptorOptions`.

    Returns:
        {"documents", "judge", "seconds"}, from the study's cache where it has them.
    """
    encoder, judgements = study.encoders[0], study.texts.judgements[LEARN]

    def compute():
        arrays = study.arrays(encoder)
        rows, pairs = np.concatenate([arrays["documents"], arrays[LEARN]]), None
        if system == PAIRS:
            pairs = arrays[LEARN][judgements[:, 0]], arrays["documents"][judgements[:, 1]]
        start = time.process_time()
        adaptor = fit_adaptor(rows, index_dims(encoder.width), pairs=pairs, options=options)
        seconds = time.process_time() - start
        print(f"{system}, seed {options.seed}: {seconds:.0f} processor seconds", flush=True)
        found = {n: np.concatenate(list(adaptor.chunks(arrays[n]))) for n in ("documents", JUDGE)}
        return {**found, "seconds": np.array(seconds)}

    return study.cache.arrays(
        {**study.key(encoder), "system": system, **dataclasses.asdict(options)}, compute
    )


def systems_of(study, seeds, steps):
    """{system: {seed: {"documents", "judge"}}}; a reduction is the same under every seed."""
    arrays, found = study.arrays(study.encoders[0]), {}
    width = study.encoders[0].width
    for name, reduction in ((FIRST, Truncation()), ("PCA", PCA()), ("SVD", SVD())):
        reduction.fit(np.concatenate([arrays["documents"], arrays[LEARN]]))
        reduced = {n: reduction.transform(arrays[n], width) for n in ("documents", JUDGE)}
        found[name] = dict.fromkeys(seeds, reduced)
    for name in (PLAIN, PAIRS):
        found[name] = {
            seed: adapted(study, name, AdaptorOptions(seed=seed, steps=steps)) for seed in seeds
        }
    return found


def measure(study, systems):
    """{metric: {system: {dim: `Measured`}}} of what `systems_of` gives."""
    evaluator = JudgedRetrievalEvaluator(recall=(min(100, len(study.texts.documents)),))
    dims, found = index_dims(study.encoders[0].width), {}
    for system, by_seed in systems.items():
        each = {}
        for seed, arrays in by_seed.items():
            given = {
                "queries": arrays[JUDGE],
                "documents": arrays["documents"],
                "judgements": study.texts.judgements[JUDGE],
            }
            for name, values in evaluator.each(Outputs(dims, given)):
                each.setdefault(name.partition("/")[2], {})[seed] = values
        for name, values in each.items():
            metric, dim = name.split("/")
            by_dim = found.setdefault(metric, {}).setdefault(system, {})
            by_dim[int(dim)] = Measured.of_examples(values)
    return found


def page(study, measured, seconds, options) -> Page:
    metrics = list(measured)
    parts = [
        dims_table(
            f"adaptor_{metric.replace('@', '_')}",
            metric,
            f"{metric} (%), the mean and standard deviation of seeds where a system has any.",
            systems,
            index_dims(study.encoders[0].width),
        )
        for metric, systems in measured.items()
    ]
    parts.append(
        dims_figure(
            "adaptor",
            f"{metrics[0]} over the dims",
            "Every prefix by itself.",
            f"adaptor_{metrics[0].replace('@', '_')}",
            {study.encoders[0].name: measured[metrics[0]]},
            index_dims(study.encoders[0].width),
            f"{metrics[0]} (%)",
        )
    )
    first, width = measured[metrics[0]], study.encoders[0].width
    full = {width: first[FIRST][width]}
    verdicts = []
    for system in (PLAIN, PAIRS):
        below = {dim: value for dim, value in first[system].items() if dim < width}
        for baseline in (FIRST, "PCA", "SVD"):
            claim = f"{system}: at every prefix at least as good as {baseline} ({metrics[0]})"
            verdicts.append(claims.at_least_as_accurate(claim, below, first[baseline]))
            claim = f"{system}: better than {baseline} at the smallest prefix ({metrics[0]})"
            verdicts.append(claims.better_at_the_lowest(claim, below, first[baseline]))
        claim = f"{system}: at the full width at least as good as the embedding ({metrics[0]})"
        verdicts.append(claims.at_least_as_accurate(claim, first[system], full))
    return Page("adaptor", "Embeddings made nested after training", _about(study, seconds, options),
                parts, verdicts)  # fmt: skip


def _about(study, seconds, options):
    encoder, texts = study.encoders[0], study.texts
    made = ", ".join(str(value) for value in machine_columns().values() if value)
    return (
        f"{encoder.name}: {encoder.about}. {len(texts.documents):,} documents, "
        f"{len(texts.queries[JUDGE]):,} queries that judge. PCA, SVD and "
        f"“{PLAIN}” (`fit_adaptor`, {options.steps} steps) are fitted on the documents and the "
        f"{len(texts.queries[LEARN]):,} training queries, without judgements "
        f"({seconds:.0f} processor seconds a training); “{PAIRS}” also gets the "
        f"{len(texts.judgements[LEARN]):,} judgements of the training queries. A difference "
        "counts when it is above the noise, twice its standard error over the queries, paired "
        "query by query, or over the seeds. With few pieces the embedding itself is weak, which "
        "leaves the pairs more to gain than a better one would.\n\n"
        f"```bash\n{options.command}\n```\n\n{made}."
    )


def main(arguments=None):
    options = parse_arguments(arguments)
    study = read_study(options)
    systems = systems_of(study, options.seeds, options.steps)
    seconds = np.mean([float(one["seconds"]) for one in systems[PLAIN].values()])
    made = page(study, measure(study, systems), seconds, options)
    made.write(options.out)
    for verdict in made.verdicts:
        print(f"{verdict.verdict:20} {verdict.claim}")


if __name__ == "__main__":
    main()
