"""The order of the prefixes in Keras's logs."""

import re

import keras

_DIM = re.compile(r"_d(\d+)$")


class PrefixOrder(keras.callbacks.Callback):
    """Puts the logs of the prefixes into the order of M: loss_d4, loss_d8, loss_d16.

    Keras sorts the names of logs as words, d16 before d4, in the progress bar, `History` and what
    callbacks get. Behind this callback they have the order of the dims. `CSVLogger` sorts again by
    itself.

    Example:

    >>> from mrl_keras import PrefixOrder
    >>> logs = {"loss": 2.0, "top1_d16": 0.5, "top1_d4": 0.3, "top1_d8": 0.4}
    >>> PrefixOrder().on_epoch_end(0, logs)
    >>> list(logs)
    ['loss', 'top1_d4', 'top1_d8', 'top1_d16']
    """

    def on_train_batch_end(self, batch, logs=None):
        _put_in_order(logs)

    def on_epoch_end(self, epoch, logs=None):
        _put_in_order(logs)

    def on_test_batch_end(self, batch, logs=None):
        _put_in_order(logs)

    def on_test_end(self, logs=None):
        _put_in_order(logs)


def _put_in_order(logs):
    """Sorts the dict itself, which Keras hands from one callback to the next."""
    if not logs:
        return
    places, found = {}, []
    for name in logs:
        match = _DIM.search(name)
        stem = name[: match.start()] if match else name
        place = places.setdefault(stem, len(places))
        found.append((place, int(match[1]) if match else -1, name))
    ordered = {name: logs[name] for _, _, name in sorted(found)}
    logs.clear()
    logs.update(ordered)
