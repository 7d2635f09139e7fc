"""Which replica runs this code."""

import tensorflow as tf


def replica_position():
    """(index, count) of this replica: (0, 1) on one, and outside of `strategy.run`.

    The index is an int, or an int32 scalar tensor where there are several replicas.

    Example:

    >>> replica_position()
    (0, 1)
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync
