"""What weights of the losses do to the smallest and the full width: constants, and such that adapt.

    python recipes/report/importance_sweep.py --config=recipes/configs/digit_pairs.py \\
        --out=runs/importance --results=recipes/results/beyond

Trains an image classification config once for each of `--importance`, separated by semicolons, and
each seed; a run that `--out` holds is not trained again, so that several processes may share the
seeds. "boost" and "boost2" are the paper's 8boost and 8+16boost at the two smallest dims, "xN" is
weight N at the smallest; anything else is what `config.relative_importance` takes.

Writes importance.csv (every run and dim), importance.png
(the smallest dim's accuracy over the full width's) and importance.md, which says of every method
whether constants do as well.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from mrl_keras.evaluation import PanelStyle, line_panels
from mrl_keras.files import exists, join, read_json, write_json, write_text
from mrl_keras.losses import PrefixWeighting
from recipes.common.config_flags import define_config, define_folder, run_main
from recipes.common.machine import write_measurements
from recipes.common.prefixes import adapts
from recipes.common.training import train
from recipes.report.parts.fronts import front, noise_of, verdict
from recipes.report.parts.page import markdown_table
from recipes.tasks.image_classification import Task, nesting_dims

BOOSTS = {"boost": (2.0,), "boost2": (2.0, 1.5)}
DEFAULT = "1;boost;boost2;x4;x0.5;adaloss;uw_so;uw_so:temperature=0.25;famo"


def define_flags(values):
    define_config(values)
    define_folder(values, "out", "folder of the work directories")
    flags.DEFINE_string("results", "recipes/results/beyond", "folder to write", values)
    flags.DEFINE_string("importance", DEFAULT, "what to compare, with semicolons", values)
    flags.DEFINE_list("seeds", ["0", "1"], "seeds of training", values)


def importance_text(name, dims):
    """`config.relative_importance` of a name such as "boost", "x4" or "adaloss".

    >>> importance_text("boost2", [4, 8, 16]), importance_text("x4", [4, 8, 16])
    ('4:2.0,8:1.5', '4:4.0')
    """
    if name == "1":
        return ""
    weights = BOOSTS.get(name)
    if name.startswith("x"):
        weights = (float(name[1:]),)
    if weights is None:
        return name
    return ",".join(f"{dim}:{weight}" for dim, weight in zip(dims, weights, strict=False))


def accuracies(config, workdir):
    """(top-1 accuracies on the evaluation split, last weights) of a run, one for each dim.

    Trains what is not trained, and measures what is not measured.
    """
    path, own = join(workdir, "importance.json"), json.loads(config.to_json())
    if exists(path) and (kept := read_json(path))["config"] == own:
        return kept["top1"], kept["weights"]
    model, task = train(config, workdir, verbose=0), Task(config)
    found = task.collect(model, ["logits", "labels"])
    right = found["logits"].argmax(-1) == found["labels"][:, None]
    weights = model.loss.relative_importance or [1.0] * len(task.dims)
    if isinstance(weights, PrefixWeighting):
        weights = weights.result().values()
    top1, weights = right.mean(axis=0).tolist(), [float(one) for one in weights]
    keras.backend.clear_session()
    write_json(path, {"config": own, "top1": top1, "weights": weights})
    return top1, weights


def measure(options):
    """One row for each run and dim: importance, seed, dim, top1, weight at the end."""
    names, rows = options.importance.split(";"), []
    plan = [(name, int(seed)) for seed in options.seeds for name in names]
    for name, seed in tqdm(plan, desc="Runs", unit="run"):
        config = ConfigDict(options.config)
        config.seed = seed
        config.relative_importance = importance_text(name, nesting_dims(config))
        workdir = join(options.out, f"{name.replace(':', '-').replace('=', '')}_seed{seed}")
        for dim, top1, weight in zip(
            nesting_dims(config), *accuracies(config, workdir), strict=True
        ):
            own = {"importance": name, "seed": seed, "dim": dim}
            rows.append({**own, "top1": round(top1, 5), "weight": round(weight, 4)})
    return rows


def ends(rows):
    """{name: array (seeds, 2)}: top-1 in percent at the smallest dim and at the full width."""
    dims = sorted({row["dim"] for row in rows})
    found = {}
    for dim in (dims[0], dims[-1]):
        for row in rows:
            if row["dim"] == dim:
                found.setdefault(row["importance"], {}).setdefault(dim, []).append(row["top1"])
    return {name: 100 * np.stack(list(of.values()), axis=1) for name, of in found.items()}


def draw(path, means, dims):
    constants = {name: point for name, point in means.items() if not adapts(name)}
    lines = {"constants, their front": [constants[name][::-1] for name in front(constants)]}
    lines |= {name: [point[::-1]] for name, point in means.items()}
    title = f"top-1 accuracy (%), dims {dims[0]} and {dims[-1]}"
    line_panels(path, {title: lines}, "full width", "smallest", PanelStyle(log_base=None))


def page(rows, found, means, options, command):
    dims = sorted({row["dim"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    noise, on_front = noise_of(found), front(means)

    def mean(name, dim, what):
        return np.mean([r[what] for r in rows if (r["importance"], r["dim"]) == (name, dim)])

    table = [
        [name, *(f"{100 * mean(name, dim, 'top1'):.2f}" for dim in dims),
         " ".join(f"{mean(name, dim, 'weight'):.2f}" for dim in dims),
         "yes" if name in on_front else ""]
        for name in means
    ]  # fmt: skip
    header = ["weights", *(f"{dim} dims" for dim in dims), "c at the end", "on the front"]
    constants = [name for name in means if not adapts(name)]
    lines = [
        f"- {name}: {verdict(name, means, noise, constants)}." for name in means if adapts(name)
    ]
    return f"""# Weights that adapt, against constants

Top-1 accuracy (%) on the evaluation split of {options.config.data.name} after
{options.config.steps} steps, the mean of the seeds {", ".join(map(str, seeds))}, of runs that
differ in the weights c_m of Eq. 1 alone. Half the distance of two seeds is {noise:.2f} points on
average; less than that is noise.

{markdown_table(header, table)}

[CSV](importance.csv)

![The smallest dim's accuracy over the full width's](importance.png)

{chr(10).join(lines)}

"boost" is weight 2 at the smallest dim, "boost2" 2 and 1.5 at the two smallest, "xN" N at the
smallest; these were not searched finer. Weights that adapt are `AdaLoss`, `SoftOptimalUncertainty`
(UW-SO) and `FAMO` with their defaults where nothing else is written; their c is that of the last
step. [On frozen features](losses.md) more constants are compared, also on Tiny ImageNet.

```bash
{command}
```

[All pages](README.md)
"""


def main(options):
    rows = measure(options)
    found = ends(rows)
    means = {name: tuple(float(v) for v in values.mean(axis=0)) for name, values in found.items()}
    write_measurements(join(options.results, "importance.csv"), rows)
    draw(join(options.results, "importance.png"), means, nesting_dims(options.config))
    command = shlex.join(["python", "recipes/report/importance_sweep.py", *sys.argv[1:]])
    text = page(rows, found, means, options, command)
    write_text(join(options.results, "importance.md"), text)
    print(text)


if __name__ == "__main__":
    run_main(main, define_flags)
