"""Exports a trained run: encoder, classifier or cascade, nested index and a tuned plan.

    python recipes/export.py --workdir=runs/cifar10 --output=saved_models/cifar10

Embeds and indexes the training split, chooses a search plan and a cascade's thresholds by held-out
queries of the evaluation split, and writes a SavedModel into the next free version of the output
folder, with the metrics of every prefix, the plan and how it was chosen in its manifest. A version
is never overwritten; README.md beside it is the newest version's card. A run that is killed while
it embeds goes on by the same command. Each flag is also a key of `config.export`.
"""

import os
import pathlib
import shlex
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from recipes.common.config_flags import define_folder, define_workdir, run_main
from recipes.common.export_options import define_export_flags, export_options
from recipes.common.exporting import export_run
from recipes.common.run import Run


def define_flags(values):
    define_workdir(values)
    define_folder(values, "output", "folder of the versions")
    define_export_flags(values)


def main(options):
    run = Run.open(options.workdir)
    chosen = export_options(run.config, options.flag_values_dict())
    command = shlex.join(["python", "recipes/export.py", *sys.argv[1:]])
    path = export_run(run, options.output, chosen, command)
    print(f"Exported {path}")


if __name__ == "__main__":
    run_main(main, define_flags)
