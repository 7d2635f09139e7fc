"""Train Matryoshka models on real images, compare, retrieve, export and reload, in one command.

    python recipes/quickstart.py                      # handwritten digits, no download
    python recipes/quickstart.py --dataset=cifar10    # any TFDS image classification set

Trains one MRL model, one MRL-E model and one fixed feature model (FF-k) for every trained dim,
all with the same backbone, data and number of steps; prints and writes their linear and 1-NN
accuracy on the test split at every trained and interpolated dim; compares exact retrieval at
the full width with a shortlist and rerank; exports the MRL model with its nested index as a
SavedModel; and has a fresh process reload that and answer three queries.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from mrl_keras import MatryoshkaLoss, NestingDims, per_prefix
from mrl_keras.data import evaluation_batches, load_images
from mrl_keras.evaluation import (
    AccuracyTable,
    EvaluationPass,
    LinearHeadEvaluator,
    LinearProbeEvaluator,
    NearestNeighboursEvaluator,
    Outputs,
    evaluate,
)
from mrl_keras.export import ServingOptions, export_saved_model
from mrl_keras.files import write_csv, write_text
from mrl_keras.models import image_classifier, small_convnet
from mrl_keras.retrieval import IndexOptions, NestedIndex, ScannParameters, SearchPlan
from recipes.common.arguments import ScriptParser
from recipes.common.model_card import model_card
from recipes.common.retrieval_comparison import compare_retrieval, retrieval_text

METHODS = ("MRL", "MRL-E", "FF")
KINDS = {"linear": "linear", "probe": "linear", "1nn": "1-NN"}
"""What the table calls the values top1/NAME/DIM of the evaluators, by NAME."""


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--dataset", default="digits", help="'digits' (bundled) or the name of a TFDS image set")
    add("--data_dir", help="folder of TFDS; else TFDS_DATA_DIR")
    add("--image_size", type=int, help="resize images to this height and width, in pixels")
    add("--max_examples", type=int, help="at most so many examples of each TFDS split")
    add("--width", type=int, default=64, help="embedding width d")
    add("--smallest_dim", type=int, default=2, help="smallest trained dim; the others double it")
    add("--epochs", type=int, default=20, help="for every model")
    add("--batch_size", type=int, default=64, help="for every model")
    add("--learning_rate", type=float, default=3e-3, help="peak of the cosine schedule")
    add("--shortlist_dim", type=int, default=8, help="D_s, the prefix that finds the shortlist")
    add("--shortlist", type=int, default=50, help="rows that the shortlist passes to the rerank")
    add("--seed", type=int, default=0, help="of splits, weights and shuffling")
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/quickstart"), help="folder")
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "learning_rate"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be above zero, not {getattr(options, name)}")
    try:
        options.dims = NestingDims.halving(options.width, options.smallest_dim)
        shortlist_dim, shortlist, width = options.shortlist_dim, options.shortlist, options.width
        options.plan = SearchPlan.adaptive(
            shortlist_dim=shortlist_dim, shortlist=shortlist, rerank_dim=width
        )
        options.plan.check_dims(options.dims)
    except ValueError as error:
        parser.error(str(error))
    return options, parser


class EpochBar(keras.callbacks.Callback):
    """One progress bar for a whole `fit`, with the validation accuracy at the ends of M."""

    def __init__(self, name, dims):
        super().__init__()
        self.name, self.dims = name, dims

    def on_train_begin(self, logs=None):
        self.bar = tqdm(total=self.params["epochs"], desc=f"{self.name:6}", unit="epoch")

    def on_epoch_end(self, epoch, logs=None):
        shown = {f"top-1@{dim}": logs[f"val_top1_d{dim}"] for dim in {self.dims[0], self.dims[-1]}}
        self.bar.set_postfix({key: f"{value:.3f}" for key, value in sorted(shown.items())})
        self.bar.update()

    def on_train_end(self, logs=None):
        self.bar.close()


def train(name, data, dims, efficient, options):
    """A trained image classifier; same backbone, data, schedule and seed for every model."""
    keras.utils.set_random_seed(options.seed)
    backbone = small_convnet(data.image_shape, options.width, data.max_value)
    model = image_classifier(backbone, len(data.class_names), dims, efficient)
    steps = options.epochs * -(-len(data.train) // options.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    top1 = keras.metrics.SparseCategoricalAccuracy(name="top1")
    model.compile(
        keras.optimizers.AdamW(schedule),
        loss=MatryoshkaLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        metrics=per_prefix(top1, dims),
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


def collect_outputs(model, data):
    """What evaluators read of one model: embeddings, labels and logits, as `Outputs`."""

    def batches(images):
        return evaluation_batches(images, 256, dtype=images.images.dtype.name)

    encoder, head = encoder_of(model), model.get_layer("head")
    return EvaluationPass.of_embeddings(
        encoder.predict_on_batch,
        batches(data.test),
        head.nesting_dims,
        train=batches(data.train),
        head=head,
        head_at=head.prefix_logits if head.efficient else None,
        interpolated=head.nesting_dims.interpolated(),
    ).collect()


def evaluate_all(models, data, dims):
    """(AccuracyTable on the test images, `Outputs` of the MRL model).

    Linear accuracy is the trained head's; at interpolated dims it is that of MRL-E's shared
    classifier, sliced, or of a logistic regression on MRL's frozen prefix.
    """
    columns = {f"{name} {kind}": {} for kind in KINDS.values() for name in METHODS}
    for name, model in models.items():
        method = "FF" if name.startswith("FF-") else name
        outputs = collect_outputs(model, data)
        values = list(evaluate(outputs, [LinearHeadEvaluator(), NearestNeighboursEvaluator()]))
        if outputs.interpolated and "interpolated_logits" not in outputs:
            between = Outputs(outputs.interpolated, outputs.arrays)
            values += evaluate(between, [LinearProbeEvaluator()])
        for value_name, value in values:
            _, kind, dim = value_name.split("/")
            columns[f"{method} {KINDS[kind]}"][int(dim)] = value
        if name == "MRL":
            kept = outputs
    return AccuracyTable(columns, dims), kept


def build_index(train_x, data, options):
    """The nested index over the training images; an id tells the class and the row."""
    names = [name.replace(" ", "_") for name in data.class_names]
    ids = [f"{names[label]}/{row}" for row, label in enumerate(data.train.labels)]
    # By the rule of `scann_parameters` a small database needs no ScaNN; here it is shown anyway.
    leaves = max(1, len(train_x) // 40)
    parameters = ScannParameters(leaves, -(-leaves // 2), dims_per_block=1)
    index_options = IndexOptions(shortlist_dim=options.shortlist_dim, scann=parameters)
    return NestedIndex.build(train_x, options.dims, ids, index_options)


def export(model, index, table, options):
    """The folder of the exported version, and beside it the model's card."""
    name = f"{options.dataset.replace('/', '_')}_mrl"
    metrics = {
        kind: {dim: table.columns[f"MRL {kind}"][dim] for dim in options.dims}
        for kind in KINDS.values()
    }
    path = export_saved_model(
        options.output / "saved_models" / name,
        encoder_of(model),
        classifier=model.get_layer("head"),
        index=index,
        plan=options.plan,
        options=ServingOptions(metrics=metrics),
    )
    path = pathlib.Path(path)
    about = (
        f"A small convolutional network with an MRL head, trained on {options.dataset}, and the "
        "index of its training examples; an id is CLASS/ROW"
    )
    write_text(path.parent / "README.md", model_card(path, about, options.command))
    return path


def ask_in_a_fresh_process(path, data):
    """Three test images through the exported model, loaded by a process of its own."""
    rows = np.linspace(0, len(data.test) - 1, 3).astype(int)
    script = pathlib.Path(__file__).with_name("query.py")
    with tempfile.TemporaryDirectory() as folder:
        inputs = pathlib.Path(folder) / "inputs.npy"
        np.save(inputs, data.test.images[rows], allow_pickle=False)
        command = [sys.executable, str(script), str(path), str(inputs), "--json"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"The exported model did not answer:\n{process.stderr}")
    for row, line in zip(rows, process.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        label = data.class_names[data.test.labels[row]]
        pairs = zip(answer["ids"][:5], answer["scores"], strict=False)
        shown = ", ".join(f"{name} ({score:.3f})" for name, score in pairs)
        print(f"  query {row} of class {label}: {shown}")


def main(arguments=None):
    tf.get_logger().setLevel("ERROR")  # every model makes its own predict function
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
    table, outputs = evaluate_all(models, data, options.dims)
    table.write_csv(options.output / "accuracy.csv")
    panels = {kind: [f"{name} {kind}" for name in METHODS] for kind in KINDS.values()}
    table.plot(options.output / "accuracy.png", panels, title=data.name)
    print(f"\nTop-1 accuracy (%) on the test images\n{table.to_text()}")
    print("~ interpolated: MRL-E slices its classifier; MRL has a probe on the frozen prefix")

    index = build_index(outputs["train_embeddings"], data, options)
    labels = outputs["train_labels"], outputs["labels"]
    rows = compare_retrieval(index, options.plan, outputs["embeddings"], *labels)
    write_csv(options.output / "retrieval.csv", rows)
    print(f"\nRetrieval of the {len(index)} training images\n{retrieval_text(rows)}")

    path = export(models["MRL"], index, table, options)
    print(f"\nExported {os.path.relpath(path)}\nA fresh process loads it and answers:")
    ask_in_a_fresh_process(path, data)
    seconds = time.perf_counter() - started
    print(f"\nWrote {options.output}: accuracy.csv, accuracy.png, retrieval.csv ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
