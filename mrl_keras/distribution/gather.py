"""The global batch on every replica, for losses whose negatives are all other examples."""

import tensorflow as tf


def gather(values):
    """The rows of all replicas, in the order of the replicas, with their gradient.

    Inside `strategy.run`, as in `fit`, each replica gets the same tensor. The gradient of a row
    is the sum of what all replicas' losses say about it, as if one replica held the batch.
    Outside of a replica, or on one, the rows themselves.

    Every replica must have equally many rows.

    Args:
        values: floating tensor (rows, ...).

    Returns:
        Tensor (replicas * rows, ...).

    Example:

    >>> gather(tf.ones((2, 3))).shape
    TensorShape([2, 3])

    Source: arXiv 2102.05918, Section 4.1: ALIGN's negatives come from the batches of all cores.
    """
    values = tf.convert_to_tensor(values)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    replicas = context.num_replicas_in_sync
    # Each replica puts its rows into zeros, and the sum is the gathered batch: TensorFlow
    # differentiates this sum over replicas rightly, and its shape is static where the rows' is.
    mine = tf.one_hot(context.replica_id_in_sync_group, replicas, dtype=values.dtype)
    mine = tf.reshape(mine, [replicas] + [1] * values.shape.rank)
    spread = tf.reshape(mine * values[None], tf.concat([[-1], tf.shape(values)[1:]], 0))
    rows = values.shape[0]
    spread.set_shape([replicas * rows if rows is not None else None, *values.shape[1:]])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, spread)
