"""The runs of a report with what is computed of each once: embeddings, logits, neighbours."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import keras
import numpy as np
import tqdm

from mrl_keras import NestingDims
from mrl_keras.data.image.corruptions import CORRUPTIONS, corrupt
from mrl_keras.retrieval import exact_search
from recipes.common.training import load_trained, set_up_task
from recipes.report.parts.cache import ResultCache
from recipes.report.parts.runs import METHODS, TrainedRun
from recipes.tasks.image_classification import encoder_of

NEIGHBOURS = 100


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
        tuning: bool, whether plans are tuned on half of the queries.
        timing: bool, whether searches are timed.
    """

    database: int = 0
    probe_examples: int = 10_000
    corruption_examples: int = 2_000
    plan_queries: int = 2_000
    splits: int = 30
    tuning: bool = True
    timing: bool = True


class Study:
    """All runs of a report.

    Args:
        runs: list of `TrainedRun`s, an MRL run among them; kept by method, dim and seed.
        cache: `ResultCache`.
        options: `Options`.
    """

    def __init__(self, runs, cache: ResultCache, options: Options):
        order = {method: place for place, method in enumerate(METHODS.values())}
        self.runs = sorted(
            runs, key=lambda run: (order.get(run.method, len(order)), run.dims.width, run.seed)
        )
        self.cache, self.options = cache, options
        first = self.runs[0]
        self.dims: NestingDims = first.dims
        self.all_dims: NestingDims = first.dims.with_interpolated()
        self._models = functools.lru_cache(maxsize=1)(self._restored)
        self._task = functools.lru_cache(lambda: set_up_task(self.runs[0].run.config))

    def of(self, method: str) -> dict[int, TrainedRun]:
        """{seed: run} of a method that has one run for each seed, such as "MRL"."""
        return {run.seed: run for run in self.runs if run.method == method}

    def fixed(self, dim: int) -> dict[int, TrainedRun]:
        """{seed: run} of FF-`dim`."""
        found = [run for run in self.runs if run.method == "FF" and run.dims.width == dim]
        return {run.seed: run for run in found}

    def fixed_dims(self) -> list[int]:
        """The dims of FF runs, ascending."""
        return sorted({run.dims.width for run in self.runs if run.method == "FF"})

    def systems(self) -> dict[str, dict[int, dict[int, TrainedRun]]]:
        """{"MRL" | "MRL-E" | "FF": {dim: {seed: run}}}, of those that have runs."""
        found = {
            method: {dim: self.of(method) for dim in self.dims}
            for method in ("MRL", "MRL-E")
            if self.of(method)
        }
        fixed = {dim: self.fixed(dim) for dim in self.fixed_dims()}
        return {**found, "FF": fixed} if fixed else found

    def of_test(self, run: TrainedRun) -> dict[str, np.ndarray]:
        """Of a run: `train` (rows, d), `train_labels`, `test`, `labels`, `logits` (examples,
        prefixes, classes), `kernel` and `bias` of its widest classifier."""
        return self._arrays("embeddings", run, {}, lambda: self._embed(run))

    def of_corrupted(self, run: TrainedRun) -> dict[str, np.ndarray]:
        """Of a run: `embeddings` (kinds, severities, images, d), and `logits` likewise."""
        count = self.options.corruption_examples
        return self._arrays("corrupted", run, {"count": count}, lambda: self._corrupt(run, count))

    def neighbours(self, run: TrainedRun, dims=None) -> np.ndarray:
        """The labels of the nearest training rows, (dims, test examples, at most 100).

        Args:
            run: `TrainedRun`.
            dims: the prefixes. Default None: all of MRL and MRL-E, interpolated ones included.
        """
        dims = self.dims_of(run) if dims is None else dims

        def compute():
            found = self.of_test(run)
            k = min(NEIGHBOURS, len(found["train"]))
            nearest = exact_search(found["test"], found["train"], dims, k=k)
            return {"labels": found["train_labels"][nearest.indices].astype("int32")}

        return self._arrays("neighbours", run, {"dims": list(dims)}, compute)["labels"]

    def dims_of(self, run) -> NestingDims:
        """The dims that a run is measured at."""
        return run.dims if run.method == "FF" else self.all_dims

    def images(self):
        """The test images as `LabelledImages`, or None where the data set is streamed."""
        return self._task().test_images()

    def class_names(self) -> list[str]:
        """The classes, by number."""
        return self._task().class_names()

    def values(self, what, run, key, compute) -> dict[str, np.ndarray]:
        """Anything else computed of one run, cached by `key` and by the source of `compute`."""
        return self._arrays(what, run, {**key, "code": inspect.getsource(compute)}, compute)

    def task_values(self, run) -> dict[str, float]:
        """{name: value} of the task's own evaluation, for methods not known here."""

        def compute():
            task, model = self._models(run)
            task.config.evaluation.database = self.options.database
            names, values = zip(*task.evaluate(model), strict=True)
            return {"names": np.array(names), "values": np.array(values, "float64")}

        found = self._arrays("evaluation", run, {}, compute)
        return dict(zip(found["names"].tolist(), found["values"].tolist(), strict=True))

    def model(self, run):
        """(task, model) of a run."""
        return self._models(run)

    def compute(self):
        """Embeddings, logits and neighbours of all runs, with a progress bar."""
        runs = [run for run in self.runs if run.method in ("MRL", "MRL-E", "FF")]
        for run in tqdm.tqdm(runs, desc="Embeddings and neighbours of runs", unit="run"):
            self.of_test(run)
            self.neighbours(run)

    def _arrays(self, what, run, key, compute):
        parts = {"what": what, "run": _fingerprint(run), "database": self.options.database}
        return self.cache.arrays({**parts, **key}, compute)

    def _restored(self, run):
        keras.backend.clear_session()
        return load_trained(run.run)

    def _embed(self, run):
        task, model = self._models(run)
        head = model.get_layer("head")
        task.config.evaluation.database = self.options.database
        outputs = task.collect(model)
        kernel = np.asarray(head.kernels[-1])
        bias = np.zeros(kernel.shape[1]) if head.biases is None else np.asarray(head.biases[-1])
        found = {
            "train": outputs["train_embeddings"], "train_labels": outputs["train_labels"],
            "test": outputs["embeddings"], "labels": outputs["labels"],
            "logits": outputs["logits"], "kernel": kernel, "bias": bias,
        }  # fmt: skip
        if "interpolated_logits" in outputs:
            found["between"] = outputs["interpolated_logits"]
        return found

    def _corrupt(self, run, count):
        task, model = self._models(run)
        encoder, head = encoder_of(model), model.get_layer("head")
        images = task.source.test.images[:count]
        batch = run.run.config.evaluation.batch_size
        kinds = tqdm.tqdm(CORRUPTIONS, desc=f"Corruptions, {run.name} seed {run.seed}", leave=False)
        found = []
        for kind in kinds:
            for severity in range(1, 6):
                changed = corrupt(images, kind, severity)
                parts = [
                    np.asarray(encoder.predict_on_batch(changed[i : i + batch]))
                    for i in range(0, len(changed), batch)
                ]
                found.append(np.concatenate(parts))
        logits = np.stack([np.asarray(head(one)) for one in found])
        shape = (len(CORRUPTIONS), 5)
        return {
            "embeddings": np.stack(found).reshape(*shape, *found[0].shape),
            "logits": logits.reshape(*shape, *logits.shape[1:]),
        }


@functools.lru_cache(maxsize=1024)
def _fingerprint(run):
    return run.fingerprint
