"""This replica among all that share a batch; one replica on every backend but TensorFlow."""

import keras


def gather_rows(values):
    """The rows of all replicas, in the order of the replicas, with their gradient.

    Args:
        values: floating tensor (rows, ...); replicas may differ in rows that are not static.

    Returns:
        Tensor (rows of all replicas, ...); `values` itself on one replica.
    """
    if keras.backend.backend() != "tensorflow" or isinstance(values, keras.KerasTensor):
        return values
    from mrl_keras.distribution.replicas import gather

    return gather(values)


def first_row(rows):
    """Where this replica's `rows` begin in the batch of all replicas; 0 on one."""
    if keras.backend.backend() != "tensorflow":
        return 0
    from mrl_keras.distribution.replicas import first_row

    return first_row(rows)


def replica_position():
    """(index, count) of this replica; (0, 1) on one."""
    if keras.backend.backend() != "tensorflow":
        return 0, 1
    from mrl_keras.distribution.replicas import replica_position

    return replica_position()
