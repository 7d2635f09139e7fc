"""An exported model as a function of raw records, for workers that embed a corpus."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.files import local_copy


class Refused(NamedTuple):
    """In place of an embedding: why the model refuses a value."""

    reason: str


class ExportedEncoder:
    """The `embed` signature of an exported model, over lists of raw records.

    Every batch is filled up to `batch_size` by copies of its last record, so that the model sees
    one shape, and a row's embedding does not depend on how many others came with it.

    Args:
        model: str, a folder that `export_saved_model` wrote, local or remote.
        signature: str, a signature with one input that gives `embedding`. Defaults to "embed".
        batch_size: int. Defaults to 64.

    Attributes:
        nesting_dims: tuple of ints, the prefixes that the model was trained for.
        dtype, shape: the signature's input: str, and tuple without the batch axis.

    Raises:
        ValueError: no such model or signature, one with several inputs, or `batch_size` below 1.

    Example:

    >>> encode = ExportedEncoder("saved_models/emoji")                     # doctest: +SKIP
    >>> encode([encode.prepare("party")]).shape                            # doctest: +SKIP
    (1, 128)
    """

    def __init__(self, model: str, signature: str = "embed", batch_size: int = 64):
        from mrl_keras.export import load_manifest

        self.model = model
        self.signature = signature
        self.batch_size = whole_number(batch_size, "`batch_size`")
        manifest = load_manifest(model)
        self.nesting_dims = tuple(manifest["nesting_dims"])
        known = manifest["signatures"]
        if signature not in known or len(known[signature]) != 1:
            single = [name for name, inputs in known.items() if len(inputs) == 1]
            raise ValueError(
                f"`signature` must be one of the model's with one input, such as "
                f"{[name for name in single if name.startswith('embed')]}. Received {signature!r}."
            )
        ((self._input, (self.dtype, shape)),) = known[signature].items()
        self.shape = tuple(shape[1:])
        self._loaded = None

    def prepare(self, value):
        """A record's value as the signature takes it: a str, or an array of its shape and dtype.

        Args:
            value: str, the bytes of an image file, or an array. An image is cut to its central
                square and resized.

        Raises:
            ValueError: a value of another kind or shape, an image that can't be decoded, or
                numbers that are not finite.
        """
        if self.dtype == "string":
            if not isinstance(value, str):
                raise ValueError(f"the model takes text, and this is {type(value).__name__}")
            return value
        if isinstance(value, (str, bytes)) and len(self.shape) == 3:
            value = self._image(value if isinstance(value, bytes) else value.encode("utf-8"))
        if not isinstance(value, np.ndarray):
            raise ValueError(
                f"the model takes {self._wanted()}, and this is {type(value).__name__}"
            )
        fits = len(value.shape) == len(self.shape) and all(
            wanted in (None, size) for size, wanted in zip(value.shape, self.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"the model takes {self._wanted()}, and this is {value.shape}")
        value = value.astype(self.dtype)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError("it holds numbers that are not finite")
        return value

    def __call__(self, values: Sequence) -> np.ndarray:
        """Embeddings, float32 (values, d), of prepared values.

        Raises:
            ValueError: the model's files are missing or damaged.
        """
        call = self.load()
        found = []
        for low in range(0, len(values), self.batch_size):
            part = list(values[low : low + self.batch_size])
            filled = part + [part[-1]] * (self.batch_size - len(part))
            batch = np.array(filled, object) if self.dtype == "string" else np.stack(filled)
            found.append(call(batch)[: len(part)])
        return np.concatenate(found)

    def embed_each(self, values: Sequence) -> list:
        """Of each prepared value its embedding, or a `Refused`."""
        import tensorflow as tf

        try:
            return list(self(values))
        except tf.errors.InvalidArgumentError as error:
            if len(values) > 1:
                return [found for value in values for found in self.embed_each([value])]
            return [Refused(f"the model refuses it: {' '.join(error.message.split())[:200]}")]

    def load(self):
        """Loads the model once; returns a function of a whole batch of inputs."""
        if self._loaded is None:
            import tensorflow as tf

            from mrl_keras.export import load

            model = load(self.model)
            signature = model.signatures[self.signature]

            def call(batch):
                answer = signature(**{self._input: tf.constant(batch, tf.as_dtype(self.dtype))})
                return np.asarray(answer["embedding"], np.float32)

            self._keep, self._loaded = model, call  # a signature does not keep its model alive
        return self._loaded

    def fingerprint(self) -> str:
        """SHA-256 of the model's graph and variables, 64 hexadecimal digits."""
        from mrl_keras.export.versions import version_directory

        digest = hashlib.sha256()
        with local_copy(version_directory(self.model), verbose=False) as folder:
            paths = [
                os.path.join(at, name)
                for at, _, names in os.walk(folder)
                for name in names
                if "assets.extra" not in at
            ]
            for path in sorted(paths):
                digest.update(os.path.relpath(path, folder).encode())
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _wanted(self):
        return f"{self.dtype} {self.shape}"

    def _image(self, data):
        import tensorflow as tf

        from mrl_keras.data.image.augmentation import centre_crop

        height, width, channels = self.shape
        if height != width or height is None:
            raise ValueError(f"the model's images are not square: {self._wanted()}")
        try:
            image = tf.io.decode_image(data, channels=channels, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError("it is no image that TensorFlow decodes") from error
        return np.round(centre_crop(image, height, 1.0).numpy())
