"""An embedder of raw images and texts in one space, in the manner of KerasHub's tasks."""

import keras

from mrl_keras.files import exists, join, local_path, read_json, write_json
from mrl_keras.losses import MatryoshkaLoss, SymmetricContrastive
from mrl_keras.metrics import InBatchAccuracy, per_prefix
from mrl_keras.models.dual_encoder import dual_encoder
from mrl_keras.models.embedders import MatryoshkaImageEmbedder, MatryoshkaTextEmbedder
from mrl_keras.models.pair_training import (
    CONFIG,
    WEIGHTS,
    TrainsOnPairs,
    Untracked,
    read_variables,
    write_variables,
)
from mrl_keras.registry import deserialize_argument, register


@register
class MatryoshkaImageTextEmbedder(TrainsOnPairs):
    """An image and a text embedder whose embeddings are compared, and may be cut.

    `fit` trains both on images and their texts, in-batch negatives in both directions at every
    prefix, as `dual_encoder` does; `encode_images` and `encode_texts` embed. To serve it, give
    `mrl_keras.export.export_saved_model` its `text_embedder` as the encoder and both as
    `ServingOptions.encoders`. Called itself, it takes what the preprocessors give, by name, and
    gives the similarities (images, prefixes, texts).

    Args:
        image_embedder: `MatryoshkaImageEmbedder`.
        text_embedder: `MatryoshkaTextEmbedder` of the same nesting dims.
        temperature: float from 0.01 to 100, where the learned temperature begins. Default 0.07.
        per_prefix: bool, a temperature for each prefix. Default False.
        **kwargs: `name`.

    Raises:
        ValueError: other embedders, of different nesting dims, or with inputs of one name.

    Example:

    >>> import keras
    >>> from mrl_keras.models import (
    ...     MatryoshkaImageEmbedder, MatryoshkaImageTextEmbedder, MatryoshkaTextEmbedder,
    ...     small_convnet)
    >>> tokens = keras.layers.TextVectorization(output_sequence_length=4)
    >>> tokens.adapt(["a cat sleeps", "a dog runs"])
    >>> ids = keras.Input((4,), dtype="int64", name="ids")
    >>> backbone = keras.Model({"ids": ids}, keras.layers.Embedding(9, 8)(ids))
    >>> embedder = MatryoshkaImageTextEmbedder(
    ...     MatryoshkaImageEmbedder(small_convnet((8, 8, 1), 8, filters=(4,)), None, [4, 8]),
    ...     MatryoshkaTextEmbedder(backbone, lambda texts: {"ids": tokens(texts)}, [4, 8]))
    >>> history = embedder.fit((np.zeros((2, 8, 8, 1)), ["a cat", "a dog"]), verbose=0)
    >>> embedder.encode_texts(["a cat"], dim=4).shape
    (1, 4)

    Source: arXiv 2205.13147, Section 3 and Appendix C; arXiv 2102.05918.
    """

    def __init__(self, image_embedder, text_embedder, temperature=0.07, per_prefix=False, **kwargs):
        for given, kind in (
            (image_embedder, MatryoshkaImageEmbedder),
            (text_embedder, MatryoshkaTextEmbedder),
        ):
            if not isinstance(given, kind):
                raise ValueError(
                    f"A {kind.__name__} is wanted, such as `{kind.__name__}.from_preset` makes. "
                    f"Received {given!r}."
                )
        dims = image_embedder.nesting_dims
        if dims != text_embedder.nesting_dims:
            raise ValueError(
                "Both embedders must have the same nesting dims. Received "
                f"{list(dims)} (image) and {list(text_embedder.nesting_dims)} (text); `width` "
                "gives both one width."
            )
        pairs = dual_encoder(image_embedder, text_embedder, dims, temperature, per_prefix)
        super().__init__(inputs=pairs.input, outputs=pairs.output, **kwargs)
        self._parts = Untracked(image=image_embedder, text=text_embedder, pairs=pairs, trained=None)
        # Tracked, so that a `.keras` file has the tokenizer's files.
        self.preprocessors = [
            one for one in (image_embedder.preprocessor, text_embedder.preprocessor) if one
        ]
        self.temperature, self.per_prefix = temperature, per_prefix

    image_embedder = property(lambda self: self._parts.image, doc="`MatryoshkaImageEmbedder`.")
    text_embedder = property(lambda self: self._parts.text, doc="`MatryoshkaTextEmbedder`.")
    nesting_dims = property(lambda self: self.text_embedder.nesting_dims, doc="`NestingDims`.")

    def compile(self, optimizer="auto", loss="auto", metrics="auto", **kwargs):
        """What `fit` trains.

        Args:
            optimizer: Keras optimizer. Default "auto", AdamW with a learning rate of 5e-5.
            loss: Keras loss of the similarities (images, prefixes, texts). Default "auto",
                `MatryoshkaLoss(SymmetricContrastive("gathered"))`: no labels are read.
            metrics: Keras metrics. Default "auto", the accuracy within the batch of every prefix.
            **kwargs: as of `keras.Model.compile`.
        """
        if optimizer == "auto":
            optimizer = keras.optimizers.AdamW(5e-5)
        if loss == "auto":
            loss = MatryoshkaLoss(SymmetricContrastive("gathered"))
        if metrics == "auto":
            metrics = per_prefix(InBatchAccuracy(), self.nesting_dims)
        self._parts.pairs.compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        self._parts.trained = self._parts.pairs

    def _named(self, pair):
        return self.image_embedder.named(pair[0]) | self.text_embedder.named(pair[1])

    def encode_images(self, images, dim=None, **options):
        """Embeddings of images; arguments as of `MatryoshkaImageEmbedder.encode`."""
        return self.image_embedder.encode(images, dim, **options)

    def encode_texts(self, texts, dim=None, **options):
        """Embeddings of texts; arguments as of `MatryoshkaTextEmbedder.encode`."""
        return self.text_embedder.encode(texts, dim, **options)

    def get_config(self):
        return {
            "image_embedder": keras.saving.serialize_keras_object(self.image_embedder),
            "text_embedder": keras.saving.serialize_keras_object(self.text_embedder),
            "name": self.name,
            "temperature": self.temperature,
            "per_prefix": self.per_prefix,
        }

    @classmethod
    def from_config(cls, config):
        for name in ("image_embedder", "text_embedder"):
            config = deserialize_argument(config, name, keras.saving.deserialize_keras_object)
        return cls(**config)

    def save_to_preset(self, preset):
        """Writes both embedders and the temperature into a local folder.

        The folders "image" and "text" in it are what the embedders' own `save_to_preset` writes.

        Args:
            preset: path of a folder.

        Raises:
            ValueError: a backbone that is not of KerasHub: save by `save("NAME.keras")`.
        """
        folder = local_path(preset, "`preset`")
        self.image_embedder.save_to_preset(join(folder, "image"))
        self.text_embedder.save_to_preset(join(folder, "text"))
        write_variables(self.get_layer("similarity"), join(folder, WEIGHTS))
        own = {name: getattr(self, name) for name in ("name", "temperature", "per_prefix")}
        write_json(join(folder, CONFIG), {"class_name": type(self).__name__, **own})

    @classmethod
    def from_preset(cls, preset):
        """The embedder that `save_to_preset` wrote.

        Of other presets make both embedders, each by its own `from_preset`.

        Args:
            preset: path of a folder.

        Raises:
            ValueError: the folder is of something else.
        """
        path = join(preset, CONFIG)
        own = read_json(path) if exists(path) else {}
        if own.pop("class_name", None) != cls.__name__:
            raise ValueError(
                f"{preset!r} must be a folder that {cls.__name__}.save_to_preset wrote. Of other "
                "presets make a MatryoshkaImageEmbedder and a MatryoshkaTextEmbedder."
            )
        image = MatryoshkaImageEmbedder.from_preset(join(preset, "image"))
        text = MatryoshkaTextEmbedder.from_preset(join(preset, "text"))
        made = cls(image, text, **own)
        read_variables(made.get_layer("similarity"), join(preset, WEIGHTS))
        return made
