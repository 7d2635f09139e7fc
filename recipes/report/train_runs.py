"""Trains the runs of a report: MRL, MRL-E, FF at every dim and a slimmable network, for some seeds.

    python recipes/report/train_runs.py --config recipes/configs/cifar10_resnet.py --seeds 0 1 2 \\
        --out runs/report --steps 1560 --set checkpoint_every=780 optimizer.warmup_steps=312

Each run is `train.py --evaluate=False` in a work directory OUT/METHOD_seedS, such as mrl_seed0 or
ff8_seed2. Started again it skips what is trained and goes on in the middle of a run that was
stopped. `write_report.py --runs OUT` makes the report; OUT/command.txt has the command for it.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import subprocess
import sys

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import tqdm

from mrl_keras.files import atomic_file
from recipes.common.run import Run

HEADS = {"mrl": "mrl", "mrl_e": "mrl_e", "ff": "ff", "slimmable": "slim"}
COMMAND = "command.txt"
RECIPES = pathlib.Path(__file__).resolve().parents[1]


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, help="path of a config, with :tiny for its tiny mode")
    add("--out", type=pathlib.Path, required=True, help="folder of the work directories")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds")
    add("--dims", type=int, nargs="+", help="dims of the FF runs; default all of M")
    add("--heads", nargs="+", choices=HEADS, default=list(HEADS), help="which methods")
    add("--steps", type=int, help="steps of each run; default the config's")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other values of the config")
    return parser.parse_args(arguments)


def commands(options, dims) -> dict[str, list[str]]:
    """{work directory's name: arguments of train.py}, seed by seed, MRL and MRL-E first.

    Args:
        options: see `parse_arguments`.
        dims: the dims of the FF runs, ascending.
    """
    values = [f"--config.{value}" for value in options.set]
    if options.steps:
        values.insert(0, f"--config.steps={options.steps}")
    found = {}
    for seed in options.seeds:
        for head, name in HEADS.items():
            if head not in options.heads:
                continue
            for dim in (dims[-1], *dims[:-1]) if head == "ff" else (None,):
                chosen = [f"--config.head={head}"]
                chosen += [] if dim is None else [f"--config.ff_dim={dim}"]
                workdir = f"{name}{'' if dim is None else dim}_seed{seed}"
                found[workdir] = [*chosen, f"--config.seed={seed}", *values]
    return found


def nested_dims(config_path):
    """M of a configuration file with its mode, such as "configs/cifar10_resnet.py:tiny"."""
    import importlib.util

    from recipes.tasks.image_classification import nesting_dims

    path, _, mode = config_path.partition(":")
    spec = importlib.util.spec_from_file_location("report_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(nesting_dims(module.get_config(mode)))


def finished(workdir, values) -> bool:
    """Whether a work directory's newest checkpoint is the last.

    Args:
        workdir: `pathlib.Path`.
        values: arguments of train.py, "--config.NAME=VALUE".

    Raises:
        ValueError: its configuration has other values.
    """
    if not (workdir / "config.json").exists():
        return False
    run = Run.open(workdir)
    for argument in values:
        name, _, value = argument.removeprefix("--config.").partition("=")
        there = run.config
        for part in name.split("."):
            there = there.get(part)
        if str(there) != value:
            raise ValueError(f"{workdir} was trained with {name}={there}, not {value}.")
    return run.checkpoints.steps()[-1:] == [run.config.steps]


def main(arguments=None):
    options = parse_arguments(arguments)
    dims = sorted(options.dims or nested_dims(options.config))
    given = map(str, sys.argv[1:] if arguments is None else arguments)
    with atomic_file(options.out / COMMAND) as path:
        text = shlex.join(["python", "recipes/report/train_runs.py", *given])
        pathlib.Path(path).write_text(text + "\n")
    for name, values in tqdm.tqdm(commands(options, dims).items(), desc="Runs", unit="run"):
        workdir = options.out / name
        try:
            done = finished(workdir, values)
        except ValueError as error:
            sys.exit(f"error: {error} Choose another --out.")
        if done:
            tqdm.tqdm.write(f"{name} is trained")
            continue
        command = [sys.executable, str(RECIPES / "train.py"), f"--config={options.config}"]
        command += [f"--workdir={workdir}", "--evaluate=False", *values]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"error: {name} did not train; see above. The same command goes on.")


if __name__ == "__main__":
    main()
