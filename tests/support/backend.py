"""Gradients on whichever Keras backend the tests run with."""

import keras
import numpy as np


def gradients(function, *arrays):
    """(value, [gradient for each array]) of a scalar function of tensors, as NumPy."""
    if keras.backend.backend() == "tensorflow":
        return _tensorflow(function, arrays)
    if keras.backend.backend() == "jax":
        return _jax(function, arrays)
    return _torch(function, arrays)


def _tensorflow(function, arrays):
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    found = tape.gradient(value, tensors, unconnected_gradients="zero")
    return float(value), [np.asarray(gradient) for gradient in found]


def _jax(function, arrays):
    import jax

    argnums = tuple(range(len(arrays)))
    value, found = jax.value_and_grad(function, argnums)(*map(jax.numpy.asarray, arrays))
    return float(value), [np.asarray(gradient) for gradient in found]


def _torch(function, arrays):
    import torch

    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = function(*tensors)
    found = torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True)
    return value.item(), [gradient.numpy() for gradient in found]


def numerical_gradient(function, arrays, which, step=1e-5):
    """Central differences of a float64 NumPy function with respect to `arrays[which]`."""
    arrays = [np.array(array, "float64") for array in arrays]
    target = arrays[which]
    found = np.zeros_like(target)
    for position in np.ndindex(*target.shape):
        kept = target[position]
        target[position] = kept + step
        above = function(*arrays)
        target[position] = kept - step
        below = function(*arrays)
        target[position] = kept
        found[position] = (above - below) / (2 * step)
    return found
