"""A report on networks that may be left after several of their layers, with several dims.

    python recipes/report/nested_layers.py --out recipes/results/beyond

`NestedLayers` with all layers trained at once, beside networks that end at one of them and are
trained for that alone: a small ViT on pairs of digits, and a small BERT on scored pairs of
sentences (`recipes/configs/sts_text_embedder.py`). Then the processor time of the layers of larger
networks with random weights. Writes nested_layers.md, two CSV files and nested_layers.png.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from mrl_keras import CoSENT, MatryoshkaDense, MatryoshkaLoss, NestingDims
from mrl_keras.data import load_images
from mrl_keras.evaluation import PanelStyle, line_panels, spearman
from mrl_keras.files import write_text
from mrl_keras.models import GardenViT, NestedLayers, sentence_pairs, text_embedder
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import machine_columns, write_measurements
from recipes.configs import sts_text_embedder
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.page import markdown_table
from recipes.tasks.text_embedding import Task

DEPTH = 3
ALL = tuple(range(1, DEPTH + 1))
NESTED = "all layers at once"
ALONE = "that layer alone"
LARGE = (2, 4, 6)
"""The layers whose time is measured: a third, two thirds, all."""
TITLES = {"image": "Digit pairs, ViT (top-1, %)", "text": "STS, BERT (Spearman, 100 x)"}


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="folder to write")
    for kind in TITLES:
        add(f"--{kind}_seeds", type=int, nargs="+", default=[0, 1], help="seeds of training")
    add("--kinds", nargs="+", default=list(TITLES), choices=list(TITLES), help="what to train")
    add("--image_steps", type=int, default=400, help="training steps of the ViT")
    add("--text_steps", type=int, default=142, help="training steps of BERT")
    add("--repeats", type=int, default=5, help="timed calls of each layer, in turns")
    add("--cache", default="runs/nested-layers", help="folder of results and the vocabulary")
    options = parser.parse_args(arguments)
    options.command = without_folders(options.command)
    return options


class Images:
    """Pairs of digits, read by a ViT that ends after some blocks."""

    dims = NestingDims.halving(64, 4)

    def __init__(self, options):
        self._found, self.steps = load_images("digit_pairs"), options.image_steps

    def train(self, layers, seed):
        """{(layer, dim): top-1} of a ViT whose last layer is the last of `layers`."""
        keras.utils.set_random_seed(seed)
        images = keras.Input(self._found.image_shape)
        scaled = keras.layers.Rescaling(1 / 8, -1.0)(images)
        vit = GardenViT(4, 64, layers[-1], 4, 128, self._found.image_shape, pooler="gap",
                        output_layers=layers)  # fmt: skip
        nested = NestedLayers(keras.Model(images, vit(scaled)), [f"layer{n}" for n in layers])
        logits = {
            name: MatryoshkaDense(100, self.dims, name=f"{name}_head")(embedding)
            for name, embedding in nested.output.items()
        }
        model = keras.Model(images, logits)
        crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        losses = {name: MatryoshkaLoss(crossentropy) for name in logits}
        train, test = self._found.train, self._found.test
        rows = _rows(len(train), 64, self.steps, seed)
        _fit(model, losses, train.images[rows], train.labels[rows], 64, 2e-3)
        found, right = {}, model.predict(test.images, 500, verbose=0)
        for name, layer in zip(logits, layers, strict=True):
            hits = right[name].argmax(-1) == test.labels[:, None]
            found |= {(layer, d): v for d, v in zip(self.dims, hits.mean(axis=0), strict=True)}
        return found


class Texts:
    """Scored pairs of sentences, read by a BERT that ends after some blocks."""

    dims = NestingDims.halving(64, 4)

    def __init__(self, options):
        config = sts_text_embedder.get_config()
        config.model.length = 20
        self._length, self.steps = config.model.length, options.text_steps
        task = Task(config, options.cache)  # learns the vocabulary once
        self._scores = task.train.scores, task.test.scores
        self._pieces = len(task.vocabulary)
        self._tokens = [
            [task.vocabulary.wordpiece(tf.constant(list(side))) for side in (of.first, of.second)]
            for of in (task.train, task.test)
        ]

    def train(self, layers, seed):
        """{(layer, dim): Spearman's correlation} of a BERT that ends at the last of `layers`."""
        keras.utils.set_random_seed(seed)
        sizes = {"hidden_size": 64, "num_heads": 2, "inner_dim": 128, "num_layers": layers[-1]}
        embedder = text_embedder(
            self._length, vocab_size=self._pieces, output_layers=layers, **sizes
        )
        pairs = sentence_pairs(embedder, self.dims)
        names = [f"cosine_{name}" for name in embedder.layer_names]
        model = keras.Model(pairs.input, {name: pairs.output[name] for name in names})
        rows = _rows(len(self._scores[0]), 64, self.steps, seed)
        x = {
            f"{side}_{name}": np.asarray(values)[rows]
            for side, tokens in zip(("first", "second"), self._tokens[0], strict=True)
            for name, values in tokens.items()
        }
        losses = {name: MatryoshkaLoss(CoSENT(0.05)) for name in names}
        _fit(model, losses, x, self._scores[0][rows], 64, 1e-3)
        found = {}
        sides = [embedder.predict(tokens, 500, verbose=0) for tokens in self._tokens[1]]
        for name, layer in zip(embedder.layer_names, layers, strict=True):
            values = spearman(sides[0][name], sides[1][name], self._scores[1], self.dims)
            found |= {(layer, dim): value for dim, value in values.items()}
        return found


def _rows(count, batch, steps, seed):
    rng, epochs = np.random.default_rng(seed), -(-steps * batch // count)
    return np.concatenate([rng.permutation(count) for _ in range(epochs)])[: steps * batch]


def _fit(model, losses, x, y, batch, rate):
    steps = len(y) // batch
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=rate, warmup_steps=steps // 10
    )
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.01), losses, jit_compile=False)
    model.fit(x, dict.fromkeys(losses, y), batch_size=batch, shuffle=False, verbose=0)


def measure(options):
    """One row for each training, layer and dim: kind, method, seed, layer, dim, value."""
    rows, kinds, cache = [], {"image": Images, "text": Texts}, ResultCache(options.cache)
    plans = [(NESTED, ALL), *((ALONE, (layer,)) for layer in ALL)]
    for kind in options.kinds:
        data = kinds[kind](options)
        plan = [(seed, *one) for seed in getattr(options, f"{kind}_seeds") for one in plans]
        for seed, method, layers in tqdm(plan, desc=kind, unit="run"):

            def compute(data=data, layers=layers, seed=seed):
                found = data.train(layers, seed)
                return [[*key, round(100 * float(value), 3)] for key, value in found.items()]

            key = {"kind": kind, "layers": list(layers), "seed": seed, "steps": data.steps}
            for layer, dim, value in cache.values(key, compute):
                own = {"kind": kind, "method": method, "seed": seed, "layer": layer, "dim": dim}
                rows.append({**own, "value": value})
    return rows


def times(options):
    """One row for each network and layer: processor seconds of a batch, and the share of all."""
    keras.utils.set_random_seed(0)
    sizes = {"hidden_size": 384, "num_layers": LARGE[-1], "num_heads": 6}
    bert = text_embedder(64, vocab_size=8000, output_layers=LARGE, inner_dim=1536, **sizes)
    tokens = {name: np.ones((8, 64), "int32") for name in bert.input}
    images = keras.Input((224, 224, 3))
    vit = GardenViT(16, mlp_dim=1536, pooler="gap", output_layers=LARGE, **sizes)
    vit = NestedLayers(keras.Model(images, vit(images)), [f"layer{n}" for n in LARGE])
    rows = []
    for kind, network, x, batch in (
        ("text", bert, tokens, 8),
        ("image", vit, np.ones((2, 224, 224, 3), "float32"), 2),
    ):
        encoders = [network.encoder(name) for name in network.layer_names]
        for encoder in encoders:
            encoder.compile(jit_compile=False)
            encoder.predict_on_batch(x)
        seconds = np.array([[_seconds(e, x) for e in encoders] for _ in range(options.repeats)])
        shares = np.median(seconds / seconds[:, -1:], axis=0)
        for layer, second, share in zip(LARGE, np.median(seconds, axis=0), shares, strict=True):
            own = {"kind": kind, "layer": layer, "batch": batch}
            own |= {"cpu_seconds": round(float(second), 5), "share": round(float(share), 3)}
            rows.append(own)
    return rows


def _seconds(encoder, x):
    start = time.process_time()
    encoder.predict_on_batch(x)
    return time.process_time() - start


def mean_of(rows, **wanted):
    """(mean, half the distance of the seeds) of the rows that have these values."""
    found = [row["value"] for row in rows if wanted.items() <= row.items()]
    return np.mean(found), (max(found) - min(found)) / 2


def section(kind, rows):
    """A table of one kind, and what it says of the full width."""
    rows = [row for row in rows if row["kind"] == kind]
    dims = sorted({row["dim"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    lines, said = [], [f"Seeds: {', '.join(map(str, seeds))}.\n"]
    for layer in ALL:
        for method in (NESTED, ALONE):
            values = [mean_of(rows, method=method, layer=layer, dim=dim)[0] for dim in dims]
            lines.append([f"{layer} of {DEPTH}", method, *(f"{value:.2f}" for value in values)])
        (ours, noise), (alone, other) = (
            mean_of(rows, method=method, layer=layer, dim=dims[-1]) for method in (NESTED, ALONE)
        )
        gap, noise = ours - alone, noise + other
        verdict = "level" if abs(gap) <= noise else "better" if gap > 0 else "worse"
        verdict = f"{verdict} (noise {noise:.2f})" if len(seeds) > 1 else "one seed, noise unknown"
        said.append(
            f"- After layer {layer}, {dims[-1]} dims: {gap:+.2f} points against a network trained "
            f"for that layer alone: {verdict}."
        )
    table = markdown_table(["layer", "trained", *(f"{dim} dims" for dim in dims)], lines)
    return f"## {TITLES[kind]}\n\n{table}\n\n" + "\n".join(said)


def page(rows, timed, options):
    sections = "\n\n".join(section(kind, rows) for kind in options.kinds)
    names = {"text": "BERT, 64 tokens", "image": "ViT, 224 pixels, patches of 16"}
    table = markdown_table(
        ["network", *(f"{layer} of {LARGE[-1]} layers" for layer in LARGE)],
        [
            [name, *(f"{row['share']:.2f}" for row in timed if row["kind"] == kind)]
            for kind, name in names.items()
        ],
    )
    machine = ", ".join(str(value) for value in machine_columns().values() if value)
    return f"""# Nested layers

One network of {DEPTH} transformer blocks, 64 wide, trained after each of its blocks and at every
prefix at once (`NestedLayers`, a `MatryoshkaLoss` for each layer), beside networks of one, two and
three blocks that are trained at their end alone, all with the same steps. Tables have the mean of
the seeds; noise is the sum of both sides' half distances of two seeds.
The ViT learns {options.image_steps} steps of 64 pairs of digits, BERT {options.text_steps} steps of
64 pairs of sentences.

{sections}

![Quality over the dims, by layer](nested_layers.png)

[CSV](nested_layers.csv)

## Time

Processor time of one batch up to a layer, as a share of all layers: 6 blocks, 384 wide, random
weights, the median of {options.repeats} calls in turns in one process.

{table}

[CSV](nested_layers_time.csv)

```bash
{options.command}
```

{machine}.

[All pages](README.md)
"""


def draw(path, rows, options):
    panels = {}
    for kind in options.kinds:
        lines = panels.setdefault(TITLES[kind], {})
        for method in (NESTED, ALONE):
            for layer in ALL:
                own = {"kind": kind, "method": method, "layer": layer}
                dims = sorted({row["dim"] for row in rows if own.items() <= row.items()})
                short = "nested" if method == NESTED else "alone"
                lines[f"layer {layer}, {short}"] = [
                    (d, mean_of(rows, **own, dim=d)[0]) for d in dims
                ]
    line_panels(path, panels, "dims", "quality", PanelStyle())


def main(arguments=None):
    options = parse_arguments(arguments)
    key = {"times": list(LARGE), "repeats": options.repeats}
    timed = ResultCache(options.cache).values(key, lambda: times(options))
    write_measurements(options.out / "nested_layers_time.csv", timed)
    rows = measure(options)
    write_measurements(options.out / "nested_layers.csv", rows)
    draw(options.out / "nested_layers.png", rows, options)
    text = page(rows, timed, options)
    write_text(options.out / "nested_layers.md", text)
    print(text)


if __name__ == "__main__":
    main()
