"""Trains by a config; a second start with the same work directory goes on where it stopped.

    python recipes/train.py --config=recipes/configs/cifar10_resnet.py --workdir=runs/cifar10
    python -m recipes.train --config=recipes/configs/cifar10_resnet.py:tiny --workdir=runs/tiny \\
        --config.steps=20 --config.optimizer.learning_rate=0.1

`--config.NAME=VALUE` sets any value of the config; an unknown name is an error. The work
directory gets config.json, checkpoints/, logs/ (TensorBoard, a curve for each prefix),
cost.json (CPU and wall seconds) and, unless --evaluate=False, results.csv.

SIGTERM, which a preempted machine sends, writes a checkpoint after the next step and ends with the
exit status 75: start me again. So does the loss of another worker, without a new checkpoint. A
service that restarts on failure needs no more; in a shell,

    until python recipes/train.py ...; do [ $? = 75 ] || break; done

Other mistakes end with status 1 and one line.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from absl import flags

from mrl_keras.distribution import STRATEGIES, split_cpu
from recipes.common.config_flags import define_config, define_workdir, run_main
from recipes.common.evaluation import evaluate_run
from recipes.common.run import Run
from recipes.common.training import train


def define_flags(values):
    define_config(values)
    define_workdir(values)
    flags.DEFINE_enum("strategy", "one_device", STRATEGIES, "how to use several devices", values)
    flags.DEFINE_string("tpu", None, "name of the TPU, for --strategy=tpu", values)
    split = "split the CPU, to try --strategy=mirrored without GPUs"
    flags.DEFINE_integer("logical_cpus", 1, split, lower_bound=1, flag_values=values)
    end = "evaluate at the end, where one process trained"
    flags.DEFINE_bool("evaluate", True, end, flag_values=values)


def main(options):
    if options.logical_cpus > 1:
        split_cpu(options.logical_cpus)
    train(options.config, options.workdir, options.strategy, options.tpu)
    if options.evaluate and options.strategy == "one_device":
        evaluate_run(Run.open(options.workdir))


if __name__ == "__main__":
    run_main(main, define_flags)
