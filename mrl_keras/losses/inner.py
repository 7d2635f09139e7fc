"""The loss of one prefix: what may be one, and how it is called."""

import keras

from mrl_keras.losses.smoothed_crossentropy import smoothed_sparse_crossentropy


def as_inner_loss(loss):
    """A `keras.losses.Loss` or a loss function from an instance, a function or a name.

    Raises:
        ValueError: something else, or a loss that would reduce or cast by itself.
    """
    if isinstance(loss, str):
        found = keras.losses.get(loss)
    elif isinstance(loss, keras.losses.Loss) or (callable(loss) and not isinstance(loss, type)):
        found = loss
    else:
        raise ValueError(
            "`loss` must be a keras.losses.Loss instance, a loss function or the name of one. "
            f"Received {loss!r} of type {type(loss).__name__}."
        )
    if isinstance(found, keras.losses.Loss):
        if found.reduction != "sum_over_batch_size":
            raise ValueError(
                "The inner loss must keep its default `reduction`: set it on MatryoshkaLoss. "
                f"Received an inner reduction of {found.reduction!r}."
            )
        if found.dtype != keras.config.floatx():
            raise ValueError(
                "The inner loss must keep its default `dtype`: set it on MatryoshkaLoss. "
                f"Received an inner dtype of {found.dtype!r}."
            )
    return found


def call_inner(loss, y_true, y_pred, teacher):
    """The unreduced loss of one prefix; `teacher`, the widest prefix's output, where it is read."""
    inner = _values_of(loss)
    if getattr(loss, "reads_teacher", False):
        return inner(y_true, y_pred, teacher=teacher)
    return inner(y_true, y_pred)


def _values_of(loss):
    """The function (y_true, y_pred) -> (batch, ...) that an inner loss computes."""
    if not isinstance(loss, keras.losses.Loss):
        return loss
    options = {"from_logits": True, "ignore_class": None, "axis": -1}
    is_sparse = getattr(loss, "fn", None) is keras.losses.sparse_categorical_crossentropy
    own = type(loss).call is keras.losses.SparseCategoricalCrossentropy.call  # of no subclass
    if is_sparse and own and loss._fn_kwargs == options:
        return smoothed_sparse_crossentropy  # Keras's values in half the time
    # The object itself must not be called: it would reduce and scale by replicas.
    return loss.call


def name_of(loss):
    """The name of a loss's class, or of a function."""
    return type(loss).__name__ if isinstance(loss, keras.losses.Loss) else loss.__name__


def label_kind(loss):
    """ "sparse" or "dense" for Keras's crossentropies, None for losses with rules of their own."""
    own = getattr(loss, "_label_kind", None)
    if own is not None:
        return own
    name = name_of(loss).replace("_", "").lower()
    if name.endswith("categoricalcrossentropy"):
        return "sparse" if "sparse" in name else "dense"
    return None


def expects_probabilities(loss):
    """Whether `loss` is one of Keras's crossentropies as it comes, without `from_logits`."""
    options = getattr(loss, "_fn_kwargs", {})
    function = getattr(loss, "fn", loss)
    kinds = ("categorical", "sparse_categorical", "binary")
    known = [getattr(keras.losses, f"{kind}_crossentropy") for kind in kinds]
    return function in known and not options.get("from_logits", False)
