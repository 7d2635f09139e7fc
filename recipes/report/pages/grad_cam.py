"""Where in an image each prefix looks: Grad-CAM (Figure 9)."""

from __future__ import annotations

import numpy as np

from mrl_keras.evaluation import grad_cam, overlay
from mrl_keras.plots import new_figure, save_figure
from recipes.report.parts.cache import call_content
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Figure, Page, dims_table, not_measured

SHOWN, COMPARED = 6, 256


def page(study) -> Page:
    slug, title = "grad_cam", "Where the prefixes look (Figure 9)"
    test = study.task.test_images()
    if test is None:
        wants = "heat maps want a data set in memory (`data.in_memory`)."
        return not_measured(slug, title, wants)
    seed, run = min(study.of("MRL").items())
    layer = _last_maps(study.model(run)[1])
    if layer is None:
        wants = "heat maps want a backbone with a layer (batch, rows, columns, channels)."
        return not_measured(slug, title, wants)
    arrays, images = study.outputs(run), test.images
    named = arrays["logits"].argmax(axis=-1)
    rows = _chosen(named, arrays["labels"])

    def compute():
        _, model = study.model(run)
        found = {}
        for name, some in (("shown", images[rows]), ("compared", images[:COMPARED])):
            maps = [grad_cam(model, some, layer, dim) for dim in study.dims]
            found[name] = np.stack(maps, axis=1)
        return found

    key = call_content(grad_cam, layer=layer, rows=rows.tolist(), compared=COMPARED)
    maps = study.arrays(study.source(run), key, compute)
    names = study.task.class_names()
    labels = [names[label] for label in arrays["labels"][rows]]
    pictures = overlay(
        np.repeat(images[rows], len(study.dims), axis=0),
        maps["shown"].reshape(-1, *images.shape[1:3]),
    ).reshape(len(rows), len(study.dims), *images.shape[1:3], 3)
    titles = [[names[label] for label in named[row]] for row in rows]

    def draw(path):
        _draw(path, images[rows], labels, pictures, titles, study.dims)

    table = dims_table(
        "grad_cam", "Likeness of a prefix's heat map to the full width's",
        f"Mean correlation over the pixels of the first {len(maps['compared']):,} test images: "
        "1 where a prefix looks where the full width looks.",
        {"MRL": _likeness(maps["compared"], study.dims, seed)}, study.dims, 1.0, 3,
    )  # fmt: skip
    figure = Figure(
        "grad_cam_figure", "Heat maps of each prefix (Figure 9)",
        "Test images that the lowest dim names wrongly and the full width rightly, the first of "
        "each class: brighter parts speak more for the class that the prefix names (above each "
        "map).", "grad_cam", draw,
    )  # fmt: skip
    about = f"MRL of seed {seed}; the class is the one that the prefix names; layer `{layer}`."
    return Page(slug, title, about, [figure, table])


def _last_maps(model):
    """The name of the last layer whose output is (batch, rows, columns, channels)."""
    found = [layer.name for layer in model.layers if len(layer.output.shape) == 4]
    return found[-1] if found else None


def _chosen(named, labels):
    """Rows of the test set, at most one of a class: first those that need more than the lowest."""
    late = (named[:, 0] != labels) & (named[:, -1] == labels)
    order = np.concatenate([np.flatnonzero(late), np.flatnonzero(~late)])
    _, first = np.unique(labels[order], return_index=True)
    return order[np.sort(first)][:SHOWN]


def _likeness(maps, dims, seed):
    """{dim: correlation of each map with the widest prefix's, mean over images that have both}."""
    flat = maps.reshape(*maps.shape[:2], -1)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(flat, axis=-1)
    found = {}
    for place, dim in enumerate(dims):
        both = (norms[:, place] > 0) & (norms[:, -1] > 0)
        products = (flat[both, place] * flat[both, -1]).sum(axis=-1)
        each = products / (norms[both, place] * norms[both, -1])
        found[dim] = Measured({seed: float(each.mean()) if both.any() else 0.0})
    return found


def _draw(path, images, labels, pictures, titles, dims):
    size = len(images), len(dims) + 1
    figure, axes = new_figure((1.25 * size[1], 1.4 * size[0]), columns=size[1], rows=size[0])
    for i, row in enumerate(axes):
        cells = [(images[i], labels[i]), *zip(pictures[i], titles[i], strict=True)]
        for axis, (picture, title) in zip(row, cells, strict=True):
            axis.imshow(picture.squeeze(), cmap="gray")
            axis.set_title(title, fontsize=8)
            axis.set(xticks=[], yticks=[])
    for axis, text in zip(axes[-1], ("image", *(f"{dim} dims" for dim in dims)), strict=True):
        axis.set_xlabel(text, fontsize=9)
    save_figure(figure, path, dpi=100)
