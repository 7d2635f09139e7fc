"""The runs of a report and what evaluators measure of them, cached by content."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from tqdm.auto import tqdm

from mrl_keras import NestingDims
from mrl_keras.data.image.corruptions import CORRUPTIONS, corrupt
from mrl_keras.evaluation import EvaluationPass, Evaluator, ExampleEvaluator, Outputs, evaluate
from recipes.common.training import load_trained, set_up_task
from recipes.report.parts.cache import ResultCache, call_content
from recipes.report.parts.measured import Measured
from recipes.report.parts.runs import METHODS, TrainedRun
from recipes.tasks.image_classification import encoder_of

SEVERITIES = (1, 2, 3, 4, 5)
MOST_KEPT = 1 << 30
"""Corrupted images of all kinds are kept in memory up to so many bytes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How much is measured.

    Args:
        database: int, at most so many training images as the database of searches and shots, and
            to fit on; 0 is all.
        probe_examples: int, at most so many training examples for linear probes.
        corruption_examples: int, at most so many test images for corruptions.
        plan_queries: int, at most so many test images as queries of plans.
        splits: int, random splits of the cascade.
        novel: str, a TFDS set of classes that no run was trained on, with the splits "train"
            (database, shots) and "test" (queries); empty leaves it out.
        tuning: bool, whether plans are tuned on half of the queries.
        timing: bool, whether searches are timed.
    """

    database: int = 0
    probe_examples: int = 10_000
    corruption_examples: int = 2_000
    plan_queries: int = 2_000
    splits: int = 30
    novel: str = ""
    tuning: bool = True
    timing: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What evaluators read for one cell of a table.

    Args:
        system: str, the table's column, such as "MRL".
        seed: int.
        key: what the outputs depend on, for `ResultCache`.
        outputs: function without arguments that gives the `Outputs`.
    """

    system: str
    seed: int
    key: Mapping
    outputs: Callable[[], Outputs]


class Study:
    """All runs of a report.

    Args:
        runs: list of `TrainedRun`s, an MRL run among them; kept by method, dim and seed.
        cache: `ResultCache`.
        options: `Options`.
        variants: {name: {seed: `Variant`}}, see `find_variants`. Default none.
    """

    def __init__(self, runs, cache: ResultCache, options: Options, variants=None):
        order = {method: place for place, method in enumerate(METHODS.values())}
        self.runs = sorted(
            runs, key=lambda run: (order.get(run.method, len(order)), run.dims.width, run.seed)
        )
        self.cache, self.options, self.variants = cache, options, variants or {}
        self.dims: NestingDims = self.runs[0].dims
        self._kept_images = {}
        self.model = functools.lru_cache(maxsize=1)(self._load_model)

    def of(self, method: str) -> dict[int, TrainedRun]:
        """{seed: run} of a method that has one run for each seed, such as "MRL"."""
        return {run.seed: run for run in self.runs if run.method == method}

    def fixed(self, dim: int) -> dict[int, TrainedRun]:
        """{seed: run} of FF-`dim`."""
        found = [run for run in self.runs if run.method == "FF" and run.dims.width == dim]
        return {run.seed: run for run in found}

    @property
    def prefix_runs(self) -> list[TrainedRun]:
        """The runs of MRL, MRL-E and FF."""
        return [run for run in self.runs if run.method in METHODS.values()]

    @functools.cached_property
    def task(self):
        """The task of the first run, for its images and the names of its classes."""
        return set_up_task(self.runs[0].run.config)

    @functools.cached_property
    def first(self) -> Outputs:
        """The outputs of the first run: labels, and sizes that all runs share."""
        return self.outputs(self.runs[0])

    @property
    def classes(self) -> int:
        return self.first["logits"].shape[-1]

    def outputs(self, run: TrainedRun) -> Outputs:
        """All arrays of the task's evaluation of a run."""
        return self.source(run).outputs()

    def source(self, run: TrainedRun) -> Source:
        """The test images through a run."""

        def compute():
            task, model = self.model(run)
            return task.collect(model)

        return self._kept(run, {"images": "test"}, compute)

    def sources(self, *methods: str) -> list[Source]:
        """`source` of the runs of some methods; without any, of MRL, MRL-E and FF."""
        return [
            self.source(run) for run in self.prefix_runs if not methods or run.method in methods
        ]

    def novel(self, run: TrainedRun) -> Source:
        """Images of novel classes through a run: embeddings and labels, without logits."""
        name = self.options.novel

        def compute():
            task, model = self.model(run)
            return EvaluationPass.of_embeddings(
                encoder_of(model).predict_on_batch,
                task.batches_of(name, "test"),
                run.dims,
                train=task.batches_of(name, "train"),
                interpolated=self.outputs(run).interpolated,
            ).collect()

        return self._kept(run, {"images": name, "splits": ["test", "train"]}, compute)

    def novel_sources(self) -> list[Source]:
        """`novel` of all runs of MRL, MRL-E and FF."""
        return [self.novel(run) for run in self.prefix_runs]

    def corrupted(self, run: TrainedRun) -> Source:
        """Corrupted test images through a run, in the order (kinds, severities, images)."""
        count = self.options.corruption_examples

        def batches(task):
            size, labels = task.config.evaluation.batch_size, task.test_images().labels[:count]
            title = f"Corruptions, {run.name} seed {run.seed}"
            cells = itertools.product(CORRUPTIONS, SEVERITIES)
            for cell in tqdm(list(cells), desc=title, leave=False):
                changed = self._corrupted_images(*cell)
                for i in range(0, len(changed), size):
                    yield changed[i : i + size], labels[i : i + size]

        def compute():
            task, model = self.model(run)
            encoder, head = encoder_of(model), model.get_layer("head")
            return EvaluationPass.of_embeddings(
                encoder.predict_on_batch, batches(task), run.dims, head=head
            ).collect()

        return self._kept(run, {"images": "corrupted", "count": count}, compute)

    def _corrupted_images(self, kind, severity):
        """The corrupted test images; small ones are made once for all runs."""
        if (kind, severity) in self._kept_images:
            return self._kept_images[kind, severity]
        images = self.task.test_images().images[: self.options.corruption_examples]
        changed = corrupt(images, kind, severity)
        if changed.nbytes * len(CORRUPTIONS) * len(SEVERITIES) <= MOST_KEPT:
            self._kept_images[kind, severity] = changed
        return changed

    def classifier(self, run: TrainedRun) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (d, classes) and bias (classes,) of a run's widest classifier."""

        def compute():
            head = self.model(run)[1].get_layer("head")
            kernel = np.asarray(head.kernels[-1])
            bias = np.zeros(kernel.shape[1]) if head.biases is None else head.biases[-1]
            return {"kernel": kernel, "bias": np.asarray(bias)}

        found = self.cache.arrays({"run": run.fingerprint, "part": "classifier"}, compute)
        return found["kernel"], found["bias"]

    def values(self, source: Source, evaluator: Evaluator) -> dict[str, float]:
        """{GROUP/NAME/DIM: value} that an evaluator yields."""
        return dict(
            self.cache.values(
                {**source.key, **call_content(evaluator)},
                lambda: [list(pair) for pair in evaluate(source.outputs(), [evaluator])],
            )
        )

    def each(self, source: Source, evaluator: Evaluator) -> dict[str, np.ndarray]:
        """{GROUP/NAME/DIM: array} of an evaluator's `each`, such as which examples are right."""
        return self.arrays(
            source, call_content(evaluator), lambda: dict(evaluator.each(source.outputs()))
        )

    def arrays(self, source: Source, key: Mapping, compute: Callable) -> dict[str, np.ndarray]:
        """Other arrays of a source, cached; `key` is the `call_content` of what makes them."""
        return self.cache.arrays({**source.key, **key}, compute)

    def measured(
        self, evaluator: Evaluator, sources: Sequence[Source] | None = None
    ) -> dict[str, dict[str, dict[int, Measured]]]:
        """{GROUP/NAME: {system: {dim: `Measured` over the seeds}}}; the dim "all" stays a string.

        Args:
            evaluator: `Evaluator`; an `ExampleEvaluator` gives the values of each example.
            sources: Default None, the test images through all MRL, MRL-E and FF runs.
        """
        paired = isinstance(evaluator, ExampleEvaluator)
        found = {}
        sources = self.sources() if sources is None else sources
        for source in tqdm(sources, desc=type(evaluator).__name__, unit="run"):
            pairs = (self.each if paired else self.values)(source, evaluator)
            for name, value in pairs.items():
                group, _, dim = name.rpartition("/")
                by_dim = found.setdefault(group, {}).setdefault(source.system, {})
                dim = int(dim) if dim.isdigit() else dim
                by_dim.setdefault(dim, {})[source.seed] = value
        examples = len(self.first["labels"])
        return {
            group: {
                system: {
                    dim: Measured.of_examples(v) if paired else Measured(v, examples=examples)
                    for dim, v in sorted(by_dim.items())
                }
                for system, by_dim in systems.items()
            }
            for group, systems in found.items()
        }

    def compute(self):
        """Computes what needs the models of all runs, one after another."""
        for run in tqdm(self.runs, desc="Outputs of runs", unit="run"):
            self.outputs(run)
            if self.options.novel and run.method in METHODS.values():
                self.novel(run).outputs()
            if run in self.fixed(self.dims.width).values():
                self.classifier(run)

    def _kept(self, run, more, compute):
        """The `Source` of a run's outputs, which are computed where the cache lacks them."""
        key = {"run": run.fingerprint, "database": self.options.database, **more}

        def arrays():
            outputs = compute()
            dims = {"dims": list(outputs.dims), "interpolated": list(outputs.interpolated)}
            return {**outputs.arrays, **dims}

        def outputs():
            found = self.cache.arrays(key, arrays)
            dims, between = (found.pop(name).astype(int) for name in ("dims", "interpolated"))
            return Outputs(dims.tolist(), found, between.tolist())

        return Source(run.method, run.seed, key, outputs)

    def _load_model(self, run):
        """(task, model) of a run; the task evaluates with the report's database."""
        keras.backend.clear_session()
        task, model = load_trained(run.run)
        task.config = task.config.copy_and_resolve_references()  # the run's own stays as it was
        task.config.evaluation.database = self.options.database
        return task, model
