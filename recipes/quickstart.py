"""Train Matryoshka models on real images, compare, retrieve, export and reload, in one command.

    python recipes/quickstart.py                      # handwritten numbers 00 to 99, no download
    python recipes/quickstart.py --dataset=cifar10    # any TFDS image classification set

Trains one MRL model, one MRL-E model and one fixed feature model (FF-k) for every dim of M, all
with the same backbone, data, steps and seed; prints, writes and draws their accuracy on the test
split at every dim, beside that of the widest FF model cut to that dim (Truncation). Then it tunes a
shortlist and rerank, and learns a cascade, both on the validation split of the MRL model alone;
exports all of it as a SavedModel; and has a fresh process reload that and answer five queries.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from mrl_keras import MatryoshkaLoss, NestingDims, per_prefix
from mrl_keras.baselines import ClassifierTruncation
from mrl_keras.cascade import AdaptiveClassifier
from mrl_keras.data import evaluation_batches, load_images
from mrl_keras.evaluation import (
    AccuracyTable,
    EvaluationPass,
    LinearHeadEvaluator,
    NearestNeighboursEvaluator,
    Outputs,
    PanelStyle,
    SuperclassEvaluator,
    collect,
    evaluate,
    line_panels,
)
from mrl_keras.export import ServingOptions, export_saved_model
from mrl_keras.files import write_csv, write_text
from mrl_keras.models import image_classifier, small_convnet
from mrl_keras.retrieval import NestedIndex, TuningSpace
from recipes.common.arguments import ScriptParser
from recipes.common.export_options import ExportOptions
from recipes.common.indexing import IndexedCorpus
from recipes.common.model_card import model_card, search_text
from recipes.common.planning import Queries, choose_plan, learn_cascade
from recipes.common.progress import EpochBar
from recipes.common.sheet import Line, draw_sheet

METHODS = ("FF", "MRL", "MRL-E", "Truncation")
MEASURES = {"top1/linear": "linear", "top1/1nn": "1-NN", "superclass/all": "tens digit"}
"""What the tables call the evaluators' values."""
FILTERS = (16, 32, 64)
QUERIES, SHOWN = 5, 8


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--dataset", default="digit_pairs", help="'digit_pairs', 'digits' or a TFDS image set")
    add("--data_dir", help="folder of TFDS; else TFDS_DATA_DIR")
    add("--image_size", type=int, help="resize images to this height and width, in pixels")
    add("--max_examples", type=int, help="at most so many examples of each TFDS split, or of pairs")
    add("--width", type=int, default=32, help="embedding width d")
    add("--smallest_dim", type=int, default=4, help="smallest trained dim; the others double it")
    add("--epochs", type=int, default=8, help="for every model")
    add("--batch_size", type=int, default=64, help="for every model")
    add("--learning_rate", type=float, default=3e-3, help="peak of the cosine schedule")
    add("--seed", type=int, default=0, help="of splits, pairs, weights and shuffling")
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/quickstart"), help="folder")
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "learning_rate"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be above zero, not {getattr(options, name)}")
    try:
        options.dims = NestingDims.halving(options.width, options.smallest_dim)
        if len(options.dims) < 2:
            raise ValueError("--smallest_dim must be below --width: MRL trains several prefixes")
    except ValueError as error:
        parser.error(str(error))
    return options, parser


def train(name, data, dims, efficient, options):
    """A trained image classifier; same backbone, data, schedule and seed for every model."""
    keras.utils.set_random_seed(options.seed)
    backbone = small_convnet(data.image_shape, options.width, data.max_value, FILTERS)
    model = image_classifier(backbone, len(data.class_names), dims, efficient)
    steps = options.epochs * -(-len(data.train) // options.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    top1 = keras.metrics.SparseCategoricalAccuracy(name="top1")
    model.compile(
        keras.optimizers.AdamW(schedule),
        loss=MatryoshkaLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        metrics=per_prefix(top1, dims),
        jit_compile=False,  # compiling would take longer than training
    )
    model.fit(
        data.train.images,
        data.train.labels,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=(data.validation.images, data.validation.labels),
        callbacks=[EpochBar(name, dims)],
        verbose=0,
    )
    return model


def train_all(data, options):
    """{name: model} of MRL, MRL-E and one fixed feature model for each trained dim."""
    dims = options.dims
    wanted = {"MRL": (dims, False), "MRL-E": (dims, True)}
    wanted |= {f"FF-{dim}": (NestingDims([dim]), False) for dim in dims}
    return {name: train(name, data, *prefixes, options) for name, prefixes in wanted.items()}


def encoder_of(model):
    """images -> the embedding that the head reads, (batch, d)."""
    return keras.Model(model.input, model.get_layer("head").input, name="encoder")


def batches(images):
    return evaluation_batches(images, 256, dtype=images.images.dtype.name)


def outputs_of(model, data):
    """What evaluators read of one model: embeddings, labels and logits, as `Outputs`."""
    encoder, head = encoder_of(model), model.get_layer("head")
    test, train = batches(data.test), batches(data.train)
    found = EvaluationPass.of_embeddings(encoder, test, head.nesting_dims, train=train, head=head)
    return found.collect()


def truncated(outputs, head, dims):
    """The same embeddings cut to fewer dims, and the first rows of the head's kernel."""
    kernel, bias = (keras.ops.convert_to_numpy(of[-1]) for of in (head.kernels, head.biases))
    cut = ClassifierTruncation().fit(kernel, bias)
    logits = [cut.logits(outputs["embeddings"], dim) for dim in dims]
    return Outputs(dims, {**outputs.arrays, "logits": np.stack(logits, axis=1)})


def evaluate_all(models, data, dims):
    """({measure: AccuracyTable on the test images}, `Outputs` of the MRL model)."""
    evaluators = [LinearHeadEvaluator(), NearestNeighboursEvaluator()]
    if data.name == "digit_pairs":
        evaluators.append(SuperclassEvaluator([name[0] for name in data.class_names]))
    columns = {measure: {method: {} for method in METHODS} for measure in MEASURES.values()}
    for name, model in tqdm(models.items(), desc="Testing", unit="model"):
        found = {name.partition("-")[0] if name.startswith("FF") else name: outputs_of(model, data)}
        if name == f"FF-{dims.width}":
            found["Truncation"] = truncated(found["FF"], model.get_layer("head"), dims)
        for method, outputs in found.items():
            for value_name, value in evaluate(outputs, evaluators):
                group, _, dim = value_name.rpartition("/")
                if group in MEASURES:
                    columns[MEASURES[group]][method][int(dim)] = value
        if name == "MRL":
            kept = found["MRL"]
    tables = {name: AccuracyTable(some, dims) for name, some in columns.items() if some["MRL"]}
    return tables, kept


def report_accuracy(tables, data, options):
    """Prints the tables, and writes them as accuracy.csv and accuracy.png."""
    for measure, table in tables.items():
        print(f"\n{measure}, top-1 accuracy (%) on the test images\n{table.to_text()}")
    rows = [
        {"measure": measure, "dims": dim, **{name: of[dim] for name, of in table.columns.items()}}
        for measure, table in tables.items()
        for dim in options.dims
    ]
    write_csv(options.output / "accuracy.csv", rows)
    panels = {
        f"{measure}, {data.name}": {
            name: [(dim, 100 * value) for dim, value in of.items()]
            for name, of in tables[measure].columns.items()
        }
        for measure in ("linear", "1-NN")
    }
    style = PanelStyle(ticks=options.dims, share_y=True)
    line_panels(options.output / "accuracy.png", panels, "dims", "top-1 accuracy (%)", style)


def read_queries(model, outputs, data) -> Queries:
    """The validation images to learn from, and the test images to measure by."""
    embeddings, labels = collect(encoder_of(model), batches(data.validation))
    held, rest = len(labels), len(outputs["labels"])
    about = {"set": data.name, "split": "validation and test", "held_out": held, "rest": rest}
    return Queries(
        np.concatenate([embeddings, outputs["embeddings"]]),
        np.concatenate([labels, outputs["labels"]]),
        None, None, data.class_names, about, np.arange(held), held + np.arange(rest),
    )  # fmt: skip


def index_training_images(outputs, data) -> IndexedCorpus:
    """The nested index over the training images; an id tells the class and the row."""
    labels, names = outputs["train_labels"], [one.replace(" ", "_") for one in data.class_names]
    ids = [f"{names[label]}/{row}" for row, label in enumerate(labels)]
    index = NestedIndex.build(outputs["train_embeddings"], outputs.dims, ids)
    about = {"set": data.name, "split": "train", "rows": len(index)}
    return IndexedCorpus(index, labels, None, data.class_names, about)


def report_deployment(chosen, cascade, output):
    """Prints and writes what search and classification need at full width and adaptively."""
    index, plan, about = chosen.index, chosen.plan, chosen.about
    top1 = cascade["full_width_accuracy"], cascade["accuracy"]
    dims = float(index.width), cascade["expected_dims"]
    rows = [
        {
            "system": system,
            "mAP@10": about["rest"][key],
            "MFLOPs": about["mflops"][key],
            "top1": top1[place],
            "expected_dims": dims[place],
        }
        for place, (system, key) in enumerate((("full width", "full_width"), ("adaptive", "plan")))
    ]
    print("\nMRL deployed       mAP@10 (%)  MFLOPs/query  top-1 (%)  dims/image")
    for row in rows:
        print(
            f"{row['system']:18} {100 * row['mAP@10']:10.2f} {row['MFLOPs']:13.4f} "
            f"{100 * row['top1']:10.2f} {row['expected_dims']:11.1f}"
        )
    search = search_text(plan.dims, plan.sizes)
    print(f"adaptive: of {len(index)} training images {search}; a cascade classifies")
    write_csv(output / "deployment.csv", rows)


def export(model, classifier, chosen, about, metrics, options):
    """The folder of the exported version, and beside it the model's card."""
    path = export_saved_model(
        options.output / "saved_models" / options.dataset.replace("/", "_"),
        encoder_of(model),
        classifier=classifier,
        index=chosen.index,
        plan=chosen.plan,
        options=ServingOptions(metrics=metrics, about=about),
    )
    path = pathlib.Path(path)
    text = (
        f"A small convolutional network with an MRL head, trained on {options.dataset}, and the "
        "index of its training images; an id is CLASS/ROW"
    )
    write_text(path.parent / "README.md", model_card(path, text, options.command))
    return path


def ask_in_a_fresh_process(path, data, output):
    """Some test images through the exported model, loaded by a process of its own.

    Writes the images to queries.npy, and a picture of the answers to answers.png.
    """
    asked = np.linspace(0, len(data.test) - 1, QUERIES).astype(int)
    np.save(output / "queries.npy", data.test.images[asked], allow_pickle=False)
    script = pathlib.Path(__file__).with_name("query.py")
    command = [sys.executable, str(script), str(path), str(output / "queries.npy"), "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"The exported model did not answer:\n{process.stderr}")
    lines = []
    for query, line in zip(asked, process.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        found = [name.rpartition("/") for name in answer["ids"][:SHOWN]]
        shown = [
            (data.train.images[int(row)], f"{name}  {score:.3f}")
            for (name, _, row), score in zip(found, answer["scores"], strict=False)
        ]
        title = f"{data.class_names[data.test.labels[query]]}, test image {query}"
        print(f"  {title}: {' '.join(name for name, _, _ in found)}")
        lines.append(Line(title, data.test.images[query], shown))
    draw_sheet(output / "answers.png", lines)


def main(arguments=None):
    tf.get_logger().setLevel("ERROR")
    options, parser = parse_arguments(arguments)
    started = time.perf_counter()
    try:
        folder, size, most = options.data_dir, options.image_size, options.max_examples
        data = load_images(options.dataset, folder, size, most, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    print(
        f"{data.name}: {len(data.train)} training, {len(data.validation)} validation and "
        f"{len(data.test)} test images of {'x'.join(map(str, data.image_shape))}, "
        f"{len(data.class_names)} classes; M = {list(options.dims)}"
    )
    models = train_all(data, options)
    tables, outputs = evaluate_all(models, data, options.dims)
    report_accuracy(tables, data, options)

    model, head = models["MRL"], models["MRL"].get_layer("head")
    queries, corpus = read_queries(model, outputs, data), index_training_images(outputs, data)
    space = TuningSpace(funnels=False, single_stage=False)
    chosen = choose_plan(corpus, queries, ExportOptions(least_queries=1), space)
    policy, cascade = learn_cascade(head, options.dims, queries, data.class_names)
    report_deployment(chosen, cascade, options.output)

    retrieval = {"corpus": corpus.about, "plan": chosen.about}
    about = {"retrieval": retrieval, "cascade": cascade}
    metrics = {name: table.columns["MRL"] for name, table in tables.items()}
    classifier = AdaptiveClassifier(head, policy)
    path = export(model, classifier, chosen, about, metrics, options)
    print(f"\nExported {os.path.relpath(path)}; a fresh process loads it and finds:")
    ask_in_a_fresh_process(path, data, options.output)

    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    names = "accuracy.csv, accuracy.png, deployment.csv, queries.npy, answers.png, saved_models"
    print(f"\nWrote {options.output}: {names} ({seconds:.0f} s, {cpu:.0f} s of processors)")


if __name__ == "__main__":
    main()
