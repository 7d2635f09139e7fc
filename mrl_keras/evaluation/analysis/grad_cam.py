"""Grad-CAM of one prefix: which parts of an image speak for a class there."""

from __future__ import annotations

import contextlib

import numpy as np

from mrl_keras.checks import as_int, whole_number
from mrl_keras.lazy_tensorflow import require_backend
from mrl_keras.nesting import NestingDims


def grad_cam(
    model, images, layer: str, dim: int, classes=None, nesting_dims=None, batch_size: int = 64
) -> np.ndarray:
    """Heat maps of the logit of one class at one prefix.

        a_c = mean over positions p of  d logit_(dim, class) / d A_pc
        map_p = max(0, sum over channels c of  a_c A_pc)

    with A the output of `layer`. Each map is divided by its largest value and resized bilinearly
    to the image; a map without a positive value is zero.

    Args:
        model: `keras.Model` on Keras's TensorFlow backend, images -> logits (batch, prefixes,
            classes).
        images: (images, height, width, channels), as the model takes them.
        layer: name of a layer of the model whose output is (batch, rows, columns, channels), or
            (batch, tokens, channels) with one token for each patch and perhaps a class token
            before them. "OUTER/INNER" is the layer INNER of the model OUTER that the model is
            made of, and the stage INNER of a `GardenBackbone`: "garden_resnet/stage5",
            "garden_vi_t/block2". The class token of a ViT's last block reads no other token of
            that block's output, so that a ViT with pooler "token" needs an earlier block.
        dim: int, the prefix, one of `nesting_dims`.
        classes: int, or ints (images,). Default None, the class that the prefix names.
        nesting_dims: the prefixes on axis 1 of the logits. Default None, those of the model's last
            layer.
        batch_size: int, images at once. Default 64.

    Returns:
        float32 (images, height, width), from 0 to 1.

    Raises:
        ValueError: no image, a layer that the model does not have, that runs more than once or
            whose output has no positions, another dim, classes out of range, or another backend.

    Example:

    >>> import keras
    >>> from mrl_keras import MatryoshkaDense
    >>> from mrl_keras.evaluation import grad_cam
    >>> images = keras.Input((6, 6, 3))
    >>> x = keras.layers.Conv2D(4, 3, padding="same", name="last")(images)
    >>> x = keras.layers.GlobalAveragePooling2D()(x)
    >>> model = keras.Model(images, MatryoshkaDense(10, [2, 4])(x))
    >>> grad_cam(model, np.random.rand(2, 6, 6, 3), "last", dim=2, classes=7).shape
    (2, 6, 6)

    Source: Selvaraju et al., arXiv 1610.02391; arXiv 2205.13147, Section 5, Figure 9.
    """
    require_backend("Grad-CAM")
    images = np.asarray(images, "float32")
    if images.ndim != 4 or not len(images):
        raise ValueError(
            "`images` must be (images, height, width, channels) with at least one image. "
            f"Received shape {images.shape}."
        )
    hooked, batch_size = _find(model, layer), whole_number(batch_size, "`batch_size`")
    shape = _output_shape(model, images)
    place = _place(model, shape, nesting_dims, dim)
    classes = _checked_classes(classes, len(images), shape[-1])
    parts = range(0, len(images), batch_size)
    return np.concatenate(
        [
            _heat_maps(model, hooked, layer, images[i : i + batch_size], place, chosen)
            for i in parts
            for chosen in [classes if classes is None else classes[i : i + batch_size]]
        ]
    )


def overlay(images, heat_maps, strength: float = 0.5, max_value: float = 255.0) -> np.ndarray:
    """Images with their heat maps over them: black, red, yellow and white as the heat grows.

    Brightness grows with the heat, so that a print without colour can be read.

    Args:
        images: (images, height, width, 1 or 3), from 0 to `max_value`.
        heat_maps: (images, height, width), from 0 to 1.
        strength: float from 0, the images alone, to 1, the heat alone. Default 0.5.
        max_value: the largest pixel value. Default 255.0.

    Returns:
        uint8 (images, height, width, 3).

    Raises:
        ValueError: shapes that don't fit, or values out of range.

    >>> overlay(np.zeros((1, 1, 3, 1)), [[[0.0, 0.5, 1.0]]], strength=1.0)[0, 0].tolist()
    [[0, 0, 0], [255, 127, 0], [255, 255, 255]]
    """
    images, heat = np.asarray(images, "float64"), np.asarray(heat_maps, "float64")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or heat.shape != images.shape[:3]:
        raise ValueError(
            "`images` must be (images, height, width, 1 or 3) and `heat_maps` (images, height, "
            f"width). Received shapes {images.shape} and {heat.shape}."
        )
    if heat.min() < 0.0 or heat.max() > 1.0 or not 0.0 <= strength <= 1.0:
        raise ValueError("`heat_maps` and `strength` must hold values from 0 to 1.")
    colour = np.clip(3.0 * heat[..., None] - np.arange(3.0), 0.0, 1.0)
    mixed = (1.0 - strength) * images / max_value + strength * colour
    return (255.0 * np.clip(mixed, 0.0, 1.0)).astype("uint8")


def _heat_maps(model, hooked, name, images, place, classes):
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    with tf.GradientTape() as tape, _recorded(hooked, tape) as outputs:
        tape.watch(images)
        logits = model(images, training=False)
        logits = logits[:, place]
        if classes is None:
            classes = tf.argmax(logits, axis=-1)
        score = tf.reduce_sum(tf.gather(logits, classes, batch_dims=1))
    if len(outputs) != 1:
        raise ValueError(f"The layer {name!r} must run once. It ran {len(outputs)} times.")
    gradient = tape.gradient(score, outputs[0], unconnected_gradients="zero")
    grid = _grid(tuple(outputs[0].shape), images.shape[1:3], name)
    maps, gradient = (_positions(tf.cast(x, tf.float32), grid) for x in (outputs[0], gradient))
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1, keepdims=True))
    heat = tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2, 3), keepdims=True))
    return tf.image.resize(heat, images.shape[1:3])[..., 0].numpy()


@contextlib.contextmanager
def _recorded(layer, tape):
    """Yields a list that gets what `layer` computes meanwhile, watched by the tape.

    This replaces the layer's `call`: the output of a layer inside another layer, or inside a
    tf_keras network, does not appear in the model's graph.
    """
    outputs, original, before = [], layer.call, layer.__dict__.get("call")

    def call(*args, **kwargs):
        output = original(*args, **kwargs)
        tape.watch(output)
        outputs.append(output)
        return output

    layer.__dict__["call"] = call
    try:
        yield outputs
    finally:
        if before is None:
            del layer.__dict__["call"]
        else:
            layer.__dict__["call"] = before


def _find(model, path):
    """The layer of a path such as "conv" or "garden_vi_t/block2"."""
    found = model
    for name in path.split("/"):
        if hasattr(found, "stage_layers"):
            found = found.stage_layers(name)[-1]
            continue
        known = [layer.name for layer in getattr(found, "layers", ())]
        if name not in known:
            raise ValueError(
                f"{getattr(found, 'name', found)!r} has no layer {name!r} for the path {path!r}. "
                f"It has {known[-8:]}{' and earlier ones' if len(known) > 8 else ''}."
            )
        found = found.get_layer(name)
    return found


def _output_shape(model, images):
    """The shape of the logits; a subclassed model tells it by a call."""
    known = getattr(model, "output_shape", None) is not None
    shape = _shapes(model.output if known else model(images[:1], training=False))
    if not isinstance(shape, tuple):
        raise ValueError(
            "The model must give one tensor of logits (batch, prefixes, classes). Its outputs are "
            f"{shape}. Make a model that gives the logits alone."
        )
    return shape


def _shapes(output):
    """The shapes of a model's outputs, in their structure."""
    if isinstance(output, dict):
        return {name: _shapes(part) for name, part in output.items()}
    if isinstance(output, (list, tuple)):
        return [_shapes(part) for part in output]
    return (None, *output.shape[1:])


def _place(model, shape, nesting_dims, dim):
    """Where `dim` is on the prefix axis."""
    if nesting_dims is None:
        layers = model.layers
        known = [layer.nesting_dims for layer in layers if hasattr(layer, "nesting_dims")]
        if layers and hasattr(layers[-1], "nesting_dims"):
            known = known[-1:]
        elif hasattr(model, "output_shape"):
            known = []
        # The layers of a subclassed model have no order.
        if len(known) != 1:
            last = f"last layer {layers[-1].name!r}" if layers else "class"
            raise ValueError(f"The model's {last} has no `nesting_dims`. Give them as an argument.")
        nesting_dims = known[0]
    dims = NestingDims(nesting_dims)
    if len(shape) != 3 or shape[1] != len(dims):
        raise ValueError(
            f"The model must give (batch, {len(dims)} prefixes, classes) for the dims "
            f"{list(dims)}. Its output is {shape}."
        )
    return dims.index(dim)


def _checked_classes(classes, images, count):
    if classes is None:
        return None
    if np.ndim(classes) == 0:
        classes = [as_int(classes, "`classes`")] * images
    classes = np.asarray(classes)
    right = classes.shape == (images,) and classes.dtype.kind in "iu"
    if not right or classes.min() < 0 or classes.max() >= count:
        raise ValueError(
            f"`classes` must be an int, or {images} ints, from 0 to {count - 1}. "
            f"Received {classes.tolist()}."
        )
    return classes


def _grid(shape, size, name):
    """(rows, columns, tokens before them) of a layer's output, for images of (height, width)."""
    if len(shape) == 4:
        return (*shape[1:3], 0)
    if len(shape) == 3:
        for extra in (0, 1):
            tokens = shape[1] - extra
            rows = max(1, round((tokens * size[0] / size[1]) ** 0.5))
            if tokens and tokens % rows == 0 and rows * size[1] == tokens // rows * size[0]:
                return rows, tokens // rows, extra
    raise ValueError(
        f"The output of {name!r} must be (batch, rows, columns, channels), or tokens that make a "
        f"grid of the image's proportions {size[0]} x {size[1]}. It is {shape}."
    )


def _positions(outputs, grid):
    """(batch, rows, columns, channels) of maps, or of tokens without the class token."""
    import tensorflow as tf

    if len(outputs.shape) == 4:
        return outputs
    rows, columns, extra = grid
    return tf.reshape(outputs[:, extra:], (-1, rows, columns, outputs.shape[-1]))
