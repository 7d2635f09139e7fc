"""A report on leaves that are learned with the encoder (`PrefixCodebook`), against k-means.

    python recipes/report/learned_leaves.py --out=recipes/results/beyond \\
        --runs runs/report/mrl_seed0 runs/report/mrl_seed1

Trains each run of image classification on for `--steps` steps, once as it was trained and once with
a codebook on a small prefix, the same batches and learning rates. Then searches the training images
for test images, and the same of `--novel` classes: a query reads all rows of some leaves, by the
full width. Leaves are the codebook's, or k-means's on the same prefix of either encoder. Writes
codebook.md, codebook.csv and codebook.png. `--runs` may come again, for another data set.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np

from mrl_keras import PrefixCodebook, normalize_prefix
from mrl_keras.data import Sampling
from mrl_keras.evaluation import EvaluationPass, PanelStyle, line_panels
from mrl_keras.retrieval.metrics import average_precision
from mrl_keras.retrieval.partition.clustering import kmeans_centres, nearest_leaves
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import machine_columns
from recipes.common.optimizers import optimizer
from recipes.common.training import load_trained
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.claims import Verdict, verdict
from recipes.report.parts.measured import Measured, difference
from recipes.report.parts.page import Figure, Page, Table, record
from recipes.report.parts.runs import find_runs
from recipes.tasks.image_classification import encoder_of

LEARNED, SAME, WITHOUT = "codebook", "k-means, same encoder", "k-means, encoder without"
SYSTEMS = {LEARNED: True, SAME: True, WITHOUT: False}
"""Whether the encoder was trained with a codebook, for each system."""
ITERATIONS = 50
METRICS = {"recall@10": "of the ten best rows at the full width, those found", "P@10": "of the ten "
           "rows found, those of the query's class", "mAP@10": "the same, ranked"}  # fmt: skip
SHARES = (0.02, 0.05, 0.1, 0.2)
PARTS = {
    "rows": "train_embeddings",
    "labels": "train_labels",
    "queries": "embeddings",
    "query_labels": "labels",
}
CODEBOOK = ("leaves", "dim", "same_leaf", "balance")
BUNDLED = ("made", "digits", "digit_pairs")
K = 10
AT_ONCE, RANKED = 250, 2000


@dataclasses.dataclass(frozen=True)
class Training:
    """How a run is trained on.

    Args:
        steps: int.
        rate: float, the first learning rate as a part of the run's own; its schedule stays.
        leaves: int.
        dim: int, the prefix that is clustered.
        same_leaf, balance: weights of `PrefixCodebook`'s losses.
    """

    steps: int = 390
    rate: float = 0.2
    leaves: int = 64
    dim: int = 8
    same_leaf: float = 10.0
    balance: float = 10.0


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="folder to write")
    runs = "trained runs of one set, or folders that hold some; again for another set"
    add("--runs", nargs="+", action="append", required=True, help=runs)
    add("--novel", default="", help="a TFDS set of classes that no run was trained on")
    add("--queries", type=int, default=1000, help="at most so many test images that search")
    add("--cache", default="runs/codebook-cache", help="folder of embeddings")
    for field in dataclasses.fields(Training):
        kind = type(field.default)
        add(f"--{field.name}", type=kind, default=field.default, help="of `Training`")
    options = parser.parse_args(arguments)
    options.command = without_folders(options.command)
    return options


def with_codebook(model, codebook):
    """The classifier, whose head reads the embedding through a codebook."""
    head = model.get_layer("head")
    return keras.Model(model.input, head(codebook(head.input)), name=model.name)


def first_rate(run, training):
    return round(training.rate * run.run.config.optimizer.learning_rate, 9)


def trained_on(run, training, learned, novel):
    """The arrays of a run that was trained on, with or without a codebook.

    Args:
        run: `TrainedRun`.
        training: `Training`.
        learned: bool, whether a codebook is trained with it.
        novel: str, a TFDS set, or "".

    Returns:
        {"rows", "labels", "queries", "query_labels"} of the run's set, of `novel` with "novel_" in
        front; with a codebook its "centres".
    """
    task, model = load_trained(run.run)
    config = task.config.copy_and_resolve_references()
    config.steps = training.steps
    config.optimizer.update(learning_rate=first_rate(run, training), warmup_steps=0)
    codebook = None
    if learned:
        weights = {"same_leaf": training.same_leaf, "balance": training.balance}
        codebook = PrefixCodebook(training.leaves, training.dim, name="codebook", **weights)
        model = with_codebook(model, codebook)
    model.compile(optimizer(config, model.trainable_variables), task.loss())
    batches = task.train_data(config.batch_size, Sampling(config.seed, 0, 1, 0))
    model.fit(batches, steps_per_epoch=training.steps, verbose=2)
    found = _named(task.collect(model, list(PARTS.values())), "")
    if novel:
        images = {split: task.batches_of(novel, split) for split in ("train", "test")}
        embed = encoder_of(model).predict_on_batch
        one = EvaluationPass.of_embeddings(embed, images["test"], run.dims, train=images["train"])
        found |= _named(one.collect(), "novel_")
    if learned:
        found |= {"centres": codebook.leaf_centres()}
    return found


def _named(outputs, prefix):
    return {prefix + name: np.asarray(outputs[there]) for name, there in PARTS.items()}


def curves(arrays, centres, dim, most):
    """What searches of 1, 2, 4, ... leaves find, and how many rows they read.

    Args:
        arrays: {"rows", "labels", "queries", "query_labels"}.
        centres: float32 (leaves, dim).
        dim: int.
        most: int, queries.

    Returns:
        {metric: array (searches, queries)}, with "read", the share of the rows that a search reads
        (searches,), and "sizes", the rows in each leaf.
    """
    rows, queries = (_unit(arrays[name], None) for name in ("rows", "queries"))
    queries, query_labels = queries[:most], arrays["query_labels"][:most]
    centres = _unit(centres, dim)
    leaves = nearest_leaves(_unit(arrays["rows"], dim), centres)
    sizes = np.bincount(leaves, minlength=len(centres))
    counts = [2**i for i in range(int(np.log2(len(centres))) + 1)]
    prefixes = _unit(arrays["queries"][:most], dim)
    order = np.argsort(-(prefixes @ centres.T), axis=1, kind="stable")
    read = sizes[order].cumsum(axis=1).mean(axis=0) / len(rows)
    found = {name: np.empty((len(counts), len(queries))) for name in METRICS}
    for start in range(0, len(queries), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        scores = queries[part] @ rows.T
        ranked = _best(scores, min(RANKED, len(rows)))
        true = ranked[:, :K]
        # The place of each row's leaf among those that a query opens.
        places = np.empty_like(order[part])
        np.put_along_axis(places, order[part], np.arange(len(centres))[None], axis=1)
        places = places[:, leaves]
        for i, count in enumerate(counts):
            best = _best_opened(scores, ranked, places < count)
            opened = np.take_along_axis(places, best, axis=1) < count
            hits = (best[:, :, None] == true[:, None]).any(axis=2) & opened
            same = (arrays["labels"][best] == query_labels[part, None]) & opened
            found["recall@10"][i, part] = hits.mean(axis=1)
            found["P@10"][i, part] = same.mean(axis=1)
            found["mAP@10"][i, part] = average_precision(same, K)
    return {**found, "read": read[np.array(counts) - 1], "sizes": sizes}


def _unit(rows, dim):
    return np.asarray(normalize_prefix(rows, dim or rows.shape[1]))


def _best(scores, k=K):
    """The rows of the k highest scores, best first: int (queries, k)."""
    found = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _best_opened(scores, ranked, opened):
    """`_best` of the opened rows: the first of those ranked, where enough of them are open."""
    there = np.take_along_axis(opened, ranked, axis=1)
    first = np.argsort(~there, axis=1, kind="stable")[:, :K]
    best = np.take_along_axis(ranked, first, axis=1)
    few = there.sum(axis=1) < K
    best[few] = _best(np.where(opened[few], scores[few], -np.inf))
    return best


def at_share(values, read, share):
    """Each query's value where a share of the rows is read, between the two nearest searches.

    A search of no rows finds nothing.

    >>> at_share(np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([0.1, 0.3]), 0.2).tolist()
    [0.5, 1.0]
    """
    read, values = np.append(0.0, read), np.vstack([np.zeros_like(values[0]), values])
    after = int(np.clip(np.searchsorted(read, share), 1, len(read) - 1))
    low, high = read[after - 1], read[after]
    part = np.clip((share - low) / max(high - low, 1e-12), 0.0, 1.0)
    return (1.0 - part) * values[after - 1] + part * values[after]


def measure(runs, training, novel, most, cache):
    """{set: {system: {seed: `curves`}}} of runs of one data set."""
    found = {}
    for run in runs:
        keys, arrays = {}, {}
        for learned in (False, True):
            own = {"steps": training.steps, "learning_rate": first_rate(run, training)}
            if learned:
                own |= {name: getattr(training, name) for name in CODEBOOK}
            key = {"run": run.fingerprint, "training": own, "novel": novel, "learned": learned}
            arrays[learned] = cache.arrays(
                key, lambda run=run, one=learned: trained_on(run, training, one, novel)
            )
            keys[learned] = key
        names = {"": run.run.config.data.name, "novel_": novel}
        for prefix, system in itertools.product([p for p in names if names[p]], SYSTEMS):

            def compute(run=run, prefix=prefix, system=system, arrays=arrays):
                own = {part: arrays[SYSTEMS[system]][prefix + part] for part in PARTS}
                if system == LEARNED:
                    centres = arrays[True]["centres"]
                else:
                    unit = _unit(own["rows"], training.dim)
                    centres = kmeans_centres(unit, training.leaves, ITERATIONS, run.seed)
                return curves(own, centres, training.dim, most)

            key = {"of": keys[SYSTEMS[system]], "system": system, "set": names[prefix]}
            key |= {"leaves": training.leaves, "dim": training.dim, "queries": most}
            by_seed = found.setdefault(names[prefix], {}).setdefault(system, {})
            by_seed[run.seed] = cache.arrays(key, compute)
    return found


def measured_at(by_seed, metric, share) -> Measured:
    return Measured.of_examples(
        {seed: at_share(one[metric], one["read"], share) for seed, one in by_seed.items()}
    )


def tables(found):
    """A table for each set, and the verdicts on both k-means."""
    made, verdicts, records = [], [], []
    for name, systems in found.items():
        rows = []
        for metric in METRICS:
            for share in SHARES:
                values = {one: measured_at(of, metric, share) for one, of in systems.items()}
                rows.append([metric, f"{100 * share:g} %", *(v.text() for v in values.values())])
                for system, value in values.items():
                    about = {"set": name, "metric": metric, "rows_read": share, "system": system}
                    records.append(about | record(value))
        rows += [[what, "", *texts] for what, texts in balance(systems).items()]
        made.append((name, ["", "rows read", *systems], rows))
        verdicts += compared(name, systems)
    return made, verdicts, records


def balance(systems):
    """{what: a text for each system}: leaves as even ones, the largest, those without rows."""
    found = {"leaves, as even ones": [], "largest leaf, % of the rows": [], "empty leaves": []}
    for by_seed in systems.values():
        sizes = [one["sizes"] / one["sizes"].sum() for one in by_seed.values()]
        logs = [-(one[one > 0] * np.log(one[one > 0])).sum() for one in sizes]
        numbers = (
            np.exp(logs),
            [100 * one.max() for one in sizes],
            [(one == 0).sum() for one in sizes],
        )
        for texts, values in zip(found.values(), numbers, strict=True):
            texts.append(f"{np.mean(values):.1f}")
    return found


def compared(name, systems) -> list[Verdict]:
    made = []
    for other in (SAME, WITHOUT):
        for metric in ("recall@10", "mAP@10"):
            gaps = {
                share: difference(
                    measured_at(systems[LEARNED], metric, share),
                    measured_at(systems[other], metric, share),
                )
                for share in SHARES
            }
            shown = ", ".join(f"{100 * share:g} %: {gap.text()}" for share, gap in gaps.items())
            wins = not any(gap.below for gap in gaps.values())
            wins = wins and any(gap.above for gap in gaps.values())
            claim = f"{name}: the codebook finds more than {other} at equal rows ({metric})"
            made.append(verdict(claim, wins, f"points at rows read of {shown}"))
    return made


def draw(found):
    def panels(path):
        lines = {
            name: {
                system: [
                    (100 * share, 100 * measured_at(of, "recall@10", share).mean)
                    for share in SHARES
                ]
                for system, of in systems.items()
            }
            for name, systems in found.items()
        }
        line_panels(path, lines, "rows read (%)", "recall@10 (%)", PanelStyle())

    return panels


def page(found, training, options) -> Page:
    made, verdicts, records = tables(found)
    parts = [
        Table("codebook", name, "Means over the seeds, in percent; ± their standard deviation.",
              header, rows, records)
        for name, header, rows in made
    ]  # fmt: skip
    says = "A query reads all rows of the leaves that it opens."
    parts.append(Figure("codebook", "recall@10 over the rows read", says, "codebook", draw(found)))
    machine = ", ".join(str(value) for value in machine_columns().values() if value)
    about = (
        f"Trained runs of MRL, trained on for {training.steps} steps (from "
        f"{training.rate:g} of their learning rate) with the same batches, without and with "
        f"`PrefixCodebook({training.leaves}, {training.dim}, same_leaf={training.same_leaf:g}, "
        f"balance={training.balance:g})`. What these weights cost the encoder is in P@10. "
        f"At most {options.queries:,} test images search the "
        "training images. A query opens the leaves whose centres are most similar to its first "
        f"{training.dim} dims, 1, 2, 4, ... of them, and ranks all of their rows by the full "
        "width; between two such searches, and from none, a line is drawn, so that systems are "
        "compared at equal rows read. "
        + "; ".join(f"{metric}: {text}" for metric, text in METRICS.items())
        + f". “{SAME}” clusters the prefix of the encoder that was trained with the codebook, "
        f"“{WITHOUT}” that of the one that was not ({ITERATIONS} iterations, as many leaves). "
        "Leaves are learned from the batches of training, augmented and normalised by their own "
        "statistics, and then hold rows that are embedded without augmentation and by moving "
        "means. A difference counts when it is above the noise, twice its standard error, paired "
        f"query by query, or over the seeds.\n\n```bash\n{options.command}\n```\n\n{machine}."
    )
    return Page("codebook", "Leaves learned with the encoder", about, parts, verdicts)


def main(arguments=None):
    options = parse_arguments(arguments)
    names = [field.name for field in dataclasses.fields(Training)]
    training = Training(**{name: getattr(options, name) for name in names})
    cache, found = ResultCache(options.cache), {}
    for group in options.runs:
        runs = [run for run in find_runs(group)[0] if run.method == "MRL"]
        novel = options.novel if runs[0].run.config.data.name not in BUNDLED else ""
        found |= measure(runs, training, novel, options.queries, cache)
    made = page(found, training, options)
    made.write(options.out)
    for one in made.verdicts:
        print(f"{one.verdict:20} {one.claim}: {one.numbers}")


if __name__ == "__main__":
    main()
