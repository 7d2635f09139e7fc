"""How widely runs spread their embeddings, beside what they retrieve of known and novel classes.

    python recipes/report/spread.py --runs runs/mrl_seed0 runs/ff128_seed0 \\
        --novel tiny_imagenet100_novel --output spread.csv

The report's page of novel classes says whether MRL retrieves them as well as FF; this says why. A
row for each run, at its full width: top-1 accuracy of the linear head and of the nearest training
image, mAP@10 among the classes that it was trained on and among those of `--novel`, and the share
of the variance of the training images' embeddings that the first principal components hold. Few
directions for the known classes leave few for others.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from mrl_keras.evaluation import (
    LinearHeadEvaluator,
    NearestNeighboursEvaluator,
    RetrievalEvaluator,
)
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.runs import finished_runs
from recipes.report.parts.study import Options, Study

COMPONENTS = (8, 16, 32)


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--runs", nargs="+", required=True, help="work directories, or folders that hold some")
    add("--novel", required=True, help="TFDS set of classes that no run was trained on")
    add("--cache", default="runs/report-cache", help="folder of what was computed of a run")
    parser.add_measuring("spread.csv")
    return parser.parse_args(arguments), parser


def variance_shares(embeddings, components=COMPONENTS):
    """{number: share of the variance in so many first principal components}, from 0 to 1.

    Args:
        embeddings: floating array (rows, d).
        components: ints; those above d hold all of it.
    """
    covariance = np.atleast_2d(np.cov(np.asarray(embeddings, "float64").T))
    variances = np.linalg.eigvalsh(covariance)[::-1]
    total = variances.sum()
    return {number: float(variances[:number].sum() / total) for number in components}


def rows_of(study):
    """A row for each run of a `Study` with novel classes."""
    for run in study.runs:
        test, novel = study.source(run), study.novel(run)
        width = run.dims.width
        linear = study.each(test, LinearHeadEvaluator())[f"top1/linear/{width}"]
        nearest = study.each(test, NearestNeighboursEvaluator())[f"top1/1nn/{width}"]
        known, unseen = (
            study.values(source, RetrievalEvaluator((10,)))[f"retrieval/mAP@10/{width}"]
            for source in (test, novel)
        )
        shares = variance_shares(test.outputs()["train_embeddings"])
        yield {
            "model": run.name,
            "dims": " ".join(map(str, run.dims)),
            "seed": run.seed,
            "linear": linear.mean(),
            "nearest": nearest.mean(),
            "known_mAP@10": known,
            "novel_mAP@10": unseen,
            **{f"variance_{number}": share for number, share in shares.items()},
        }


def main(arguments=None):
    options, parser = parse_arguments(arguments)
    try:
        runs, _ = finished_runs(options.runs)
        study = Study(runs, ResultCache(options.cache), Options(novel=options.novel))
        rows = list(rows_of(study))
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    for row in rows:
        percents = (f"{name} {100 * row[name]:.1f}" for name in list(row)[3:])
        print(f"{row['model']} ({row['dims']}), seed {row['seed']}: {', '.join(percents)}")
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main()
