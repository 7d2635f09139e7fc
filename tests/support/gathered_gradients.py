"""Gradients of a contrastive loss over the gathered batch, under 1 or 2 replicas.

python -m tests.support.gathered_gradients REPLICAS FILE
"""

import sys

import numpy as np
import tensorflow as tf

from mrl_keras.distribution import gather, strategy


def gradients(replicas):
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    scheme = strategy("mirrored")
    assert scheme.num_replicas_in_sync == replicas
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 8, 5)).astype("float32")
    with scheme.scope():
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

    given = scheme.experimental_distribute_values_from_function(
        lambda context: tuple(map(tf.constant, shares(context)))
    )
    found = tf.function(lambda: scheme.run(step, args=given))()
    return scheme.reduce("SUM", found, axis=None).numpy()


if __name__ == "__main__":
    np.save(sys.argv[2], gradients(int(sys.argv[1])))
