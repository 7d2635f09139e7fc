"""Embedders of raw texts and images over nested prefixes, in the manner of KerasHub's tasks."""

import keras
import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.files import exists, join, local_path, read_json, write_json
from mrl_keras.layers import normalize_prefix
from mrl_keras.losses import CoSENT, MatryoshkaLoss, SymmetricContrastive
from mrl_keras.metrics import InBatchAccuracy, per_prefix
from mrl_keras.models.chunked_encoder import ChunkedEncoder
from mrl_keras.models.contrastive_scores import CHUNK_SIZE
from mrl_keras.models.hub import (
    IMAGE_PREPROCESSORS,
    TEXT_PREPROCESSORS,
    hub_backbone,
    hub_preprocessor,
    keras_hub_module,
    projected,
    sequence_or,
)
from mrl_keras.models.pair_training import (
    CONFIG,
    WEIGHTS,
    TrainsOnPairs,
    Untracked,
    read_variables,
    write_variables,
)
from mrl_keras.models.pooling import functional, pooled
from mrl_keras.models.text_embedder import sentence_pairs
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import deserialize_argument, register

_HUB_ADDRESSES = ("kaggle://", "hf://", "modelscope://")


class _Embedder(TrainsOnPairs):
    """A backbone pooled to one embedding, its preprocessor, and training on pairs."""

    raw_input = None  # (name, shape, dtype) of what the preprocessor takes
    _preprocessors = ()
    _pooling = None  # of vectors of tokens or patches, where none is asked for

    def __init__(
        self,
        backbone,
        preprocessor=None,
        nesting_dims=None,
        pooling=None,
        output=None,
        width=None,
        **kwargs,
    ):
        encoder = self._encoder(backbone, pooling, output, width)
        if nesting_dims is None:
            raise ValueError(
                "`nesting_dims` must be prefix sizes that end at the embedding width "
                f"{encoder.output_shape[-1]}. Received None."
            )
        dims = NestingDims(nesting_dims, width=encoder.output_shape[-1])
        super().__init__(inputs=encoder.input, outputs=encoder.output, **kwargs)
        self._parts = Untracked(backbone=backbone, trained=None)
        self.preprocessor = preprocessor or getattr(backbone, "preprocessor", None)
        self.nesting_dims = dims
        self.pooling, self.output_name, self.width = pooling, output, width

    @classmethod
    def _encoder(cls, backbone, pooling, output, width):
        backbone = functional(backbone)
        output = sequence_or(output, backbone)
        chosen = backbone.output[output] if isinstance(backbone.output, dict) else backbone.output
        if pooling is None and len(getattr(chosen, "shape", ())) == 3:
            pooling = cls._pooling
        return projected(pooled(backbone, pooling, output), width)

    @property
    def backbone(self):
        """The network that is trained, as it was given."""
        return self._parts.backbone

    def prepared(self, raw):
        """Raw inputs as the backbone takes them; unchanged without a preprocessor."""
        if self.preprocessor is None:
            return raw
        if isinstance(raw, (list, tuple, np.ndarray)) and not len(raw):
            raise ValueError("There must be at least one input. Received none.")
        if isinstance(raw, np.ndarray) and raw.dtype.kind in "OUS":
            raw = raw.tolist()
        found = self.preprocessor(list(raw) if isinstance(raw, tuple) else raw)
        if not isinstance(found, dict) or not isinstance(self.input, dict):
            return found
        if missing := set(self.input) - set(found):
            raise ValueError(
                f"The preprocessor must give the backbone's inputs {sorted(self.input)}. It gives "
                f"{sorted(found)}, and {sorted(missing)} are missing."
            )
        return {name: found[name] for name in self.input}

    def named(self, raw, prefix=""):
        """Raw inputs prepared, as a dict by the names of the backbone's inputs after `prefix`."""
        found = self.prepared(raw)
        if not isinstance(found, dict):
            found = {self.inputs[0].name: keras.ops.convert_to_tensor(found)}
        return {f"{prefix}{name}": value for name, value in found.items()}

    def compile(
        self,
        optimizer="auto",
        loss="contrastive",
        metrics="auto",
        temperature=0.05,
        chunk_size=None,
        **kwargs,
    ):
        """What `fit` trains.

        Args:
            optimizer: Keras optimizer. Default "auto", AdamW with a learning rate of 5e-5.
            loss: "contrastive": each first input is nearest to its own second one among all of the
                batch, no labels are read; "cosent": the order of the cosines is that of the scores,
                which `fit` gets as `y`; or a Keras loss of scores and cosines (batch, 1) of one
                prefix. Each is applied at every prefix. Default "contrastive".
            metrics: Keras metrics of the nested output. Default "auto": for "contrastive" the
                accuracy within the batch of every prefix, else none.
            temperature: float, of the contrastive loss. Default 0.05.
            chunk_size: int, inputs of a batch that are encoded together, for large batches: see
                `ChunkedEncoder`. The loss "contrastive" has the cosines of so many inputs with
                all others alive at a time then: see `ContrastiveScores`. Default None, all.
            **kwargs: as of `keras.Model.compile`.

        Raises:
            ValueError: another loss.
        """
        positives = "gathered" if chunk_size is None else "scores"
        made = {"contrastive": SymmetricContrastive(positives), "cosent": CoSENT()}
        inner = made.get(loss, loss) if isinstance(loss, str) else loss
        if not isinstance(inner, keras.losses.Loss):
            raise ValueError(
                f"`loss` must be one of {list(made)} or a Keras loss. Received {loss!r}."
            )
        one = inner.loss if isinstance(inner, MatryoshkaLoss) else inner
        contrastive = isinstance(one, SymmetricContrastive)
        scores = contrastive and one.positives == "scores"
        inputs = self.input if isinstance(self.input, dict) else {self.inputs[0].name: self.input}
        encoder = keras.Model(inputs, self.output)
        if chunk_size is not None:
            encoder = ChunkedEncoder(encoder, chunk_size)
        alive = (chunk_size or CHUNK_SIZE) if scores else None
        pairs = sentence_pairs(encoder, self.nesting_dims, temperature, alive)
        output = pairs.output["similarity" if contrastive else "cosine"]
        trained = keras.Model(pairs.input, output, name=f"{self.name}_pairs")
        if metrics == "auto":
            dims = self.nesting_dims
            metrics = per_prefix(InBatchAccuracy(scores=scores), dims) if contrastive else None
        if optimizer == "auto":
            optimizer = keras.optimizers.AdamW(5e-5)
        if not isinstance(inner, MatryoshkaLoss):
            inner = MatryoshkaLoss(inner)
        trained.compile(optimizer=optimizer, loss=inner, metrics=metrics, **kwargs)
        self._parts.trained = trained

    def _named(self, pair):
        return self.named(pair[0], "first_") | self.named(pair[1], "second_")

    def predict(self, x, **kwargs):
        return super().predict(self.prepared(x), **kwargs)

    def predict_on_batch(self, x):
        return super().predict_on_batch(self.prepared(x))

    def encode(self, raw, dim=None, normalize=True, batch_size=32):
        """The embeddings of raw inputs, cut to a prefix and normalised.

        Args:
            raw: a list or array of raw inputs, or one text.
            dim: int, components to keep, 1 to d. Default None, all.
            normalize: bool, L2-normalise after the cut. Default True.
            batch_size: int, inputs embedded at once. Default 32.

        Returns:
            float32 array (rows, dim).
        """
        full = self.nesting_dims.width
        dim = full if dim is None else whole_number(dim, "`dim`")
        if dim > full:
            raise ValueError(f"`dim` must be an int from 1 to {full}. Received {dim}.")
        raw, size = [raw] if isinstance(raw, str) else raw, whole_number(batch_size, "`batch_size`")
        rows = [np.zeros((0, full), "float32")]
        for start in range(0, len(raw), size):
            found = self(self.prepared(raw[start : start + size]), training=False)
            rows.append(keras.ops.convert_to_numpy(keras.ops.cast(found, "float32")))
        cut = np.concatenate(rows)[:, :dim]
        if not normalize or not len(cut):
            return cut
        return keras.ops.convert_to_numpy(normalize_prefix(cut, dim))

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            "name": self.name,
            **self._options(),
        }

    def _options(self):
        return {
            "nesting_dims": list(self.nesting_dims),
            "pooling": self.pooling,
            "output": self.output_name,
            "width": self.width,
        }

    @classmethod
    def from_config(cls, config):
        for name in ("backbone", "preprocessor"):
            config = deserialize_argument(config, name, keras.saving.deserialize_keras_object)
        return cls(**config)

    @classmethod
    def from_preset(cls, preset, preprocessor=None, freeze=False, lora_rank=None, **options):
        """An embedder made of a preset of KerasHub, or one that `save_to_preset` wrote.

        Args:
            preset: a name that KerasHub knows, the address of a model on Kaggle or Hugging Face,
                or a local folder.
            preprocessor: default None, the preset's own.
            freeze, lora_rank: as of `mrl_keras.models.hub_backbone`. Default False and None.
            **options: `nesting_dims`, `pooling`, `output`, `width` and `name`, which a folder of
                `save_to_preset` knows; `sequence_length` of the preset's preprocessor; `dtype` and
                further arguments of the backbone.

        Raises:
            ImportError: KerasHub is not installed.
            ValueError: no such preset, or a preset without a preprocessor that fits.
        """
        own, config, weights = {}, *(_own_file(preset, name) for name in (CONFIG, WEIGHTS))
        if config:
            own = read_json(config)
            if own.pop("class_name") != cls.__name__:
                raise ValueError(f"The preset {preset!r} is of another class than {cls.__name__}.")
        length = {k: options.pop(k) for k in ("sequence_length",) if k in options}
        names = ("nesting_dims", "pooling", "output", "width", "name")
        own |= {name: options.pop(name) for name in names if name in options}
        if kind := own.pop("backbone_class", None):
            backbone = getattr(keras_hub_module().models, kind).from_preset(preset, **options)
        else:
            backbone = hub_backbone(preset, freeze, lora_rank, **options)
        has_one = own.pop("has_preprocessor", True)
        if preprocessor is None:
            preprocessor = getattr(backbone, "preprocessor", None)
        if preprocessor is None and has_one:
            preprocessor = hub_preprocessor(preset, cls._preprocessors, **length)
        made = cls(backbone, preprocessor, **own)
        if weights:
            read_variables(made.get_layer("embedding"), weights)
        return made

    def save_to_preset(self, preset):
        """Writes backbone, preprocessor and nesting dims into a local folder.

        KerasHub itself loads the backbone and the preprocessor of the folder.

        Args:
            preset: path of a folder.

        Raises:
            ValueError: a backbone that is not of KerasHub: save such an embedder by
                `save("NAME.keras")`.
        """
        if not hasattr(self.backbone, "save_to_preset"):
            raise ValueError(
                "A preset holds a backbone of KerasHub. Received "
                f"{type(self.backbone).__name__}: save the embedder by `save('NAME.keras')`."
            )
        folder = local_path(preset, "`preset`")
        self.backbone.save_to_preset(folder)
        if hasattr(self.preprocessor, "save_to_preset"):
            self.preprocessor.save_to_preset(folder)
        config = {"class_name": type(self).__name__, "name": self.name, **self._options()}
        config["has_preprocessor"] = self.preprocessor is not None
        if isinstance(self.backbone, keras_hub_module().models.Task):
            config["backbone_class"] = type(self.backbone).__name__
        if self.width is not None and "embedding" in [layer.name for layer in self.layers]:
            write_variables(self.get_layer("embedding"), join(folder, WEIGHTS))
        write_json(join(folder, CONFIG), config)


def _own_file(preset, name):
    """The path of a file that `save_to_preset` wrote, None where there is none."""
    if str(preset).startswith(_HUB_ADDRESSES):  # no folder: KerasHub reads it
        return None
    path = join(preset, name)
    return path if exists(path) else None


@register
class MatryoshkaTextEmbedder(_Embedder):
    """An embedder of texts whose embeddings may be cut, made of any text backbone.

    `fit` trains it on pairs of texts, `encode` embeds texts, and
    `mrl_keras.export.export_saved_model` takes it as it is: the served model reads strings.
    Called itself, it takes what its preprocessor gives, as every task of KerasHub.

    Args:
        backbone: `keras.Model`, a backbone of KerasHub, or a finished `keras_hub` text embedder,
            or any functional model of tokens: a dict of inputs -> vectors of tokens (batch,
            length, d), or (batch, d), alone or in a dict.
        preprocessor: callable, a list or tensor of texts -> a dict of the backbone's inputs, such
            as `keras_hub.models.BertTextEmbedderPreprocessor` or `BertTokens`. Default None, the
            backbone's own where it has one, else texts can't be read.
        nesting_dims: `NestingDims` or list of ints that ends at the embedding width.
        pooling: "mean" or "cls" of vectors of tokens. Default None, "mean".
        output: str, which of the backbone's outputs, "pooled_output" for example. Default None,
            the only one, else "sequence_output".
        width: int, the embedding width d, by a linear layer where it is not the backbone's.
            Default None, the backbone's.
        **kwargs: `name`.

    Raises:
        ValueError: a backbone or dims that don't fit.

    Example:

    >>> import keras
    >>> from mrl_keras.models import MatryoshkaTextEmbedder
    >>> tokens = keras.layers.TextVectorization(output_sequence_length=4)
    >>> tokens.adapt(["a cat sleeps", "a dog runs"])
    >>> ids = keras.Input((4,), dtype="int64", name="ids")
    >>> backbone = keras.Model({"ids": ids}, keras.layers.Embedding(9, 8)(ids))
    >>> embedder = MatryoshkaTextEmbedder(
    ...     backbone, lambda texts: {"ids": tokens(texts)}, nesting_dims=[2, 4, 8])
    >>> history = embedder.fit((["a cat", "a dog"], ["cat sleeps", "dog runs"]), verbose=0)
    >>> embedder.encode(["a cat runs"], dim=4).shape
    (1, 4)

    Source: arXiv 2205.13147, Section 3; arXiv 1908.10084, Section 3 (poolings).
    """

    raw_input = ("text", (None,), "string")
    _preprocessors = TEXT_PREPROCESSORS
    _pooling = "mean"


@register
class MatryoshkaImageEmbedder(_Embedder):
    """An embedder of images whose embeddings may be cut, made of any image backbone.

    As `MatryoshkaTextEmbedder`, with arrays of images (rows, height, width, channels) in the place
    of lists of texts: `fit` trains on pairs of images that belong together, such as two views.

    Args:
        backbone: `keras.Model`, a backbone of KerasHub, or any model of images: (batch, d), a
            feature map, or vectors of patches, alone or in a dict.
        preprocessor: callable, images -> what the backbone takes, such as
            `keras_hub.layers.ImageConverter`. Default None, the backbone's own where it has one,
            else images as they are.
        nesting_dims: `NestingDims` or list of ints that ends at the embedding width.
        pooling: "mean" or "cls" of vectors of patches. Default None, "mean".
        output: str, which of the backbone's outputs. Default None, the only one.
        width: int, the embedding width d, by a linear layer where it is not the backbone's.
            Default None, the backbone's.
        **kwargs: `name`.

    Raises:
        ValueError: a backbone or dims that don't fit.

    Example:

    >>> from mrl_keras.models import MatryoshkaImageEmbedder, small_convnet
    >>> embedder = MatryoshkaImageEmbedder(
    ...     small_convnet((8, 8, 1), width=8, filters=(4,)), nesting_dims=[2, 4, 8])
    >>> embedder.encode(np.zeros((3, 8, 8, 1)), dim=4).shape
    (3, 4)

    Source: arXiv 2205.13147, Section 3.
    """

    raw_input = ("images", (None, None, None, 3), "float32")
    _preprocessors = IMAGE_PREPROCESSORS
    _pooling = "mean"
