"""Trains the runs of a report: MRL, MRL-E, FF at every dim and a slimmable network, for some seeds.

    python recipes/report/train_runs.py --config=recipes/configs/cifar10_resnet.py --seeds=0,1,2 \\
        --out=runs/report --config.steps=1560 --config.checkpoint_every=780 \\
        --config.optimizer.warmup_steps=312

Each run is `train.py --evaluate=False` in a work directory OUT/METHOD_seedS, such as mrl_seed0 or
ff8_seed2, with the values that `--config.NAME=VALUE` sets. Started again it skips what is trained
and goes on in the middle of a run that was stopped. `write_report.py --runs OUT` makes the report;
OUT/command.txt has the command for it.

`--at_once=2` trains two runs at a time, each on half of the cores: small networks leave cores idle,
so that two runs on one core each are done sooner than one after the other on both. On CPUs without
AVX-512, TF_ENABLE_ONEDNN_OPTS=1 in the environment makes TensorFlow use oneDNN there too.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys
import threading

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from absl import flags
from ml_collections import config_flags
from tqdm.auto import tqdm

from mrl_keras.files import exists, join, write_text
from mrl_keras.retrieval.exact.threads import available_cores
from recipes.common.config_flags import define_config, define_folder, run_main
from recipes.common.run import Run
from recipes.common.task import task_module

HEADS = {"mrl": "mrl", "mrl_e": "mrl_e", "ff": "ff", "slimmable": "slim"}
COMMAND = "command.txt"
RECIPES = pathlib.Path(__file__).resolve().parents[1]


def define_flags(values):
    define_config(values)
    define_folder(values, "out", "folder of the work directories")
    flags.DEFINE_list("seeds", "0,1,2", "seeds", values)
    flags.DEFINE_list("dims", [], "dims of the FF runs; empty is all of M", values)
    flags.DEFINE_list("heads", list(HEADS), f"which of {', '.join(HEADS)}", values)
    flags.DEFINE_integer("at_once", 1, "runs that train at a time, each on its part of the cores",
                         1, flag_values=values)  # fmt: skip


def planned_runs(options) -> dict[str, dict[str, object]]:
    """{work directory's name: {name in the config: value}}, seed by seed, MRL and MRL-E first.

    Raises:
        ValueError: seeds or dims that are not ints, or an unknown head.
    """
    unknown = [head for head in options.heads if head not in HEADS]
    if unknown:
        raise ValueError(f"--heads must be some of {list(HEADS)}. Received {unknown}.")
    seeds = [int(seed) for seed in options.seeds]
    dims = sorted(int(dim) for dim in options.dims) or _trained_dims(options.config)
    given = config_flags.get_override_values(options["config"])
    found = {}
    for seed in seeds:
        for head, name in HEADS.items():
            if head not in options.heads:
                continue
            for dim in (dims[-1], *dims[:-1]) if head == "ff" else (None,):
                own = {"head": head, "seed": seed} | ({} if dim is None else {"ff_dim": dim})
                found[f"{name}{'' if dim is None else dim}_seed{seed}"] = {**given, **own}
    return found


def _trained_dims(config):
    """M of a configuration; `nesting_dims` is a function of the tasks that have FF runs."""
    task = task_module(config)
    if not hasattr(task, "nesting_dims"):
        raise ValueError(
            f"The task {config.task!r} has no models of one dim. Train it by train.py."
        )
    return list(task.nesting_dims(config))


def is_finished(workdir, values) -> bool:
    """Whether a work directory's newest checkpoint is the last.

    Args:
        workdir: str, local or remote.
        values: {name in the config: value}.

    Raises:
        ValueError: its configuration has other values.
    """
    if not exists(join(workdir, "config.json")):
        return False
    run = Run.open(workdir)
    for name, value in values.items():
        there = run.config
        for part in name.split("."):
            there = there.get(part)
        if there != value:
            raise ValueError(
                f"{workdir} was trained with {name}={there}, not {value}. Choose another --out."
            )
    return run.checkpoints.steps()[-1:] == [run.config.steps]


def main(options):
    out, config = options.out, config_flags.get_config_filename(options["config"])
    runs = planned_runs(options)
    command = shlex.join(["python", "recipes/report/train_runs.py", *sys.argv[1:]])
    write_text(join(out, COMMAND), f"{command}\n")
    left = {}
    for name, values in runs.items():
        if is_finished(join(out, name), values):
            print(f"{name} is trained")
        else:
            left[name] = values
    bar, failed = tqdm(total=len(left), desc="Runs", unit="run"), threading.Event()

    def train(name, values):
        if failed.is_set():  # no run begins after another has failed or was stopped
            return 0
        status = _train(config, join(out, name), values, options.at_once)
        if status:
            failed.set()
        return status

    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        trained = {pool.submit(train, name, values): name for name, values in left.items()}
        for done in concurrent.futures.as_completed(trained):
            if done.result():
                raise SystemExit(
                    f"error: {trained[done]} did not train; see above. The same command goes on."
                )
            bar.update()


def _train(config, workdir, values, at_once):
    """The exit status of `train.py`; its output is shown where it is alone or fails."""
    command = [sys.executable, str(RECIPES / "train.py"), f"--config={config}"]
    command += [f"--workdir={workdir}", "--evaluate=False"]
    command += [f"--config.{key}={value}" for key, value in values.items()]
    if at_once == 1:
        return subprocess.run(command, check=False).returncode
    threads = str(max(1, available_cores() // at_once))
    environment = {"TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    found = subprocess.run(command, env=os.environ | environment, check=False, **output)
    if found.returncode:
        tqdm.write(found.stdout[-4000:])
    return found.returncode


if __name__ == "__main__":
    run_main(main, define_flags)
