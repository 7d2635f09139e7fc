"""Reading Model Garden's checkpoints: the whole network, or nothing and an error."""

from mrl_keras.files import as_path, exists, is_directory, remote_errors

# Where Model Garden's trainers keep a network in their checkpoints, as attribute names.
PLACES = (
    ("backbone",),
    ("encoder",),
    ("model", "backbone"),
    ("model", "encoder_network"),
    ("model", "encoder"),
    ("model",),
    (),
)
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def restore(network, path):
    """Assign the weights that the checkpoint at `path` has for the tf_keras model `network`.

    Args:
        network: a tf_keras model with weights.
        path: prefix of the checkpoint's files, or a folder with checkpoints.

    Raises:
        ValueError: no checkpoint, or it doesn't have this network's weights. `network` is
            then unchanged.
    """
    import tensorflow as tf

    path = as_path(path)
    with remote_errors(path):
        prefix = tf.train.latest_checkpoint(path) if is_directory(path) else path
    if prefix is None or not exists(prefix + ".index"):
        raise ValueError(
            f"No checkpoint at {path!r}. Give a folder with a `checkpoint` file, or the path of "
            "an .index file without that ending."
        )
    with remote_errors(prefix):
        shapes = tf.compat.v1.train.NewCheckpointReader(prefix).get_variable_to_shape_map()
    keys = [k for k in shapes if k.endswith(VALUE) and ".OPTIMIZER_SLOT" not in k]
    place = next(
        (p for p in PLACES if any(k.startswith("".join(n + "/" for n in p)) for k in keys)), ()
    )
    own = [k for k in keys if k.startswith("".join(name + "/" for name in place))]
    own = [k for k in own if k != "save_counter" + VALUE]
    if len(own) > len(network.variables):
        raise ValueError(
            f"The checkpoint {prefix!r} is of a larger network: it has {len(own)} arrays below "
            f"{'/'.join(place) or 'its root'!r}, and this network {len(network.variables)}. "
            "Construct the layer with the checkpoint's sizes."
        )
    before = [v.numpy() for v in network.variables]
    target = network
    for name in reversed(place):
        target = tf.train.Checkpoint(**{name: target})
    try:
        if not place:
            target = tf.train.Checkpoint(root=network)
        status = target.read(prefix)
        status.assert_existing_objects_matched()
        status.expect_partial()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        for variable, value in zip(network.variables, before, strict=True):
            variable.assign(value)
        raise ValueError(
            f"The checkpoint {prefix!r} does not fit this network: construct the layer with the "
            f"checkpoint's sizes. TensorFlow says: {str(error).splitlines()[0]}"
        ) from error
