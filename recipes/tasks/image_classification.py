"""Training an image classifier at every prefix of the embedding (Sections 3 and 4.1).

Configuration keys beside those that all tasks share:

    head                 "mrl", "mrl_e" (weight-tied), "ff" (fixed feature: one prefix alone) or
                         "slimmable" (the whole network at several widths, no prefixes)
    nesting_dims         M as a tuple; empty takes `spacing`, `smallest_dim` and the width
    smallest_dim         8 in the paper; 4 and 6 in Table 28
    spacing              "log" (halving) or "uniform" (Table 29); uniform takes `dims_count` dims
    dims_count           see `spacing`
    embedding_width      d, which small backbones are made with; the others have their own width,
                         and this must be it
    ff_dim               k of FF-k, the width that an "ff" model classifies with
    slimmable_widths     fractions of the channels that a "slimmable" network runs at
    relative_importance  weights c_m by dim, such as "8:2,16:1.5" (8+16boost of Table 27), or
                         "adaloss", "uw_so" or "famo", whose weights adapt, with arguments as in
                         "uw_so:temperature=0.5"; empty is 1 for all
    label_smoothing      in [0, 1)
    model                {backbone, options}: a name of `image_backbone` and its arguments
    data                 {name, ...}: a TFDS set, "digits" or "digit_pairs" of `load_images`, or
                         "made" for seeded artificial images
    evaluation           {database, batch_size}: at most so many training images for 1-NN, 0 is all
"""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import (
    MatryoshkaLoss,
    NestingDims,
    SmoothedSparseCategoricalCrossentropy,
    per_prefix,
)
from mrl_keras.baselines import slimmable_classifier, slimmable_dims
from mrl_keras.data import (
    ImageStreamOptions,
    LabelledImages,
    array_batches,
    class_names,
    evaluation_batches,
    image_set,
    load_images,
    read_split,
    resolution_stages,
    streamed_batches,
)
from mrl_keras.evaluation import EvaluationPass, collect
from mrl_keras.models import image_classifier
from recipes.common import task
from recipes.common.corpus import (
    Direction,
    Rows,
    array_corpus,
    class_ids,
    image_reader,
    stored_corpus,
)
from recipes.common.prefixes import chosen_dims, importance
from recipes.common.towers import embed_images, make_backbone

HEADS = ("mrl", "mrl_e", "ff", "slimmable")
SPACINGS = ("log", "uniform")
AUGMENTATIONS = ("pad_crop_flip", "random_resized_crop", "none")


class Task(task.Task):
    """Image classification, see `recipes.common.task.Task`; the module's docstring has the keys."""

    def __init__(self, config, workdir=None):
        super().__init__(config, workdir)
        _check_choice("head", config.head, HEADS)
        _check_choice("spacing", config.spacing, SPACINGS)
        _check_choice("data.augment", config.data.augment, AUGMENTATIONS)
        sources = {"made": _made_images, "digits": _bundled, "digit_pairs": _bundled}
        name = config.data.name
        self.source = sources[name](config.data) if name in sources else _tfds(config)
        self.dims = nesting_dims(config)

    def train_data(self, batch_size, sampling):
        """Endless batches of (images, labels), the same for the same `Sampling`."""
        data = self.config.data
        if self.source.train is not None:
            augment = None if data.augment == "none" else data.augment
            return array_batches(self.source.train, batch_size, sampling, augment, data.dtype)
        stages = resolution_stages(self.config.steps, *data.resolution, ramp=tuple(data.ramp))
        options = ImageStreamOptions(stages, data.dtype, data.shuffle_buffer)
        return streamed_batches(
            self.source.builder, data.train_split, batch_size, options, sampling
        )

    def build_model(self):
        """The classifier: raw images -> logits (batch, prefixes, classes)."""
        config, more = self.config, {}
        name = config.model.backbone
        if config.get("init_from") == "imagenet" and name.startswith("applications:"):
            more["preprocessing"] = "own"
        backbone = make_backbone(
            name, self.source.image_shape, config.embedding_width, config.model.options, **more
        )
        width = backbone.output_shape[-1]
        if config.head == "ff" and config.ff_dim > width:
            raise ValueError(
                f"`ff_dim` must not exceed the embedding width {width}. Received {config.ff_dim}."
            )
        if config.head == "slimmable":
            widths = tuple(config.slimmable_widths)
            return slimmable_classifier(backbone, self.source.classes, widths)
        return image_classifier(backbone, self.source.classes, self.dims, config.head == "mrl_e")

    def loss(self):
        """The Matryoshka loss over label-smoothed crossentropy (Eq. 1)."""
        return MatryoshkaLoss(
            SmoothedSparseCategoricalCrossentropy(self.config.label_smoothing),
            importance(self.config, self.dims),
        )

    def metrics(self):
        """Top-1 accuracy of every prefix: "top1_d8", ..."""
        return per_prefix(keras.metrics.SparseCategoricalAccuracy(name="top1"), self.dims)

    def validation_data(self, batch_size):
        """The evaluation split once, or None where the configuration has none."""
        if not self.config.data.eval_split:
            return None
        return self._batches(self.source.test, self.config.data.eval_split, batch_size)

    def evaluation_pass(self, model):
        """Embeddings and logits of the evaluation split, embeddings of the training images.

        At most `config.evaluation.database` training images, without augmentation. Interpolated
        prefixes have embeddings, and logits where the head is MRL-E's. A slimmable network has an
        embedding for each width instead.
        """
        if self.config.head == "slimmable":
            return self._pass_of_widths(model)
        encoder, head = encoder_of(model, self.config.jit_compile), model.get_layer("head")
        return EvaluationPass.of_embeddings(
            lambda images: np.asarray(encoder.predict_on_batch(images), "float32"),
            self._test_batches(),
            self.dims,
            train=self._database_batches(),
            head=head,
            head_at=head.prefix_logits if head.efficient else None,
            interpolated=self.dims.interpolated(),
        )

    def batches_of(self, name, split):
        """Batches (images, labels) of a split of another set, read as the evaluation split is."""
        data, size = self.config.data, self.config.evaluation.batch_size
        builder = image_set(name, data.data_dir or None)
        if self.source.test is None:
            resolution, crop = data.eval_resolution, data.eval_crop
            return evaluation_batches(builder, size, split, resolution, crop, data.dtype)
        shape = tuple(self.source.image_shape[:2])
        same = tuple(builder.info.features["image"].shape[:2]) == shape
        images = read_split(builder, split, None if same else shape[0], data.max_examples or None)
        return evaluation_batches(images, size, dtype=data.dtype)

    def test_images(self):
        """The evaluation split as `LabelledImages`, or None where it is streamed."""
        return self.source.test

    def class_names(self):
        """Names of the classes, by number."""
        if self.source.builder is None:
            return [f"class {i}" for i in range(self.source.classes)]
        return list(class_names(self.source.builder))

    def exported_parts(self, model):
        """Encoder and classifier, for `embed` and `classify` from raw images.

        Raises:
            ValueError: a slimmable network: each width has an embedding of its own.
        """
        if self.config.head == "slimmable":
            raise ValueError(
                "A slimmable network has no prefixes to serve: each width's embedding is another. "
                "Give `mrl_keras.baselines.subnetwork(model, dim).export` a folder instead."
            )
        return {
            "encoder": encoder_of(model, self.config.jit_compile),
            "classifier": model.get_layer("head"),
            "nesting_dims": self.dims,
        }

    def directions(self, model):
        """Images find images; other sets are cut to the size of this run's images.

        A set's classes are relevant to each other where it has this run's classes.
        """
        if self.config.head == "slimmable":
            return {}
        encoder = encoder_of(model, self.config.jit_compile)

        def embed(images):
            rows = self.config.evaluation.batch_size
            images = images.astype(tf.as_dtype(self.config.data.dtype).as_numpy_dtype)
            return embed_images(encoder, images, rows, self.config.jit_compile)

        def read(source):
            return self._corpus(source, embed)

        return {"": Direction(read, read, embed, embed)}

    def _corpus(self, source, embed):
        data, rows = self.config.data, self.config.evaluation.batch_size
        if self.source.builder is None and source.name == data.name:  # made, or bundled
            found = self.source.test if source.split == data.eval_split else self.source.train
            names = tuple(self.class_names())
            keys = np.array([f"{source.split}/{row}" for row in range(len(found))])
            made = Rows(found.images, class_ids(0, found.labels, names), found.labels, keys)
            about = {"set": source.name, "split": source.split}
            return array_corpus(about, made, embed, rows, names, source.most)
        builder = image_set(source.name, source.data_dir or None)
        image_of = image_reader(builder, data, self.source.image_shape)

        def parts(example):
            return {"inputs": image_of(example), "label": example["label"]}

        return stored_corpus("images", builder, source, parts, embed, rows, class_names(builder))

    def _pass_of_widths(self, model):
        names = [f"embedding_at_{dim}" for dim in self.dims]
        outputs = [model.output, *(model.get_layer(name).output for name in names)]
        network = keras.Model(model.input, outputs, name="slimmable_encoder")
        network.compile(jit_compile=self.config.jit_compile)

        def predict(images):
            logits, *found = (np.asarray(one) for one in network.predict_on_batch(images))
            embeddings = np.zeros((len(logits), len(self.dims), self.dims.width), "float32")
            for place, (dim, one) in enumerate(zip(self.dims, found, strict=True)):
                embeddings[:, place, :dim] = one
            return {"embeddings": embeddings, "logits": logits}

        def test(get):
            outputs, labels = collect(predict, self._test_batches())
            return {**outputs, "labels": labels}

        def train(get):
            outputs, labels = collect(predict, self._database_batches())
            return {"train_embeddings": outputs["embeddings"], "train_labels": labels}

        parts = {
            ("embeddings", "logits", "labels"): test,
            ("train_embeddings", "train_labels"): train,
        }
        return EvaluationPass(self.dims, parts)

    def _test_batches(self):
        config = self.config
        return self._batches(self.source.test, config.data.eval_split, config.evaluation.batch_size)

    def _database_batches(self):
        config = self.config
        size, most = config.evaluation.batch_size, config.evaluation.database
        dataset = self._batches(self.source.train, config.data.train_split, size)
        return dataset.unbatch().take(most).batch(size) if most else dataset

    def _batches(self, images, split, batch_size):
        data = self.config.data
        if images is not None:
            return evaluation_batches(images, batch_size, dtype=data.dtype)
        return evaluation_batches(
            self.source.builder,
            batch_size,
            split,
            data.eval_resolution,
            data.eval_crop,
            data.dtype,
        )


def nesting_dims(config):
    """M of a configuration, as `NestingDims`.

    Raises:
        ValueError: dims that don't fit the width.
    """
    if config.head == "ff":
        return NestingDims([config.ff_dim])
    width = config.embedding_width
    if config.head == "slimmable":
        return slimmable_dims(width, tuple(config.slimmable_widths))
    if config.spacing == "uniform" and not len(config.nesting_dims):
        return NestingDims.uniform(width, config.smallest_dim, config.dims_count)
    return chosen_dims(config, width)


def encoder_of(model, jit_compile=False):
    """images -> the embedding that the head reads, (batch, d)."""
    encoder = keras.Model(model.input, model.get_layer("head").input, name="encoder")
    encoder.compile(jit_compile=jit_compile)
    return encoder


@dataclasses.dataclass
class Source:
    """Where the images come from: arrays, or a TFDS set that is streamed (then no arrays).

    `builder` is TFDS's, None for made images.
    """

    classes: int
    image_shape: tuple
    train: LabelledImages | None = None
    test: LabelledImages | None = None
    builder: object = None


def _tfds(config):
    data = config.data
    builder = image_set(data.name, data.data_dir or None, image_shape_needed=data.in_memory)
    classes = len(class_names(builder))
    if not data.in_memory:
        if data.augment != "random_resized_crop":
            raise ValueError(
                "A streamed set (`data.in_memory` False) is augmented by 'random_resized_crop'. "
                f"Received {data.augment!r}."
            )
        return Source(classes, _streamed_shape(config), builder=builder)
    if data.augment == "random_resized_crop":
        raise ValueError("'random_resized_crop' is for streamed sets: set `data.in_memory` False.")
    most = data.max_examples or None
    splits = data.train_split, data.eval_split
    train, test = _splits_in_memory(data.name, data.data_dir, splits, most)
    return Source(classes, train.images.shape[1:], train, test, builder)


def _bundled(data):
    """Digits: their training and test splits, which need no download."""
    found = load_images(data.name, max_examples=data.max_examples or None)
    return Source(len(found.class_names), found.image_shape, found.train, found.test)


@functools.lru_cache(maxsize=1)
def _splits_in_memory(name, data_dir, splits, most):
    """The `LabelledImages` of splits, read once where several runs of one set are opened."""
    builder = image_set(name, data_dir or None, image_shape_needed=True)
    return [read_split(builder, split, max_examples=most) for split in splits]


def _streamed_shape(config):
    """One shape where training and evaluation agree on it, as a ViT needs, else any."""
    sizes = {*config.data.resolution, config.data.eval_resolution}
    size = sizes.pop() if len(sizes) == 1 else None
    return (size, size, 3)


def _made_images(data):
    """Seeded artificial images: one smooth pattern for each class, shifted, and noise on it."""
    rng = np.random.default_rng(0)
    height, width, channels = shape = tuple(data.made_shape)
    coarse = rng.uniform(40, 215, (data.made_classes, 4, 4, channels))
    rows, columns = (np.arange(size) * 4 // size for size in (height, width))
    patterns = coarse[:, rows][:, :, columns]

    def split(examples):
        labels = np.arange(examples) % data.made_classes
        images = patterns[labels] + rng.normal(0, 25, (examples, *shape))
        return LabelledImages(images.clip(0, 255).astype("uint8"), labels.astype("int64"))

    train, test = split(data.made_examples), split(max(data.made_examples // 4, 1))
    return Source(data.made_classes, shape, train, test)


def _check_choice(name, value, known):
    if value not in known:
        raise ValueError(f"`{name}` must be one of {known}. Received {value!r}.")
