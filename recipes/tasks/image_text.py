"""The task of a dual encoder: at every prefix, images and texts that belong together are near.

Configuration keys beside those that all tasks share:

    embedding_width      d of both towers
    nesting_dims         M as a tuple; empty halves the width down to `smallest_dim`
    smallest_dim         8 by default
    temperature          where the learned temperature begins
    temperature_per_prefix  one for each prefix instead of one for all
    relative_importance  weights c_m by dim, such as "8:2,16:1.5"; empty is 1 for all
    image                {backbone, options}: a name of `image_backbone` and its arguments
    text                 {pooling, length, options}: "cls" or "mean", tokens of a text, arguments
                         of `GardenBert`
    vocabulary           {size, least_count, lower_case}: learned from the training captions, and
                         kept in the work directory
    data                 {name, captions, captions_per_text, ...}: a TFDS set, its feature of
                         captions and the most of them that a text has, or "made" for artificial
                         images; streamed where `in_memory` is False
    evaluation           {batch_size, max_examples, captions_per_text, zero_shot}: with more than
                         one caption a text, evaluation joins them in order. `zero_shot` {name,
                         split, max_examples} is a TFDS image classification set, or no name
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import InBatchAccuracy, MatryoshkaLoss, SymmetricContrastive, per_prefix
from mrl_keras.data import (
    CaptionedImages,
    ImageStreamOptions,
    Wordpiece,
    caption_batches,
    caption_set,
    caption_texts,
    class_names,
    image_set,
    learn_vocabulary,
    read_captioned,
    read_split,
    resolution_stages,
    streamed_caption_batches,
)
from mrl_keras.data.image_text.pipeline import texts_of
from mrl_keras.evaluation import pair_recall, prompts, zero_shot_accuracy
from mrl_keras.export import ServingOptions, export_saved_model
from mrl_keras.models import (
    BertTokens,
    dual_encoder,
    image_backbone,
    text_embedder,
    towers,
)
from mrl_keras.retrieval import NestedIndex, SearchPlan
from recipes.common.prefixes import chosen_dims, importance
from recipes.common.vocabulary import run_vocabulary
from recipes.tasks.image_classification import plain
from recipes.tasks.text_embedding import embedded

AUGMENTATIONS = ("pad_crop_flip", "random_resized_crop", "none")
RECALL_AT = (1, 10)


class Task:
    """Data, model, loss, evaluation and export of one configuration.

    Args:
        config: `ConfigDict`, see the module's docstring and `recipes/configs/`.
        workdir: folder of the run, which keeps the vocabulary. Default None, kept nowhere.

    Raises:
        ValueError: a value out of range, or a data set that is not there.
    """

    def __init__(self, config, workdir=None):
        self.config = config
        if config.data.augment not in AUGMENTATIONS:
            raise ValueError(
                f"`data.augment` must be one of {AUGMENTATIONS}. Received {config.data.augment!r}."
            )
        self.source = _made(config.data) if config.data.name == "made" else _tfds(config)
        words = config.vocabulary
        self.vocabulary = run_vocabulary(
            workdir,
            lambda: learn_vocabulary(
                self.source.train_texts(),
                words.size,
                lower_case=words.lower_case,
                least_count=words.least_count,
            ),
        )
        self.tokens = Wordpiece(self.vocabulary, config.text.length, words.lower_case)
        self.dims = chosen_dims(config, config.embedding_width)
        self._similarity = None

    def train_data(self, batch_size, sampling):
        """Endless batches of (images and tokens, labels that nothing reads), from any step."""
        data = self.config.data
        if self.source.train is not None:
            augment = None if data.augment == "none" else data.augment
            batches = caption_batches(
                self.source.train,
                batch_size,
                sampling,
                augment,
                data.captions_per_text,
                data.dtype,
            )
        else:
            stages = resolution_stages(self.config.steps, *data.resolution, ramp=tuple(data.ramp))
            batches = streamed_caption_batches(
                self.source.builder,
                data.train_split,
                batch_size,
                ImageStreamOptions(stages, data.dtype, data.shuffle_buffer),
                sampling,
                data.captions,
                data.captions_per_text,
            )

        def model_inputs(images, texts):
            shape = (batch_size, self.config.text.length)
            tokens = {k: tf.ensure_shape(v, shape) for k, v in self.tokens(texts).items()}
            return {"images": images, **tokens}, tf.zeros(batch_size)

        return batches.map(model_inputs, num_parallel_calls=1).prefetch(2)

    def validation_data(self, batch_size):
        """None: the recall of one batch says little, and `evaluate` reads the whole split."""
        return None

    def model(self):
        """The untrained, uncompiled dual encoder."""
        config, width = self.config, self.config.embedding_width
        options = plain(config.image.options)
        image = _of_width(
            image_backbone(config.image.backbone, self.source.image_shape, **options), width
        )
        text = text_embedder(
            config.text.length,
            width,
            config.text.pooling,
            vocab_size=len(self.vocabulary),
            **config.text.options,
        )
        model = dual_encoder(
            image, text, self.dims, config.temperature, config.temperature_per_prefix
        )
        self._similarity = model.get_layer("similarity")
        return model

    def loss(self):
        """The Matryoshka loss over the contrastive loss of the whole batch (Eq. 1)."""
        weights = importance(self.config, self.dims)
        return MatryoshkaLoss(SymmetricContrastive("gathered"), weights)

    def metrics(self):
        """How often the batch's nearest text is the right one, per prefix, and the temperature."""
        metrics = per_prefix(InBatchAccuracy(), self.dims)
        return metrics + ([Temperature(self._similarity)] if self._similarity else [])

    def evaluate(self, model):
        """Yields (name, value) at every prefix, trained and interpolated.

        "recall@10/text_to_image/8": how often a text's image is among the 10 nearest images at 8
        dims; "recall@10/image_to_text/8": how often one of an image's texts is among the 10
        nearest texts; and the same @1. With a zero-shot set, "top1/zero_shot/8".
        """
        image, text = towers(model)
        test, settings = self.source.test(), self.config.evaluation
        dims = self.dims.with_interpolated()
        images = self.embed_images(image, test.images)
        grouped = [texts_of(texts, settings.captions_per_text) for texts in test.captions]
        texts = self.embed_texts(text, [one for group in grouped for one in group])
        owners = np.repeat(np.arange(len(grouped)), [len(group) for group in grouped])
        own = np.arange(len(grouped))
        ks = [k for k in RECALL_AT if k <= len(grouped)]
        for name, found in (
            ("text_to_image", pair_recall(texts, owners, images, own, dims, ks)),
            ("image_to_text", pair_recall(images, own, texts, owners, dims, ks)),
        ):
            for k in ks:
                for dim in dims:
                    yield f"recall@{k}/{name}/{dim}", found[dim][k]
        if settings.zero_shot.name:
            yield from self._zero_shot(image, text, dims)

    def export(self, model, directory):
        """Writes `directory`/VERSION, a SavedModel that answers raw text with images.

        Signatures: `embed_text` (and `embed`) from raw strings, `embed_image` from raw images,
        and `retrieve`, the evaluation split's images that are nearest to a text. An id is
        ROW/CAPTION, the row in the split and the image's first caption.
        """
        image, text = towers(model)
        test, dims = self.source.test(), self.dims
        ids = [f"{row}/{texts[0]}" for row, texts in enumerate(test.captions)]
        rows, encoder = len(ids), self.text_encoder(text)
        plan = SearchPlan.adaptive(
            shortlist_dim=dims[(len(dims) - 1) // 2], shortlist=min(100, rows),
            rerank_dim=dims.width, k=min(10, rows),
        )  # fmt: skip
        return export_saved_model(
            directory,
            encoder,
            index=NestedIndex.build(self.embed_images(image, test.images), dims, ids=ids),
            plan=plan,
            options=ServingOptions(encoders={"embed_text": encoder, "embed_image": image}),
        )

    def text_encoder(self, text_tower):
        """Raw strings (batch,) -> the embedding (batch, d)."""
        text = keras.Input((), dtype="string", name="text")
        words = self.config.vocabulary
        tokens = BertTokens(self.vocabulary, self.config.text.length, words.lower_case)
        return keras.Model(text, text_tower(tokens(text)), name="text_encoder")

    def embed_images(self, tower, images):
        """Embeddings (images, d) of raw images, in batches of one shape."""
        if not tower.compiled:
            tower.compile(jit_compile=self.config.jit_compile)
        rows, parts = self.config.evaluation.batch_size, []
        for start in range(0, len(images), rows):
            batch = images[start : start + rows]
            padded = np.concatenate([batch, np.repeat(batch[-1:], rows - len(batch), axis=0)])
            parts.append(np.asarray(tower.predict_on_batch(padded), "float32")[: len(batch)])
        return np.concatenate(parts)

    def embed_texts(self, tower, texts):
        """Embeddings (texts, d) of strings."""
        rows = self.config.evaluation.batch_size
        return embedded(tower, self.tokens, texts, rows, self.config.jit_compile)

    def _zero_shot(self, image, text, dims):
        settings = self.config.evaluation.zero_shot
        builder = image_set(settings.name, self.config.data.data_dir or None)
        size = self.source.image_shape[0] or self.config.data.eval_resolution
        found = read_split(builder, settings.split, size, settings.max_examples or None)
        names = class_names(builder)
        texts = self.embed_texts(text, prompts(names))
        texts = texts.reshape(len(names), -1, texts.shape[1])
        images = self.embed_images(image, found.images)
        for dim, value in zero_shot_accuracy(texts, images, found.labels, dims).items():
            yield f"top1/zero_shot/{dim}", value


class Temperature(keras.metrics.Metric):
    """The learned temperature as a step leaves it; the mean where each prefix has its own.

    Args:
        similarity: the `MatryoshkaSimilarity` layer that learns it.
    """

    def __init__(self, similarity):
        super().__init__(name="temperature")
        self.similarity = similarity

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Nothing to add up."""

    def result(self):
        return keras.ops.mean(keras.ops.exp(-self.similarity.log_inverse_temperature))


@dataclasses.dataclass
class Source:
    """Where images and captions come from.

    `train` is None where the set is streamed from `builder`; `train_texts()` and `test()` read.
    """

    image_shape: tuple
    train: CaptionedImages | None
    train_texts: object
    test: object
    builder: object = None


def _of_width(backbone, width):
    """`backbone` with a linear layer to the width, where its own differs."""
    if backbone.output_shape[-1] == width:
        return backbone
    embedding = keras.layers.Dense(width, name="image_embedding")(backbone.output)
    return keras.Model(backbone.input, embedding, name=backbone.name)


def _tfds(config):
    data = config.data
    if data.in_memory == (data.augment == "random_resized_crop"):
        raise ValueError(
            "'random_resized_crop' is for streamed sets (`data.in_memory` False), and they take no "
            f"other. Received {data.augment!r} with `data.in_memory` {data.in_memory}."
        )
    builder = caption_set(
        data.name, data.captions, data.data_dir or None, image_shape_needed=data.in_memory
    )
    most = config.evaluation.max_examples or None
    size = None if data.in_memory else data.eval_resolution

    def test():
        return read_captioned(builder, data.eval_split, data.captions, size, data.eval_crop, most)

    if not data.in_memory:
        sizes = {*data.resolution, data.eval_resolution}
        side = sizes.pop() if len(sizes) == 1 else None
        texts = lambda: caption_texts(builder, data.train_split, data.captions)  # noqa: E731
        return Source((side, side, 3), None, texts, test, builder)
    train = read_captioned(
        builder, data.train_split, data.captions, max_examples=data.max_examples or None
    )
    return Source(train.images.shape[1:], train, lambda: _all_texts(train), test, builder)


def _all_texts(data):
    return [text for texts in data.captions for text in texts]


def _made(data):
    """Seeded artificial images of one colour and a bright half, which the captions name."""
    rng = np.random.default_rng(0)
    colours = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 50, 220)}
    halves = {"top": (0, 0), "bottom": (0, 1), "left": (1, 0), "right": (1, 1)}
    height, width, channels = shape = tuple(data.made_shape)

    def split(examples):
        images, captions = [], []
        for _ in range(examples):
            colour, half = rng.choice(list(colours)), rng.choice(list(halves))
            image = np.full(shape, colours[colour], "float64") + rng.normal(0, 10, shape)
            axis, end = halves[half]
            place = [slice(None)] * 3
            middle = shape[axis] // 2
            place[axis] = slice(middle, None) if end else slice(None, middle)
            image[tuple(place)] += 40
            images.append(image.clip(0, 255).astype("uint8"))
            captions.append((colour, f"bright at the {half}", f"a {colour} image"))
        return CaptionedImages(np.stack(images), tuple(captions))

    train, test = split(data.made_examples), split(max(data.made_examples // 4, 2))
    return Source(shape, train, lambda: _all_texts(train), lambda: test)
