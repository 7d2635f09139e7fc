"""Zero-shot classification with a dual encoder: prompts describe the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_keras.evaluation.checks import check_labels, checked_embeddings, unit_rows
from mrl_keras.nesting import NestingDims

TEMPLATES = (
    "{}",
    "a photo of a {}",
    "a picture of the {}",
    "a small image of a {}",
    "this is a {}",
)
"""Prompts of this package; "{}" is where the class's name stands."""


def prompts(class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Every class in every template, class by class.

    Args:
        class_names: one name for each class; "_" is read as a space.
        templates: texts with one "{}". By default `TEMPLATES`.

    Returns:
        classes * templates texts; the text of class c and template t is at c * templates + t.

    Raises:
        ValueError: no classes, no templates, or one without exactly one "{}".

    Example:

    >>> from mrl_keras.evaluation import prompts
    >>> prompts(["sea_lion", "cat"], ["{}", "a photo of a {}"])
    ['sea lion', 'a photo of a sea lion', 'cat', 'a photo of a cat']
    """
    names, templates = list(class_names), list(templates)
    wrong = [template for template in templates if template.count("{}") != 1]
    if not names or not templates or wrong:
        raise ValueError(
            'Prompts need class names, and templates with one "{}" each. Received '
            f"{len(names)} classes and the templates {wrong or templates}."
        )
    return [
        template.replace("{}", name.replace("_", " ")) for name in names for template in templates
    ]


def zero_shot_accuracy(prompt_embeddings, embeddings, labels, dims) -> dict[int, float]:
    """Top-1 accuracy at every prefix of classes that prompts describe.

    At prefix m a class is the mean of its prompts' L2-normalised prefixes, normalised again, and
    an image goes to the class of highest cosine:

        w_c = unit(mean_t unit(t_c[:m])),    class(x) = argmax_c <x[:m], w_c>

    Args:
        prompt_embeddings: (classes, templates, d), what the text tower makes of `prompts`.
        embeddings: (examples, d), what the image tower makes of the images.
        labels: ints (examples,), the row of `prompt_embeddings` that is right.
        dims: ints, ascending, the prefixes: trained, interpolated or both.

    Returns:
        dict from dim to the fraction classified right.

    Raises:
        ValueError: shapes that don't fit, labels without a class, or non-finite numbers.

    Example:

    >>> from mrl_keras.evaluation import zero_shot_accuracy
    >>> classes = np.eye(2)[:, None]  # two classes, one prompt each
    >>> zero_shot_accuracy(classes, np.array([[0.9, 0.1], [0.8, 0.2]]), [0, 1], dims=[2])
    {2: 0.5}

    Source: arXiv 2205.13147, Section 5.1, Table 18; the mean of prompts arXiv 2103.00020,
    Section 3.1.4.
    """
    dims, shape = NestingDims(dims), np.shape(prompt_embeddings)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"`prompt_embeddings` must be (classes, templates, d). Received shape {shape}."
        )
    texts = checked_embeddings(
        np.reshape(prompt_embeddings, (-1, shape[2])), dims, "prompt_embeddings"
    ).reshape(shape)
    images = checked_embeddings(embeddings, dims)
    labels = check_labels(labels, images, "labels")
    if labels.min() < 0 or labels.max() >= shape[0]:
        raise ValueError(
            f"`labels` must lie between 0 and {shape[0] - 1}, for {shape[0]} classes. "
            f"Received {labels.min()} to {labels.max()}."
        )
    found = {}
    for dim in dims:
        classes = unit_rows(unit_rows(texts[..., :dim]).mean(axis=1))
        # The norm of an image's own prefix does not change which class is nearest.
        found[dim] = float(np.mean((images[:, :dim] @ classes.T).argmax(axis=1) == labels))
    return found
