"""A report on masked language models: MRL-E beside one model for each dim (Table 7).

    python recipes/report/train_runs.py --config=recipes/configs/wikitext2_mlm.py \\
        --heads=mrl_e,ff --dims=8,16,32,64,128 --seeds=0,1 --out=runs/wikitext2
    python recipes/report/masked_tokens.py --runs runs/wikitext2 --out runs/masked-tokens

Measures every prefix on the masked tokens of the evaluation split, whose masks are the same for
all runs, and writes README.md with the verdict of the paper's claim, a CSV file for each table and
a PNG file for the figure. Scores are cached by the checkpoint's content.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from mrl_keras.evaluation import Outputs
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import machine_columns
from recipes.common.training import load_trained
from recipes.report.parts import claims
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, dims_figure, dims_table, print_summary
from recipes.report.parts.paper import paper_table
from recipes.report.parts.runs import budget_differences, finished_runs

LARGEST = 300_000
NESTED, FIXED = "MRL-E", "FF"
CLAIM = f"{NESTED} is at least as accurate as {FIXED} at every dim, within the noise"


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--runs", nargs="+", required=True, help="work directories, or folders of such")
    add("--out", type=pathlib.Path, required=True, help="folder to write")
    add("--cache", default="runs/report-cache", help="folder of what was computed")
    options = parser.parse_args(arguments)
    options.command = without_folders(options.command)
    return options, parser


def find(paths):
    """The finished runs of masked language models: `TrainedRun`s.

    Raises:
        ValueError: an unfinished run, another task, no run of MRL-E or none of FF, or two runs
            of one method, dim and seed.
    """
    runs, _ = finished_runs(paths)
    seen = {}
    for run in runs:
        if run.run.config.get("task") != "masked_lm":
            raise ValueError(
                f"{run.run.workdir} is a run of the task {run.run.config.get('task')!r}. Give "
                "runs of masked language models."
            )
        other = seen.setdefault((run.name, run.seed), run.run.workdir)
        if other != run.run.workdir:
            raise ValueError(
                f"{run.run.workdir} and {other} are both {run.name} of seed {run.seed}. Give one "
                "of them."
            )
    for method in (NESTED, FIXED):
        if all(run.method != method for run in runs):
            raise ValueError(
                f"There is no {method} run among {[run.name for run in runs]}. Train one "
                "(train_runs.py with --heads=mrl_e,ff)."
            )
    return runs


def outputs_of(run, cache) -> Outputs:
    """The scores of the masked tokens by a run, from the cache where it has them."""

    def compute():
        task, model = load_trained(run.run)
        found = task.collect(model)
        names = ("token_scores", "token_labels", "piece_counts")
        arrays = {name: found[name] for name in names if name in found}
        return {**arrays, "dims": np.array(found.dims), "all": np.array(found.all_dims)}

    arrays = cache.arrays({"run": run.fingerprint, "scores": "masked tokens"}, compute)
    dims, every = arrays.pop("dims").tolist(), arrays.pop("all").tolist()
    return Outputs(dims, arrays, [dim for dim in every if dim not in dims])


def measure(runs, cache):
    """({system: {dim: `Measured`}} of accuracy, the same of crossentropy, share of the most
    frequent piece).

    Raises:
        ValueError: runs whose masked tokens differ.
    """
    labels, majority, scores = None, None, {}
    for run in runs:
        found = outputs_of(run, cache)
        if labels is None:
            labels = found["token_labels"]
            if "piece_counts" in found:
                majority = float(np.mean(labels == found["piece_counts"].argmax()))
        if not np.array_equal(labels, found["token_labels"]):
            raise ValueError(
                f"{run.run.workdir} and {runs[0].run.workdir} have other masked tokens. Give runs "
                "of one data set and vocabulary."
            )
        for place, dim in enumerate(found.all_dims):
            by_seed = scores.setdefault(run.method, {}).setdefault(dim, {})
            by_seed[run.seed] = found["token_scores"][:, place]
    kinds = (
        {
            system: {
                dim: Measured.of_examples({seed: one[:, kind] for seed, one in by_seed.items()})
                for dim, by_seed in sorted(dims.items())
            }
            for system, dims in sorted(scores.items(), reverse=True)
        }
        for kind in (1, 0)
    )
    return *kinds, majority


def page(runs, cache, command) -> Page:
    """The report's only page."""
    accuracy, crossentropy, majority = measure(runs, cache)
    dims = sorted(accuracy[FIXED])
    tokens = next(iter(accuracy[FIXED].values())).examples
    paper = paper_table(
        7, {"dims": "dims", "FF": "bert_ff", "MRL": "bert_mrl"},
        "BERT-Base on Wikipedia and BooksCorpus, d = 768",
    )  # fmt: skip
    return Page(
        "README",
        "Masked language models at every prefix (Table 7)",
        _about(runs, tokens, majority, command),
        [
            dims_table("top1", "Accuracy on masked tokens (Table 7)", "Top-1 accuracy (%).",
                       accuracy, dims, paper=paper),
            dims_figure("top1_figure", "Accuracy over the dims (Table 7)",
                        "Hollow markers lie half-way between trained dims.", "top1",
                        {"masked tokens": accuracy}, dims, "top-1 accuracy (%)"),
            dims_table("crossentropy", "Crossentropy on masked tokens", "In nats.", crossentropy,
                       dims, scale=1.0, digits=3),
        ],
        [claims.at_least_as_accurate(CLAIM, accuracy[NESTED], accuracy[FIXED])],
    )  # fmt: skip


def _about(runs, tokens, majority, command):
    config = runs[0].run.config
    minutes = sum(run.run.cost()["cpu_seconds"] for run in runs) / 60
    machine = machine_columns()
    lines = [
        f"{len(runs)} runs on {config.data.name}, {config.steps:,} steps of {config.batch_size} "
        f"sequences of {config.length} tokens each, {minutes:.0f} CPU minutes; {NESTED} is trained "
        f"at all dims at once, each {FIXED} at one. {tokens:,} masked tokens of the evaluation "
        "split, one fixed mask. A difference counts when it is above the noise: twice the larger "
        "of its standard error over seeds and over tokens, paired token by token."
    ]
    if majority is not None:
        lines.append(f"The most frequent piece alone is right in {100 * majority:.2f} %.")
    unlike = budget_differences(runs, NESTED)
    lines += [f"The runs differ beyond head and seed: {one}." for one in unlike]
    lines.append(f"{', '.join(f'{name} {value}' for name, value in machine.items())}.")
    return "\n\n".join([*lines, f"```bash\n{command}\n```"])


def main(arguments=None):
    options, parser = parse_arguments(arguments)
    try:
        runs = find(options.runs)
        os.makedirs(options.cache, exist_ok=True)
        made = page(runs, ResultCache(options.cache), options.command)
    except ValueError as error:
        parser.error(str(error))
    made.write(options.out)
    print_summary(options.out, made.verdicts, f"{len(runs)} runs", LARGEST)


if __name__ == "__main__":
    main()
