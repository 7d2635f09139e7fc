"""A report of trained runs: the paper's tables and figures for their data, with verdicts.

    python recipes/report/write_report.py --runs runs/report --out runs/report-pages
    python -m recipes.report.write_report --help

Reads work directories of `train.py` (or folders that hold some; `train_runs.py` trains them all):
MRL at least, and MRL-E, FF at every dim and other baselines where they are there. Writes README.md
with a verdict for each claim of the paper, a page for each group of tables, a CSV file for each
table and a PNG file for each figure. What is computed of a run is cached by content: a hash of its
checkpoint, which holds weights and configuration, of what is called with which options, and of the
package's version. Remove the cache's folder after changing the package's evaluators.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import tensorflow as tf
from tqdm.auto import tqdm

from mrl_keras.files import write_text
from recipes.common.arguments import ScriptParser
from recipes.report.pages import (
    ablations,
    accuracy,
    analysis,
    cascade,
    grad_cam,
    in_practice,
    index,
    long_tail,
    novel,
    retrieval,
    transfer,
)
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.page import print_summary
from recipes.report.parts.runs import find_runs, find_variants
from recipes.report.parts.study import Options, Study

PAGES = {
    "accuracy": accuracy.page,
    "cascade": cascade.page,
    "retrieval": retrieval.page,
    "novel": novel.page,
    "in_practice": in_practice.page,
    "few_shot": transfer.few_shot_page,
    "long_tail": long_tail.page,
    "robustness": transfer.robustness_page,
    "disagreement": analysis.disagreement_page,
    "superclass": analysis.superclass_page,
    "grad_cam": grad_cam.page,
    "spans": analysis.spans_page,
    "ablations": ablations.page,
}
LARGEST = 5_000_000


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--runs", nargs="+", required=True, help="work directories, or folders that hold some")
    add("--variants", nargs="+", default=(), help="more such folders: runs with one change each")
    add("--out", type=pathlib.Path, required=True, help="folder to write")
    add("--cache", default="runs/report-cache", help="folder of what was computed of a run")
    add("--pages", nargs="+", choices=PAGES, default=list(PAGES), metavar="PAGE",
        help=f"which of {', '.join(PAGES)}")  # fmt: skip
    add("--skip_unfinished", action="store_true", help="leave out runs that are still in training")
    add("--database", type=int, default=0, help="training images to search and fit on; 0 is all")
    add("--probe_examples", type=int, default=10_000, help="training images of linear probes")
    add("--corruption_examples", type=int, default=2_000, help="test images to corrupt")
    add("--plan_queries", type=int, default=2_000, help="test images as queries of plans")
    add("--novel", default="", help="TFDS set of classes that no run was trained on")
    add("--splits", type=int, default=30, help="random splits of the cascade")
    add("--tuning", action=argparse.BooleanOptionalAction, default=True, help="tune a plan")
    add("--timing", action=argparse.BooleanOptionalAction, default=True, help="time searches")
    options = parser.parse_args(arguments)
    counts = ("probe_examples", "corruption_examples", "plan_queries")
    for name, least in (*((name, 1) for name in counts), ("splits", 2), ("database", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, not {getattr(options, name)}")
    return options, parser


def write_report(study, out, unfinished=(), command="", names=tuple(PAGES)):
    """Writes pages into `out`; gives the verdicts.

    Args:
        study: `Study`.
        out: `pathlib.Path`.
        unfinished: names of runs that were left out. Default none.
        command: str, shown on the first page.
        names: which of `PAGES`. Default all.
    """
    start, study_start = time.time(), time.process_time()
    study.compute()
    pages = []
    for name in tqdm(names, desc="Pages", unit="page"):
        made = PAGES[name](study)
        made.write(out)
        pages.append(made)
    spent = time.process_time() - study_start, time.time() - start
    write_text(out / "README.md", index.index(study, pages, unfinished, command, spent))
    return [verdict for page in pages for verdict in page.verdicts]


def main(arguments=None):
    tf.get_logger().setLevel("ERROR")
    options, parser = parse_arguments(arguments)
    try:
        runs, unfinished = find_runs(options.runs, options.skip_unfinished)
        variants, more = find_variants(options.variants, runs, options.skip_unfinished)
        unfinished += more
        chosen = {name: getattr(options, name) for name in Options.__dataclass_fields__}
        study = Study(runs, ResultCache(options.cache), Options(**chosen), variants)
        verdicts = write_report(study, options.out, unfinished, options.command, options.pages)
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    print_summary(options.out, verdicts, f"{len(runs)} runs", LARGEST)


if __name__ == "__main__":
    main()
