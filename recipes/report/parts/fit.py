"""Accuracy on the training images: it tells an underfitted model from an overfitted one."""

from __future__ import annotations

import re
from collections.abc import Mapping

import tensorflow as tf

from mrl_keras.files import join, list_names
from recipes.report.parts.measured import Measured, difference

_TAG = re.compile(r"epoch_top_?1_d(\d+)")


def training_accuracy(study) -> dict[str, dict[int, Measured]]:
    """{system: {dim: accuracy on the training images of the last epoch, as TensorBoard has it}}.

    The images are augmented and the weights move during the epoch, so that it lies below the
    accuracy of the trained model. Systems without logs are absent.
    """
    found = {}
    for run in study.prefix_runs:
        for dim, value in _last_epoch(run.run.path("logs")).items():
            found.setdefault(run.method, {}).setdefault(dim, {})[run.seed] = value
    return {
        system: {dim: Measured(values) for dim, values in sorted(by_dim.items())}
        for system, by_dim in found.items()
    }


def why_below(
    ours: Mapping[int, Measured],
    theirs: Mapping[int, Measured],
    fit: Mapping[int, Measured],
    their_fit: Mapping[int, Measured],
) -> str:
    """A sentence on whether `ours` fits the training images less where it is below `theirs`.

    Args:
        ours, theirs: {dim: accuracy on test images}.
        fit, their_fit: {dim: accuracy on training images}; "" is returned where they are absent.
    """
    common = sorted(set(ours) & set(theirs) & set(fit) & set(their_fit))
    lost = [dim for dim in common if difference(ours[dim], theirs[dim]).below]
    if not lost:
        return ""
    gaps = {dim: difference(fit[dim], their_fit[dim]).mean for dim in lost}
    shown = ", ".join(f"{dim}: {100 * gap:+.2f}" for dim, gap in gaps.items())
    if max(gaps.values()) < 0.0:
        reason = "the steps have fitted it less, it is not overfitted"
    elif min(gaps.values()) >= 0.0:
        reason = "it is fitted as well and generalises less"
    else:
        reason = "not the same at all of them"
    return f"; on the training images of the last epoch the difference there is {shown}: {reason}"


def _last_epoch(folder):
    """{dim: accuracy} of the last epoch in a run's TensorBoard files."""
    latest = {}
    folder = join(folder, "train")
    for name in (name for name in list_names(folder) if ".tfevents." in name):
        for event in tf.compat.v1.train.summary_iterator(join(folder, name)):
            for value in event.summary.value:
                match = _TAG.fullmatch(value.tag)
                if match and event.step >= latest.get(match[1], (-1,))[0]:
                    latest[match[1]] = event.step, float(tf.make_ndarray(value.tensor))
    return {int(dim): value for dim, (_, value) in latest.items()}
