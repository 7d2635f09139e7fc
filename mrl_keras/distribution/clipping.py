"""Clipping the gradient of the whole batch, on any number of replicas."""

import tensorflow as tf


def clip_over_replicas(optimizer):
    """Let an optimizer's `global_clipnorm` be of the whole gradient, whatever the replicas.

    Keras clips each replica's part before it sums them, so that training depends on their number.
    Here every part is scaled alike, by the norm of the sum.

    Args:
        optimizer: `keras.optimizers.Optimizer` with `global_clipnorm`, not yet used. It is changed
            in place, and saves as before.

    Returns:
        The optimizer.

    Example:

    >>> import keras
    >>> clip_over_replicas(keras.optimizers.SGD(0.1, global_clipnorm=1.0)).global_clipnorm
    1.0
    """
    of_one_replica, limit = optimizer._clip_gradients, optimizer.global_clipnorm

    def clip(gradients):
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return of_one_replica(gradients)
        parts = [tf.convert_to_tensor(g) for g in gradients if g is not None]
        norm = tf.linalg.global_norm(context.all_reduce("SUM", parts))
        scale = limit / tf.maximum(norm, tf.cast(limit, norm.dtype))
        scaled = iter([part * tf.cast(scale, part.dtype) for part in parts])
        return [None if g is None else next(scaled) for g in gradients]

    optimizer._clip_gradients = clip
    return optimizer
