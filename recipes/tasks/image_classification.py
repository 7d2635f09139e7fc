"""The task of classifying images with every prefix of the embedding (Sections 3 and 4.1).

Configuration keys beside those that all tasks share:

    head                 "mrl", "mrl_e" (weight-tied), "ff" (fixed feature: one prefix alone) or
                         "slimmable" (the whole network at several widths, no prefixes)
    nesting_dims         M as a tuple; empty takes `spacing`, `smallest_dim` and the width
    smallest_dim         8 in the paper; 4 and 6 in Table 28
    spacing              "log" (halving) or "uniform" (Table 29); uniform takes `dims_count` dims
    dims_count           see `spacing`
    ff_dim               k of FF-k, the width that an "ff" model classifies with
    slimmable_widths     fractions of the channels that a "slimmable" network runs at
    relative_importance  weights c_m by dim, such as "8:2,16:1.5" (8+16boost of Table 27); empty
                         is 1 for all
    label_smoothing      in [0, 1)
    model                {backbone, width, options}: a name of `image_backbone`; its width d where
                         it does not fix it; its other arguments
    data                 {name, ...}: a TFDS set, or "made" for seeded artificial images
    evaluation           {database, batch_size}: at most so many training images for 1-NN, 0 is all
"""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np

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
    explain_image_errors,
    image_set,
    read_split,
    resolution_stages,
    streamed_batches,
)
from mrl_keras.evaluation import head_accuracy, knn_accuracy
from mrl_keras.export import export_saved_model
from mrl_keras.models import image_backbone, image_classifier
from recipes.common.prefixes import chosen_dims, importance

HEADS = ("mrl", "mrl_e", "ff", "slimmable")
SPACINGS = ("log", "uniform")
AUGMENTATIONS = ("pad_crop_flip", "random_resized_crop", "none")


class Task:
    """Data, model, loss, evaluation and export of one configuration.

    Args:
        config: `ConfigDict`, see the module's docstring and `recipes/configs/`.

    Raises:
        ValueError: a value out of range, or a data set that is not there.
    """

    def __init__(self, config):
        self.config = config
        _check_choice("head", config.head, HEADS)
        _check_choice("spacing", config.spacing, SPACINGS)
        _check_choice("data.augment", config.data.augment, AUGMENTATIONS)
        self.source = _made_images(config.data) if config.data.name == "made" else _tfds(config)
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

    def model(self):
        """The untrained, uncompiled classifier: raw images -> logits (batch, prefixes, classes)."""
        model = self.config.model
        options = plain(model.options)
        if model.width:
            options["width"] = model.width
        pretrained = self.config.get("init_from") == "imagenet"
        if pretrained and model.backbone.startswith("applications:"):
            options["preprocessing"] = "own"
        backbone = image_backbone(model.backbone, self.source.image_shape, **options)
        width = backbone.output_shape[-1]
        if self.config.head == "ff" and self.config.ff_dim > width:
            raise ValueError(
                f"`ff_dim` must not exceed the embedding width {width}. "
                f"Received {self.config.ff_dim}."
            )
        if self.config.head == "slimmable":
            widths = tuple(self.config.slimmable_widths)
            return slimmable_classifier(backbone, self.source.classes, widths)
        efficient = self.config.head == "mrl_e"
        return image_classifier(backbone, self.source.classes, self.dims, efficient)

    def loss(self):
        """The Matryoshka loss over label-smoothed crossentropy (Eq. 1)."""
        return MatryoshkaLoss(
            SmoothedSparseCategoricalCrossentropy(self.config.label_smoothing),
            importance(self.config, self.dims),
        )

    def metrics(self):
        """Top-1 accuracy of every prefix: "top_1_d8", ..."""
        return per_prefix(keras.metrics.SparseCategoricalAccuracy(name="top_1"), self.dims)

    def validation_data(self, batch_size):
        """The evaluation split once, or None where the configuration has none."""
        if not self.config.data.eval_split:
            return None
        return self._batches(self.source.test, self.config.data.eval_split, batch_size)

    def evaluate(self, model):
        """Yields (name, accuracy): "top1/linear/8" of the head, "top1/1nn/8" of neighbours.

        1-NN is also measured at the interpolated dims; so is MRL-E's sliced classifier. The
        neighbours are training images without augmentation. A slimmable network is measured by
        the embedding of each width.
        """
        if self.config.head == "slimmable":
            yield from self._evaluate_slimmable(model)
            return
        encoder, head = encoder_of(model, self.config.jit_compile), model.get_layer("head")
        test_x, test_y = self.predict(encoder, self.source.test, self.config.data.eval_split)
        linear = head_accuracy(head_logits(head, test_x), test_y, self.dims)
        if head.efficient:
            for dim in self.dims.interpolated():
                one = np.asarray(head.prefix_logits(test_x, dim))[:, None]
                linear |= head_accuracy(one, test_y, [dim])
        for dim in sorted(linear):
            yield f"top1/linear/{dim}", linear[dim]
        train_x, train_y = self.predict(
            encoder,
            self.source.train,
            self.config.data.train_split,
            self.config.evaluation.database,
        )
        dims = self.dims.with_interpolated()
        for dim, value in knn_accuracy(train_x, train_y, test_x, test_y, dims).items():
            yield f"top1/1nn/{dim}", value

    def _evaluate_slimmable(self, model):
        names = [f"embedding_at_{dim}" for dim in self.dims]
        outputs = [model.output, *(model.get_layer(name).output for name in names)]
        network = keras.Model(model.input, outputs, name="slimmable_encoder")
        network.compile(jit_compile=self.config.jit_compile)
        data, most = self.config.data, self.config.evaluation.database
        logits, *test, test_y = self.predict(network, self.source.test, data.eval_split)
        _, *train, train_y = self.predict(network, self.source.train, data.train_split, most)
        for dim, value in head_accuracy(logits, test_y, self.dims).items():
            yield f"top1/linear/{dim}", value
        for dim, train_x, test_x in zip(self.dims, train, test, strict=True):
            yield f"top1/1nn/{dim}", knn_accuracy(train_x, train_y, test_x, test_y, [dim])[dim]

    def export(self, model, directory):
        """Writes `directory`/VERSION, a SavedModel with `embed` and `classify` from raw images.

        Raises:
            ValueError: a slimmable network, whose embeddings are no prefixes of one embedding.
        """
        if self.config.head == "slimmable":
            raise ValueError(
                "A slimmable network has no prefixes to serve: each width's embedding is another. "
                "Give `mrl_keras.baselines.subnetwork(model, dim).export` a folder instead."
            )
        return export_saved_model(
            directory,
            encoder_of(model, self.config.jit_compile),
            nesting_dims=self.dims,
            classifier=model.get_layer("head"),
        )

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

    def predict(self, network, images, split, most=0):
        """[outputs of the network..., labels] of a split, at most the first `most` examples.

        `images` are those of the split where it is in memory, else None; `most` 0 is all.
        """
        batch_size = self.config.evaluation.batch_size
        dataset = self._batches(images, split, batch_size)
        if most:
            dataset = dataset.unbatch().take(most).batch(batch_size)
        batches = []
        with explain_image_errors(self.config.data.name):
            for batch, label in dataset:
                found = network.predict_on_batch(batch)
                found = found if isinstance(found, list) else [found]
                batches.append([*(np.asarray(one, "float32") for one in found), label.numpy()])
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def nesting_dims(config):
    """M of a configuration, as `NestingDims`.

    Raises:
        ValueError: dims that don't fit the width.
    """
    if config.head == "ff":
        return NestingDims([config.ff_dim])
    width = config.model.width or config.embedding_width
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


def head_logits(head, embeddings, rows=4096):
    """The head's logits (examples, prefixes, classes) of embeddings, some rows at a time."""
    parts = range(0, len(embeddings), rows)
    return np.concatenate([np.asarray(head(embeddings[i : i + rows])) for i in parts])


def plain(options):
    """A ConfigDict of arguments as a dict."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in options.items()}


def _check_choice(name, value, known):
    if value not in known:
        raise ValueError(f"`{name}` must be one of {known}. Received {value!r}.")
