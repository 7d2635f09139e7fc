"""Whether gradients are being recorded, which tells a training step from an evaluation.

TensorFlow and JAX are imported where they are the backend.
"""

import functools

import keras
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope


def records_gradients(tensor):
    """Whether what is computed from `tensor` will be differentiated.

    Args:
        tensor: floating tensor that depends on what is trained.

    Returns:
        A bool; on JAX, where the same trace serves both, a bool tensor.
    """
    if in_symbolic_scope() or isinstance(tensor, keras.KerasTensor):
        return False
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from tensorflow.python.eager import record

        return record.could_possibly_record()
    if backend == "torch":
        return bool(tensor.requires_grad)
    return ops.cast(_differentiated()(tensor), "bool")


def check_kept(variables, owner):
    """Refuses variables that JAX would forget after the step: their model must list them.

    Args:
        variables: list of `keras.Variable`s.
        owner: str, what they belong to, for the error.
    """
    if keras.backend.backend() != "jax" or in_symbolic_scope():
        return
    scope = get_stateless_scope() if in_stateless_scope() else None
    if scope is None or any(scope.get_current_value(one) is None for one in variables):
        raise ValueError(
            f"On JAX the variables of {owner} must be among the state of the step. Pass it to "
            "`compile` in `metrics` too, or in a loop of your own list its variables in the "
            "`keras.StatelessScope`."
        )


@functools.cache
def _differentiated():
    """A JAX function of a tensor: 1 where it is differentiated, else 0."""
    import jax

    @jax.custom_vjp
    def flag(tensor):
        return jax.numpy.zeros(())

    def forward(tensor):
        return jax.numpy.ones(()), jax.numpy.zeros_like(tensor)

    flag.defvjp(forward, lambda zeros, _: (zeros,))
    return flag
