"""From a trained run to an exported model: index, plan, cascade, manifest, card."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile

from mrl_keras.cascade import AdaptiveClassifier
from mrl_keras.export import Retrieval, ServingOptions, export_saved_model
from mrl_keras.files import is_directory, join, local_copy, write_csv, write_text
from mrl_keras.nesting import NestingDims
from recipes.common.corpus import Source, folder_corpus
from recipes.common.evaluation import evaluate_run, read_results
from recipes.common.export_options import ExportOptions
from recipes.common.indexing import index_corpus
from recipes.common.model_card import model_card
from recipes.common.planning import (
    choose_plan,
    given_plan,
    has_labels,
    learn_cascade,
    parse_plan,
    read_queries,
)
from recipes.common.run import Run
from recipes.common.training import load_trained


def export_run(run: Run, directory, options: ExportOptions, command: str) -> str:
    """Exports the newest checkpoint of a run; returns the version's folder.

    Args:
        run: `Run`, trained. One whose newest checkpoint has no results yet is evaluated first.
        directory: the model's folder; its last part is the model's name.
        options: `ExportOptions`.
        command: str, for the card.

    Raises:
        ValueError: no checkpoint, or options that do not fit the run, its sets or its model.
    """
    results = read_results(run)
    if results is None:
        print("The newest checkpoint has no results: evaluating it first", flush=True)
        results = evaluate_run(run)
    task, model = load_trained(run)
    parts = dict(task.exported_parts(model))
    with task.explain_errors(), contextlib.ExitStack() as stack:
        maker = _Maker(run, task, parts, task.directions(model), options, stack)
        parts |= maker.parts()
        serving = dataclasses.replace(
            parts.get("options") or ServingOptions(),
            metrics=by_prefix(results),
            about={"run": maker.made_with, **maker.about},
            files=maker.files,
            twin=options.twin,
            retrievals=maker.retrievals,
        )
        path = export_saved_model(directory, **{**parts, "options": serving})
    about = f"Made from a run of the task {run.config.task}"
    name = (run.config.get("data") or {}).get("name")
    about += f" on {name}" if name else ""
    write_text(join(os.path.dirname(path), "README.md"), model_card(path, about, command))
    return path


def by_prefix(results) -> dict[str, dict[str, float]]:
    """{"top1/linear": {"8": 0.71, ...}} of {"top1/linear/8": 0.71, ...}."""
    found = {}
    for name, value in results.items():
        group, _, dim = name.rpartition("/")
        found.setdefault(group, {})[dim] = value
    return found


class _Maker:
    """What is made for one export.

    Attributes:
        made_with: dict of the run's task, config and step.
        about: dict for the manifest.
        files: {name: path} for the export.
        retrievals: {name: `Retrieval`} beside the model's own.
    """

    def __init__(self, run, task, parts, directions, options, stack):
        self._run, self._task, self._parts, self._options = run, task, parts, options
        self._directions, self._stack = directions, stack
        self._pictures = stack.enter_context(tempfile.TemporaryDirectory())
        classifier = parts.get("classifier")
        self._dims = NestingDims(parts.get("nesting_dims") or classifier.nesting_dims)
        self.made_with = {"step": run.checkpoints.steps()[-1], "config": run.config.to_dict()}
        self.about, self.files, self.retrievals = {}, {}, {}
        self._queries = {}

    def parts(self):
        """The arguments of `export_saved_model` that this export adds."""
        options, added = self._options, {}
        if options.corpus == "none" or not self._directions:
            if options.plan or options.corpus not in ("none", "own"):
                raise ValueError(
                    f"Nothing is indexed, so `plan` and `corpus` must be left out. Received "
                    f"corpus={options.corpus!r}, plan={options.plan!r}; the task "
                    f"{self._run.config.task!r} retrieves {list(self._directions) or 'nothing'}."
                )
        else:
            for name, direction in self._directions.items():
                chosen = self._retrieval(name, direction)
                if name:
                    self.retrievals[name] = Retrieval(direction.encoder, chosen.index, chosen.plan)
                else:
                    added |= {"index": chosen.index, "plan": chosen.plan}
        if self._wants_cascade():
            head, names = self._parts["classifier"], tuple(self._task.class_names())
            policy, about = learn_cascade(head, self._dims, self._queries_of(""), names)
            added["classifier"], self.about["cascade"] = AdaptiveClassifier(head, policy), about
        return added

    def _wants_cascade(self):
        wanted, head = self._options.cascade, self._parts.get("classifier")
        lacking = None
        if head is None:
            lacking = "there is no classifier"
        elif len(self._dims) == 1:
            lacking = f"its only prefix is {self._dims[0]}"
        elif "" not in self._directions:
            lacking = "the task has no direction that reads queries"
        able = lacking is None and wanted != "no"
        if wanted == "yes" and not able:
            raise ValueError(
                f"A cascade needs a classifier of several prefixes, and queries; {lacking}. Leave "
                "`cascade` at 'auto'."
            )
        labelled = able and has_labels(self._queries_of(""), self._task.class_names())
        if able and wanted == "auto" and not labelled:
            print("No cascade: the queries have no labels of this model's classes", flush=True)
        return able and (wanted == "yes" or labelled)

    def _retrieval(self, name, direction):
        """The `ChosenPlan` of one direction, described in `about`."""
        options, config = self._options, self._run.config
        source = Source(
            self._set(options.corpus),
            options.corpus_split or config.data.get("train_split", "train"),
            config.data.get("data_dir", ""),
            "" if name else options.ids,
            options.list_of("texts"),
            most=options.max_rows,
        )
        corpus = self._corpus(source, direction.rows, direction.embed_rows)
        print(f"Indexing {source.name} {source.split}{name and ' for ' + name}", flush=True)
        # What made the embeddings: an index of other weights, texts or rows is another one.
        made_with = {"step": self.made_with["step"], "direction": name}
        made_with["source"] = dataclasses.asdict(source)
        folder = self._run.path("indexes")
        found = index_corpus(folder, corpus, self._dims, made_with, options.storage)
        if options.plan:
            chosen = given_plan(found, parse_plan(options.plan, options.k))
        else:
            chosen = choose_plan(found, self._queries_of(name), options)
        if options.certified:
            plan = dataclasses.replace(chosen.plan, certified=True)
            plan.check_dims(chosen.index.nesting_dims)
            chosen = dataclasses.replace(chosen, plan=plan)
        print(f"Plan: {chosen.plan}", flush=True)
        about = {"corpus": found.about, "plan": chosen.about}
        if name:
            self.about.setdefault("retrievals", {})[name] = about
        else:
            self.about["retrieval"] = about
        if chosen.result is not None:
            self._draw(f"tuning{name and '_' + name}", chosen.result)
        return chosen

    def _queries_of(self, name):
        """The queries of one direction, read once."""
        if name not in self._queries:
            options, config = self._options, self._run.config
            direction = self._directions[name]
            source = Source(
                self._set(options.queries),
                options.queries_split or config.data.get("eval_split", "test"),
                config.data.get("data_dir", ""),
                texts=options.list_of("query_texts"),
                relevant=options.relevant,
            )
            corpus = self._corpus(source, direction.queries, direction.embed_queries)
            self._queries[name] = read_queries(corpus, options.held_out, options.least_queries)
        return self._queries[name]

    def _set(self, name):
        return self._run.config.data.name if name == "own" else name

    def _corpus(self, source, read, embed):
        if is_directory(source.name):
            rows, folder = self._run.config.evaluation.batch_size, local_copy(source.name)
            local = dataclasses.replace(source, name=self._stack.enter_context(folder))
            return folder_corpus(local, self._dims.width, embed, rows)
        return read(source)

    def _draw(self, name, result):
        """The Pareto front as a picture and as numbers."""
        picture, table = (os.path.join(self._pictures, f"{name}.{end}") for end in ("png", "csv"))
        result.plot(picture)
        rows = [
            {
                "dims": ":".join(map(str, point.plan.dims)),
                "sizes": ":".join(map(str, point.plan.sizes)),
                "leaves": point.plan.leaves or "",
                result.metric: point.value,
                "error": point.error,
                "mflops": point.mflops,
                "seconds": "" if point.seconds is None else point.seconds,
                "front": int(point in result.front),
                "chosen": int(point == result.chosen),
            }
            for point in result.points
        ]
        write_csv(table, rows)
        self.files |= {os.path.basename(path): path for path in (picture, table)}
