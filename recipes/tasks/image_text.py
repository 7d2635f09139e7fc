"""Training a dual encoder of images and texts at every prefix.

Configuration keys beside those that all tasks share:

    embedding_width      d of both towers
    nesting_dims         M as a tuple; empty halves the width down to `smallest_dim`
    smallest_dim         8 by default
    temperature          where the learned temperature begins
    temperature_per_prefix  one for each prefix instead of one for all
    relative_importance  weights c_m by dim, such as "8:2,16:1.5", or "adaloss", "uw_so" or "famo",
                         whose weights adapt; empty is 1 for all
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
                         split, max_examples} is a TFDS image classification set, which the
                         evaluator "zero_shot" measures; an empty name leaves it out
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
    caption_batches,
    caption_set,
    caption_texts,
    class_names,
    image_set,
    read_captioned,
    read_split,
    resolution_stages,
    streamed_caption_batches,
)
from mrl_keras.data.image_text.pipeline import texts_of
from mrl_keras.data.image_text.sets import captions_of
from mrl_keras.data.tfds_sets import stored_examples
from mrl_keras.evaluation import EvaluationPass, ZeroShotEvaluator, prompts
from mrl_keras.export import ServingOptions
from mrl_keras.models import (
    dual_encoder,
    text_embedder,
    towers,
)
from recipes.common import task
from recipes.common.corpus import (
    Direction,
    Rows,
    array_corpus,
    image_reader,
    made_ids,
    stored_corpus,
)
from recipes.common.prefixes import chosen_dims, importance
from recipes.common.towers import embed_images, embed_texts, make_backbone
from recipes.common.vocabulary import RunVocabulary

AUGMENTATIONS = ("pad_crop_flip", "random_resized_crop", "none")


class Task(task.Task):
    """A dual encoder, see `recipes.common.task.Task`; the module's docstring has the keys."""

    def __init__(self, config, workdir=None):
        super().__init__(config, workdir)
        if config.data.augment not in AUGMENTATIONS:
            raise ValueError(
                f"`data.augment` must be one of {AUGMENTATIONS}. Received {config.data.augment!r}."
            )
        self.source = _made(config.data) if config.data.name == "made" else _tfds(config)
        self.vocabulary = RunVocabulary(
            workdir, config, config.text.length, self.source.train_texts
        )
        self.dims = chosen_dims(config, config.embedding_width)

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
            tokens = self.vocabulary.wordpiece(texts)
            tokens = {name: tf.ensure_shape(values, shape) for name, values in tokens.items()}
            return {"images": images, **tokens}, tf.zeros(batch_size)

        return batches.map(model_inputs, num_parallel_calls=1).prefetch(2)

    def build_model(self):
        """The dual encoder, whose own metric is the temperature."""
        config, width = self.config, self.config.embedding_width
        image = make_backbone(
            config.image.backbone, self.source.image_shape, width, config.image.options
        )
        text = text_embedder(
            config.text.length,
            width,
            config.text.pooling,
            vocab_size=len(self.vocabulary),
            **config.text.options,
        )
        model = dual_encoder(
            _of_width(image, width),
            text,
            self.dims,
            config.temperature,
            config.temperature_per_prefix,
        )
        model.temperature = Temperature(model.get_layer("similarity"))
        return model

    def pretrained_parts(self, model):
        """The text tower's BERT and the image tower, without linear layers after them."""
        image, text = towers(model)
        return [(text.get_layer("bert"), None), (image, "image_embedding")]

    def loss(self):
        """The Matryoshka loss over the contrastive loss of the whole batch (Eq. 1)."""
        weights = importance(self.config, self.dims)
        return MatryoshkaLoss(SymmetricContrastive("gathered"), weights)

    def metrics(self):
        """How often the batch's nearest text is the right one, per prefix."""
        return per_prefix(InBatchAccuracy(), self.dims)

    def evaluators(self):
        """Those of `config.evaluators`, and zero-shot accuracy where there is a set for it."""
        zero_shot = [ZeroShotEvaluator()] if self.config.evaluation.zero_shot.name else []
        return [*super().evaluators(), *zero_shot]

    def evaluation_pass(self, model):
        """Embeddings of the evaluation split's images and texts, and of a zero-shot set."""
        image, text = towers(model)

        def pairs(get):
            test, most = self.source.test(), self.config.evaluation.captions_per_text
            grouped = [texts_of(texts, most) for texts in test.captions]
            return {
                "images": self.embed_images(image, test.images),
                "texts": self.embed_texts(text, [one for group in grouped for one in group]),
                "text_images": np.repeat(np.arange(len(grouped)), [len(g) for g in grouped]),
            }

        parts = {("images", "texts", "text_images"): pairs}
        if self.config.evaluation.zero_shot.name:
            names = ("zero_shot_images", "zero_shot_labels", "prompt_embeddings")
            parts[names] = lambda get: self._zero_shot(image, text)
        return EvaluationPass(self.dims, parts, self.dims.interpolated())

    def exported_parts(self, model):
        """Both towers: `embed_text` (and `embed`) from raw strings, `embed_image` from images."""
        image, text = towers(model)
        encoder = self.text_encoder(text)
        return {
            "encoder": encoder,
            "nesting_dims": self.dims,
            "options": ServingOptions(encoders={"embed_text": encoder, "embed_image": image}),
        }

    def directions(self, model):
        """Texts find images, and under "texts" images find texts.

        The texts are those of an evaluation: `evaluation.captions_per_text` joined. An image is
        relevant to its own texts, and they to it. The option `ids` names the images.
        """
        image, text = towers(model)

        def embed_images(images):
            images = images.astype(tf.as_dtype(self.config.data.dtype).as_numpy_dtype)
            return self.embed_images(image, images)

        def embed_texts(texts):
            return self.embed_texts(text, texts)

        def images(source):
            return self._images(source, embed_images)

        def texts(source):
            return self._texts(source, embed_texts)

        return {
            "": Direction(images, texts, embed_images, embed_texts),
            "texts": Direction(texts, images, embed_texts, embed_images, encoder=image),
        }

    def _images(self, source, embed):
        """A `Corpus` of images, each relevant to the texts of its own example."""
        data, rows = self.config.data, self.config.evaluation.batch_size
        if source.name == "made":
            found, keys = self._made(source)
            ids = made_ids(0, [texts[0] for texts in found.captions])
            made = Rows(found.images, ids, None, keys, [(key,) for key in keys])
            about = {"set": "made", "split": source.split}
            return array_corpus(about, made, embed, rows, most=source.most)
        builder = self._builder(source)
        image_of = image_reader(builder, data, self.source.image_shape)

        def parts(example):
            shown = captions_of(example, data.captions)[0]
            return {"inputs": image_of(example), "shown": shown}

        stored = stored_corpus("images", builder, source, parts, embed, rows)
        return _relevant_to_themselves(stored)

    def _texts(self, source, embed):
        """A `Corpus` of texts, of which an image may have several, relevant to their images."""
        data, most = self.config.data, self.config.evaluation.captions_per_text
        if source.name == "made":
            found, keys = self._made(source)
            examples = list(zip(keys, found.captions, strict=True))
        else:
            builder = self._builder(source)

            def captions(example):
                return example["tfds_id"], captions_of(example, data.captions)

            stored = stored_examples(builder, source.split, undecoded=("image",)).map(captions)
            examples = (
                (key.decode(), [one.decode() for one in found])
                for key, found in stored.as_numpy_iterator()
            )
        pairs = [(text, key) for key, found in examples for text in texts_of(found, most)]
        texts, keys = (np.array(part) for part in zip(*pairs, strict=True))
        made = Rows(texts, made_ids(0, texts), None, keys, [(key,) for key in keys])
        about = {"kind": "texts", "set": source.name, "split": source.split, "ids": "row"}
        rows = self.config.evaluation.batch_size
        return array_corpus(about, made, embed, rows, most=source.most)

    def _made(self, source):
        """(the artificial images of a split, their keys)."""
        found = self.source.test() if source.split == "test" else self.source.train
        return found, np.array([f"{source.split}/{row}" for row in range(len(found))])

    def _builder(self, source):
        return caption_set(source.name, self.config.data.captions, source.data_dir or None)

    def text_encoder(self, text_tower):
        """Raw strings (batch,) -> the embedding (batch, d)."""
        text = keras.Input((), dtype="string", name="text")
        return keras.Model(text, text_tower(self.vocabulary.layer()(text)), name="text_encoder")

    def embed_images(self, tower, images):
        """Embeddings (images, d) of raw images."""
        rows, jit_compile = self.config.evaluation.batch_size, self.config.jit_compile
        return embed_images(tower, images, rows, jit_compile)

    def embed_texts(self, tower, texts):
        """Embeddings (texts, d) of strings."""
        rows, jit_compile = self.config.evaluation.batch_size, self.config.jit_compile
        return embed_texts(tower, self.vocabulary.wordpiece, texts, rows, jit_compile)

    def _zero_shot(self, image, text):
        settings = self.config.evaluation.zero_shot
        builder = image_set(settings.name, self.config.data.data_dir or None)
        size = self.source.image_shape[0] or self.config.data.eval_resolution
        found = read_split(builder, settings.split, size, settings.max_examples or None)
        names = class_names(builder)
        texts = self.embed_texts(text, prompts(names))
        return {
            "zero_shot_images": self.embed_images(image, found.images),
            "zero_shot_labels": found.labels,
            "prompt_embeddings": texts.reshape(len(names), -1, texts.shape[1]),
        }


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


def _relevant_to_themselves(corpus):
    """The corpus with each row's own key as its judgement."""

    def read(start):
        for rows in corpus.read(start):
            yield rows._replace(relevant=[(key,) for key in rows.keys])

    return dataclasses.replace(corpus, read=read)


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
