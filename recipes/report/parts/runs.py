"""The trained runs of a report: found, checked against each other, named by method and seed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence

from mrl_keras import NestingDims
from mrl_keras.checks import differences
from mrl_keras.files import as_path, exists, join, list_names, open_file
from recipes.common.run import Run
from recipes.tasks.image_classification import nesting_dims

METHODS = {"mrl": "MRL", "mrl_e": "MRL-E", "ff": "FF"}
_OWN = ("head", "ff_dim", "slimmable_widths", "seed", "checkpoint_every", "export")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A work directory whose training has come to its end."""

    run: Run

    @property
    def method(self) -> str:
        """ "MRL", "MRL-E", "FF", or the configuration's `head` where it is another one."""
        return METHODS.get(self.run.config.head, self.run.config.head)

    @property
    def name(self) -> str:
        """Such as "MRL" or "FF-8"."""
        return f"FF-{self.run.config.ff_dim}" if self.method == "FF" else self.method

    @property
    def seed(self) -> int:
        return self.run.config.seed

    @property
    def dims(self) -> NestingDims:
        return nesting_dims(self.run.config)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the newest checkpoint, which holds weights and configuration."""
        path = self.run.checkpoints.path(self.run.checkpoints.steps()[-1])
        with open_file(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def find_runs(paths: Sequence, skip_unfinished: bool = False):
    """The runs of work directories, or of folders that hold some.

    Args:
        paths: folders, local or remote.
        skip_unfinished: bool, leave out runs that have not come to their end. Default False.

    Returns:
        (list of `TrainedRun`, names of the folders left out).

    Raises:
        ValueError: a folder without runs, a run without a checkpoint or not at its end, no MRL
            run, two runs of one method, dim and seed, runs of different data sets or of
            different M.
    """
    runs, unfinished = finished_runs(paths, skip_unfinished)
    _check(runs)
    return runs, unfinished


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A run that differs from an MRL run of the report; `changes` are (name, value)."""

    run: TrainedRun
    changes: Sequence[tuple]

    @property
    def name(self) -> str:
        """Such as "spacing uniform" or "FF-128: steps 12480"; of a finetuned run what it trains."""
        changes = dict(self.changes)
        if "init_from" in changes:
            return f"unfrozen: {changes.get('unfrozen', '*')}"
        shown = ", ".join(f"{name} {value}" for name, value in self.changes)
        return shown if self.run.method == "MRL" else f"{self.run.name}: {shown}"


def find_variants(
    paths: Sequence, runs: Sequence[TrainedRun], skip_unfinished: bool = False
) -> tuple[dict[str, dict[int, Variant]], list[str]]:
    """Runs with a change each, by what they changed.

    Args:
        paths: folders, local or remote.
        runs: the report's, an MRL run among them.
        skip_unfinished: bool, leave out runs that have not come to their end. Default False.

    Returns:
        ({name of the variant: {seed: `Variant`}}, names of the folders left out).

    Raises:
        ValueError: a folder without runs, an unfinished run, one without a change or of other
            data, two of one variant and seed.
    """
    first, found = next(run for run in runs if run.method == "MRL"), {}
    finished, unfinished = finished_runs(paths, skip_unfinished)
    for run in finished:
        _check_data([first, run])
        changes = differences(_shared(run), _shared(first), absent="")
        changes = [(name, one) for name, one, _ in changes]
        if not changes:
            raise ValueError(f"{run.run.workdir} has the configuration of the report's runs.")
        variant = Variant(run, changes)
        by_seed = found.setdefault(variant.name, {})
        if run.seed in by_seed:
            raise ValueError(
                f"{run.run.workdir} and {by_seed[run.seed].run.run.workdir} are both "
                f"{variant.name!r} of seed {run.seed}. Give one of them."
            )
        by_seed[run.seed] = variant
    return found, unfinished


def finished_runs(
    paths: Sequence, skip_unfinished: bool = False
) -> tuple[list[TrainedRun], list[str]]:
    """(runs of any task, names of the folders left out); arguments and errors of `find_runs`."""
    runs, unfinished = [], []
    for workdir in dict.fromkeys(folder for path in paths for folder in _workdirs(path)):
        run, mistake = Run.open(workdir), None
        steps = run.checkpoints.steps()
        if not steps:
            mistake = f"{workdir} holds no checkpoint; train there first (train.py)."
        elif steps[-1] < run.config.steps:
            mistake = (
                f"{workdir} is at step {steps[-1]} of {run.config.steps}; train it to its end "
                "(train.py with the same --workdir goes on), or give --skip_unfinished."
            )
        if mistake and not skip_unfinished:
            raise ValueError(mistake)
        if mistake:
            unfinished.append(os.path.basename(os.path.normpath(workdir)))
        else:
            runs.append(TrainedRun(run))
    return runs, unfinished


def budget_differences(runs: Sequence[TrainedRun], method: str = "MRL") -> list[str]:
    """What differs between the first run's of a method and the others' configuration, a line each.

    Method, FF dim, seed and the steps between checkpoints are meant to differ. An empty value is
    as good as none: configurations of different ages do not have the same keys.
    """
    wanted = _shared(next(run for run in runs if run.method == method))
    lines = {}
    for run in runs:
        found = _difference(_shared(run), wanted)
        if found:
            lines.setdefault(found, []).append(f"{run.name} (seed {run.seed})")
    return [f"{', '.join(names)}: {found} ({method})" for found, names in lines.items()]


def _shared(run):
    config = run.run.config.to_dict()
    return {key: value for key, value in config.items() if key not in _OWN and value != ""}


def _difference(there, here):
    """What differs between two configurations, as text."""
    found = differences(there, here, absent="absent")
    return ", ".join(f"{name} is {one!r} there and {other!r} here" for name, one, other in found)


def _workdirs(path):
    path = as_path(path)
    if exists(join(path, "config.json")):
        return [path]
    inner = [join(path, name) for name in list_names(path)]
    inner = [folder for folder in inner if exists(join(folder, "config.json"))]
    if not inner:
        raise ValueError(
            f"{path} is no run and holds none: there is no config.json. Give work directories of "
            "recipes/train.py, or a folder of such."
        )
    return inner


def _check(runs):
    if not any(run.method == "MRL" for run in runs):
        raise ValueError(
            f"There is no finished MRL run among {[run.name for run in runs]}. Train one "
            "(train.py with --config.head=mrl)."
        )
    _check_data(runs)
    seen = {}
    for run in runs:
        key = run.name, run.seed
        if key in seen:
            raise ValueError(
                f"{run.run.workdir} and {seen[key]} are both {run.name} of seed {run.seed}. "
                "Give one of them."
            )
        seen[key] = run.run.workdir
    nested = {tuple(run.dims): run.run.workdir for run in runs if run.method in ("MRL", "MRL-E")}
    if len(nested) > 1:
        raise ValueError(f"MRL and MRL-E runs must have the same dims. Received {nested}.")


def _check_data(runs):
    first = runs[0]
    for run in runs:
        data, other = (r.run.config.data.to_dict() for r in (run, first))
        found = _difference({"data": data}, {"data": other})
        if found:
            raise ValueError(
                f"The runs are of different data: {run.run.workdir} and {first.run.workdir}: "
                f"{found}. Give runs of one data set."
            )
