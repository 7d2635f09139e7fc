"""Writes the gradients of a contrastive loss over the gathered batch, of 1 and of 2 replicas.

A process of its own, since devices are split before TensorFlow starts:
`python -m tests.support.gathered_gradients OUTPUT.npz`
"""

import sys

import numpy as np
import tensorflow as tf

from mrl_keras.distribution import gather, split_cpu


def gradients(replicas):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 8, 5)).astype("float32")
    with strategy.scope():
        weights = tf.Variable(rng.normal(size=(5, 4)).astype("float32"))

    def step(images, texts):
        """The gradient of the mean over this replica's rows, each against all texts."""
        here = tf.shape(images)[0]
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * here
        with tf.GradientTape() as tape:
            logits = tf.matmul(images @ weights, gather(texts @ weights), transpose_b=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(here) + first, logits)
            loss = tf.reduce_mean(loss) / replicas
        return tape.gradient(loss, weights)

    def shares(context):
        part = 8 // replicas
        rows = slice(context.replica_id_in_sync_group * part, None)
        return images[rows][:part], texts[rows][:part]

    given = strategy.experimental_distribute_values_from_function(
        lambda context: tuple(map(tf.constant, shares(context)))
    )
    found = tf.function(lambda: strategy.run(step, args=given))()
    return strategy.reduce("SUM", found, axis=None).numpy()


if __name__ == "__main__":
    split_cpu(2)
    np.savez(sys.argv[1], **{str(replicas): gradients(replicas) for replicas in (1, 2)})
