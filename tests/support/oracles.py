"""NumPy references, written from the paper's Eq. 1 and Algorithms 1 and 2, in float64.

They recompute every prefix from scratch, as the algorithms are printed, and share no code
with the package.
"""

import numpy as np


def nested_logits(x, kernels, biases, dims, efficient):
    """(batch, prefixes, units): Algorithm 2, one linear map for each prefix."""
    outputs = []
    for i, m in enumerate(dims):
        kernel = kernels[0][:m] if efficient else kernels[i]
        logits = x[..., :m] @ kernel
        if biases is not None:
            logits = logits + (biases[0] if efficient else biases[i])
        outputs.append(logits)
    return np.stack(outputs, axis=-2)


def softmax_crossentropy(targets, logits):
    """(...,): crossentropy of dense `targets` (..., units) with softmax(logits)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -(targets * log_probability).sum(axis=-1)


def matryoshka_loss(targets, nested, weights):
    """(batch,): Algorithm 1, sum over prefixes of c_m times the softmax crossentropy."""
    total = np.zeros(nested.shape[:-2])
    for i, weight in enumerate(weights):
        total = total + weight * softmax_crossentropy(targets, nested[..., i, :])
    return total


def one_hot(labels, units, smoothing=0.0):
    return np.eye(units)[labels] * (1.0 - smoothing) + smoothing / units
