"""The report's first page: verdicts, pages, what was trained and at what cost, environment."""

from __future__ import annotations

import os
import platform

from mrl_keras.files import exists, join, read_text
from mrl_keras.retrieval.exact.threads import available_cores
from recipes.common.machine import processor_name, versions
from recipes.report.parts.page import page_line, verdict_table
from recipes.report.parts.runs import budget_differences

PACKAGES = ("mrl_keras", "tensorflow", "keras", "numpy", "scikit-learn", "scann", "faiss-cpu")


def index(study, pages, unfinished, command, spent) -> str:
    """Markdown of README.md.

    Args:
        study: `Study`.
        pages: list of `Page`.
        unfinished: names of runs that were left out.
        command: str, that made the report.
        spent: (CPU seconds, wall seconds) of making the report, as far as it was not cached.
    """
    config = study.runs[0].run.config
    seeds = sorted({run.seed for run in study.runs})
    verdicts = [verdict for page in pages for verdict in page.verdicts]
    held = sum(verdict.holds for verdict in verdicts)
    parts = [
        f"# Report on {config.data.name}\n",
        f"MRL with M = {', '.join(map(str, study.dims))}; seeds {', '.join(map(str, seeds))}; "
        f"{len(study.runs)} trained runs of {config.steps:,} steps of {config.batch_size} images. "
        f"{held} of {len(verdicts)} claims hold here. Nothing here is the paper's number unless it "
        'says so: "the paper\'s (ImageNet-1K, ResNet50)".\n',
        "A difference counts when it is above the noise: twice the larger of its standard error "
        "over seeds and its standard error over test examples (paired where both sides are known "
        "example by example). Baselines and reductions are fitted on training images only; "
        "thresholds of the cascade and tuned plans are learned on held-out parts of the test "
        "images and measured on the others, as in the paper. Means are over the seeds that a "
        "model has, differences over those that both have (the table of runs has them).\n",
        "## Claims of the paper\n",
        verdict_table(verdicts),
        "## Pages\n",
        "\n".join(page_line(page) for page in pages) + "\n",
        "## Runs and their cost\n",
        _runs(study),
        *_remarks(study, unfinished),
        "## Environment and commands\n",
        _environment(study, command, spent),
    ]
    return "\n".join(parts)


def _runs(study):
    names = list(dict.fromkeys(run.name for run in study.runs))
    lines, total, wall = [], 0.0, 0.0
    for name in names:
        runs = [run for run in study.runs if run.name == name]
        costs = [run.run.cost() for run in runs]
        spent = sum(cost["cpu_seconds"] for cost in costs)
        total += spent
        wall += sum(cost["wall_seconds"] for cost in costs)
        seeds = ", ".join(str(run.seed) for run in sorted(runs, key=lambda run: run.seed))
        lines.append(f"| {name} | {seeds} | {spent / 60:.1f} |")
    lines.append(f"| all | | {total / 60:.1f} |")
    table = "\n".join(["| model | seeds | CPU minutes |", "|---|---|---:|", *lines])
    return (
        f"{table}\n\nTraining took {total / 3600:.2f} CPU hours in all ({wall / 3600:.2f} hours of "
        "wall time, one run after the other on a machine that did other work too).\n"
    )


def _remarks(study, unfinished):
    for difference in budget_differences(study.runs):
        yield f"Trained otherwise than MRL: {difference}.\n"
    if unfinished:
        yield f"Left out, since training has not come to its end: {', '.join(unfinished)}.\n"


def _environment(study, command, spent):
    installed = [f"{name} {found or 'not installed'}" for name, found in versions(PACKAGES).items()]
    return (
        f"{processor_name()}, {available_cores()} cores. Python {platform.python_version()}, "
        f"{', '.join(installed)}.\n\n"
        f"```bash\n{_training_command(study)}\n{command}\n```\n\n"
        f"Making the report took {spent[0] / 60:.1f} CPU minutes ({spent[1] / 60:.1f} of wall "
        "time), less what an earlier run had cached.\n"
    )


def _training_command(study):
    """What `train_runs.py` noted beside the runs, else which script trained them."""
    parents = {os.path.dirname(run.run.workdir) for run in study.runs}
    notes = [join(parent, "command.txt") for parent in sorted(parents)]
    if all(exists(note) for note in notes):
        return "\n".join(read_text(note).strip() for note in notes)
    names = ", ".join(sorted({run.name for run in study.runs}))
    return f"# {names}: recipes/train.py, one work directory each (or recipes/report/train_runs.py)"
