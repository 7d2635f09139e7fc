"""Weights and losses of the prefixes, compared on features of networks that stay as they are.

    python recipes/train.py --config=recipes/configs/tiny_imagenet_resnet.py \\
        --workdir=runs/tiny_trunk --evaluate=False --config.steps=585 \\
        --config.checkpoint_every=585 --config.optimizer.warmup_steps=58 \\
        --config.model.options.projection=True
    python recipes/report/prefix_losses.py --run runs/tiny_trunk --out recipes/results/beyond

A small network with a nested head is trained on frozen features once for each method and seed:
constant weights, weights that adapt, and losses for the smallest prefixes alone. That takes
seconds, so that constants can be searched too. Three settings: Tiny ImageNet through the trunk of a
run of `recipes/configs/tiny_imagenet_resnet.py`, with the 100 classes that it was trained on and
100 others; the pixels of digit_pairs; and SciFact through the static token embeddings of the
package wordllama. `--settings` leaves some out.

A shortlist holds 200 rows. Writes losses.md, losses.csv and losses.png.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.evaluation import PanelStyle, line_panels
from mrl_keras.files import write_text
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import machine_columns, write_measurements
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.fronts import front, noise_of, verdict
from recipes.report.parts.page import markdown_table
from recipes.report.parts.prefix_training import METHODS, is_constant, is_loss
from recipes.report.prefix_settings import RECALL, SETTINGS

ABOUT = {
    "boost": "weight 2 at the smallest prefix",
    "boost2": "weights 2 and 1.5 at the two smallest",
    "x4": "weight 4 at the smallest",
    "less": "weight 0.5 at the smallest",
    "less2": "weights 0.25 and 0.5 at the two smallest",
    "recall": "`RecallAtK` at the two smallest prefixes beside their own loss, for rows of a batch "
    "that are as many of it as the shortlist is of all",
    "distil": "`SelfDistillation` at the two smallest",
}


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="folder to write")
    add("--run", default="", help="work directory whose trunk reads Tiny ImageNet")
    add("--cache", default="runs/losses-cache", help="folder of features and results")
    add("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), help="what on")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="of what")
    add("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of training")
    add("--steps", type=int, default=0, help="training steps; 0 is each setting's own number")
    options = parser.parse_args(arguments)
    if "1" not in options.methods or ("tiny_imagenet" in options.settings and not options.run):
        parser.error("--methods needs 1, and the setting tiny_imagenet needs --run")
    options.command = without_folders(options.command)
    return options


def measure(setting, options):
    """One row for each method, seed and measure: `setting`, ..., `value` in percent."""
    rows, cache = [], ResultCache(options.cache)
    plan = [(method, seed) for seed in options.seeds for method in options.methods]
    for method, seed in tqdm(plan, desc=setting.name, unit="run"):

        def compute(method=method, seed=seed):
            found = setting.train(method, seed, options.steps)
            return [[*key, round(100 * value, 3)] for key, value in found.items()]

        own = {"setting": setting.name, "method": method, "seed": seed}
        key = {**own, "about": setting.about, "steps": options.steps or setting.steps}
        for measure, dim, value in cache.values(key, compute):
            rows.append({**own, "measure": measure, "dim": dim, "value": value})
    return rows


@dataclasses.dataclass(frozen=True)
class Found:
    """What was measured on one setting.

    Attributes:
        setting: see `recipes.report.prefix_settings`.
        values: {(method, measure, dim): array (seeds,), in percent}.
    """

    setting: object
    values: dict

    @classmethod
    def of(cls, setting, rows):
        values = {}
        for row in rows:
            key = row["method"], row["measure"], row["dim"]
            values.setdefault(key, []).append(row["value"])
        return cls(setting, {key: np.array(value) for key, value in values.items()})

    @property
    def methods(self):
        return list(dict.fromkeys(method for method, _, _ in self.values))

    def table(self):
        columns = list(dict.fromkeys(key[1:] for key in self.values))
        rows = [
            [method, *(f"{self.values[method, *column].mean():.2f}" for column in columns)]
            for method in self.methods
        ]
        return markdown_table(["method", *(f"{what}, {dim}" for what, dim in columns)], rows)

    def ends(self, small):
        """{method: array (seeds, 2)} of a measure at the smallest prefix, and the full width's."""
        return {
            method: np.stack([self.values[method, *small], self.values[method, *self.setting.full]],
                             axis=1)
            for method in self.methods
        }  # fmt: skip

    def says(self, names, small):
        """A sentence for each of the methods `names`, against the constants."""
        found = self.ends(small)
        means = {name: tuple(values.mean(axis=0)) for name, values in found.items()}
        noise, constants = noise_of(found), [name for name in means if is_constant(name)]
        lines = []
        for name in names:
            gains = np.subtract(means[name], means["1"])
            lines.append(
                f"- {name}, {small[0]} at {small[1]} dims and {self.setting.full[0]} at "
                f"{self.setting.full[1]}: {gains[0]:+.2f} and {gains[1]:+.2f} points against "
                f"ones; {verdict(name, means, noise, constants)}."
            )
        return lines

    def points(self, small):
        means = {name: values.mean(axis=0) for name, values in self.ends(small).items()}
        constants = {name: tuple(v) for name, v in means.items() if is_constant(name)}
        lines = {"constants, their front": [constants[name][::-1] for name in front(constants)]}
        return lines | {name: [tuple(value)[::-1]] for name, value in means.items()}


def section(found):
    """The part of the page on one setting."""
    setting = found.setting
    weights = [n for n in found.methods if not is_constant(n) and not is_loss(n)]
    losses = [n for n in found.methods if is_loss(n)]
    lines = found.says(weights, setting.small)
    for dim in setting.dims[:2]:
        lines += found.says(losses, (RECALL, dim))
    return f"## {setting.title}\n\n{setting.about}\n\n{found.table()}\n\n" + "\n".join(lines)


def page(all_found, options):
    about = "; ".join(f'"{name}" is {what}' for name, what in ABOUT.items())
    sections = "\n\n".join(section(found) for found in all_found)
    machine = ", ".join(str(value) for value in machine_columns().values() if value)
    return f"""# Weights and losses of the prefixes, on frozen features

A two-layer network with a nested output is trained on features that stay as they are, with the
same batches and steps for all methods; the mean of the seeds {", ".join(map(str, options.seeds))},
in percent. {about}. Weights that adapt have their defaults. A method is "ahead" where no constant
comes as near as half the distance of two seeds at both of the ends that its line names. All
methods read the same few seeds, so that small leads among many comparisons mean little.

{sections}

![A shortlist's recall at the smallest prefix over the full width's quality](losses.png)

[CSV](losses.csv)

```bash
{options.command}
```

{machine}.

[All pages](README.md)
"""


def main(arguments=None):
    options = parse_arguments(arguments)
    rows, all_found = [], []
    for name in options.settings:
        setting = SETTINGS[name](options)
        own = measure(setting, options)
        rows += own
        all_found.append(Found.of(setting, own))
        # After each setting, so that a run that is stopped has written what it has.
        write_measurements(options.out / "losses.csv", rows)
        write_text(options.out / "losses.md", page(all_found, options))
    panels = {}
    for found in all_found:
        dim = found.setting.dims[0]
        panels[f"{found.setting.title}: {RECALL} at {dim} dims"] = found.points((RECALL, dim))
    style = PanelStyle(log_base=None)
    line_panels(options.out / "losses.png", panels, "full width", "smallest", style)
    print(page(all_found, options))


if __name__ == "__main__":
    main()
