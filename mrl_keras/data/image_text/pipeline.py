"""tf.data pipelines of images with one text each, drawn anew in every epoch.

Seeded, sharded over workers and resumable at a step, as `mrl_keras.data.image.pipeline`. Texts
come out as strings; a tokenizer maps them to what a text tower takes.
"""

from __future__ import annotations

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.data.image.augmentation import pad_crop_flip
from mrl_keras.data.image.pipeline import Cropping, check_augmentation, check_dtype
from mrl_keras.data.image.records import parse_image
from mrl_keras.data.image_text.sets import captions_of
from mrl_keras.data.sampling import Sampling, epochs_of_records, epochs_of_rows, uniform

# The draws of an example's seed that the augmentation of its image does not use.
ORDER_DRAW, COUNT_DRAW = 3, 4
SEPARATOR = ", "


def caption_batches(
    data,
    batch_size,
    sampling=Sampling(),
    augment="pad_crop_flip",
    captions_per_text=1,
    dtype="uint8",
):
    """Endless training batches of images and texts from a set in memory.

    Order, shards and steps are those of `array_batches`.

    Args:
        data: `CaptionedImages`.
        batch_size: int, rows of this worker's batches.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.
        augment: "pad_crop_flip" or None. Default "pad_crop_flip".
        captions_per_text: int, the most captions of a text. A text is some of an image's
            captions in a drawn order, joined by ", "; how many is drawn, too. Default 1.
        dtype: of the images: "uint8", "float32" or "bfloat16". Default "uint8".

    Returns:
        `tf.data.Dataset` of (images (batch, height, width, channels), strings (batch,)).

    Raises:
        ValueError: no examples, or an argument out of range.

    Example:

    >>> from mrl_keras.data import CaptionedImages, caption_batches
    >>> captions = (("a cat", "an animal"), ("a sea",))
    >>> data = CaptionedImages(np.zeros((2, 8, 8, 3), "uint8"), captions)
    >>> images, texts = next(iter(caption_batches(data, batch_size=4)))
    >>> images.shape, texts.shape
    (TensorShape([4, 8, 8, 3]), TensorShape([4]))
    """
    if len(data) == 0:
        raise ValueError("There are no examples to train on: the split is empty.")
    check_augmentation(augment)
    most = whole_number(captions_per_text, "`captions_per_text`")
    check_dtype(dtype)
    pixels = tf.constant(data.images)
    captions = tf.ragged.constant([list(texts) for texts in data.captions], dtype=tf.string)
    counts, captions = tf.cast(captions.row_lengths(), tf.int32), captions.to_tensor("")

    def read(rows, seeds):
        batch = tf.gather(pixels, rows)
        if augment:
            batch = pad_crop_flip(batch, seeds)
        texts = draw_texts(tf.gather(captions, rows), tf.gather(counts, rows), seeds, most)
        return tf.cast(batch, dtype), texts

    return epochs_of_rows(len(data), read, batch_size, sampling)


def streamed_caption_batches(
    builder,
    split,
    batch_size,
    options,
    sampling=Sampling(),
    captions="captions",
    captions_per_text=1,
):
    """Endless training batches of images and texts from TFDS's files: random resized crop and flip.

    Order, shards and steps are those of `streamed_batches`.

    Args:
        builder: the prepared set, see `caption_set`.
        split: str.
        batch_size: int, rows of this worker's batches.
        options: `ImageStreamOptions`.
        sampling: `Sampling`. Default seed 0, one worker, from the first step.
        captions: str, the feature, as for `caption_set`. Default "captions".
        captions_per_text: int, the most captions of a text, as for `caption_batches`. Default 1.

    Returns:
        `tf.data.Dataset` of (images (batch, pixels, pixels, 3), strings (batch,)).

    Raises:
        ValueError: no such split, an empty one, files of another format, or an argument out of
            range. While reading, `explain_image_errors` makes such of corrupt images and of
            images without captions.
    """
    most = whole_number(captions_per_text, "`captions_per_text`")
    crop = Cropping(options, sampling.start_step)

    def read(step, seeds, name, row, record):
        encoded, example, where = parse_image(builder, record, name, row)
        texts = captions_of(example, captions)
        text = tf.strings.join(["Image without captions: ", where])
        with tf.control_dependencies([tf.debugging.Assert(tf.size(texts) > 0, [text])]):
            texts = tf.identity(texts)[None]
        drawn = draw_texts(texts, tf.shape(texts)[1:], seeds, most)[0]
        return crop(step, encoded, seeds), drawn

    return epochs_of_records(builder, split, read, batch_size, sampling, **options.reading)


def draw_texts(captions, counts, seeds, most=1):
    """One text for each image: some of its captions in a drawn order, joined by ", ".

    How many is drawn too, evenly from 1 to `most`, or to as many as the image has.

    Args:
        captions: strings (batch, places), each row's captions first.
        counts: int32 (batch,), captions of each row, at least 1.
        seeds: int64 (batch, words).
        most: int. Default 1, a single caption.

    Returns:
        Strings (batch,).
    """
    batch, places = tf.shape(captions)[0], tf.shape(captions)[1]
    place = tf.tile(tf.range(tf.cast(places, tf.int64)), [batch])
    words = tf.concat([tf.repeat(seeds, places, axis=0), place[:, None]], axis=1)
    keys = tf.reshape(uniform(words, ORDER_DRAW), (batch, places))
    keys = tf.where(tf.sequence_mask(counts, places), keys, 2.0)  # what is not there comes last
    drawn = tf.gather(captions, tf.argsort(keys, axis=1), batch_dims=1)
    limit = tf.minimum(counts, most)
    number = 1 + tf.cast(uniform(seeds, COUNT_DRAW) * tf.cast(limit, tf.float32), tf.int32)
    kept = tf.ragged.boolean_mask(drawn, tf.sequence_mask(number, places))
    texts = tf.strings.reduce_join(kept, axis=1, separator=SEPARATOR)
    return tf.ensure_shape(texts, seeds.shape[:1])


def texts_of(captions, captions_per_text=1):
    """The texts of an image for evaluation: its captions in order, so many joined at a time.

    Args:
        captions: strings.
        captions_per_text: int. Default 1, every caption is a text.

    Returns:
        List of str.

    Example:

    >>> from mrl_keras.data.image_text.pipeline import texts_of
    >>> texts_of(["cat", "animal", "pet"], 2)
    ['cat, animal', 'pet']
    """
    step = whole_number(captions_per_text, "`captions_per_text`")
    return [SEPARATOR.join(captions[i : i + step]) for i in range(0, len(captions), step)]
