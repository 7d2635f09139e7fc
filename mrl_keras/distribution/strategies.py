"""`tf.distribute` strategies by name."""

import json
import os

import tensorflow as tf

from mrl_keras.checks import whole_number
from mrl_keras.lazy_tensorflow import require_backend

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(name="one_device", tpu=None):
    """Make the `tf.distribute` strategy of a name.

    "one_device" is TensorFlow's default strategy; "mirrored" has a replica on every GPU, or on
    every logical CPU where there is no GPU; "multi_worker" joins the workers of the environment
    variable TF_CONFIG, and must be made before TensorFlow runs anything else; "tpu" connects to
    a TPU and initialises it.

    Args:
        name: one of the four. Default "one_device".
        tpu: for "tpu", its name, address, or "local" on a TPU VM.

    Returns:
        `tf.distribute.Strategy`.

    Raises:
        ValueError: another Keras backend, an unknown name, TF_CONFIG missing or not as it should
            be, or a TPU that does not resolve.

    Example:

    >>> make_strategy("one_device").num_replicas_in_sync
    1
    """
    require_backend("tf.distribute", "On JAX use keras.distribution.DataParallel.")
    if name not in STRATEGIES:
        raise ValueError(f"The strategy must be one of {', '.join(STRATEGIES)}. Received {name!r}.")
    if tpu and name != "tpu":
        raise ValueError(f"A TPU is for the strategy 'tpu' only. Received {tpu!r} with {name!r}.")
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
    if name == "multi_worker":
        _check_tf_config(os.environ.get("TF_CONFIG"))
        return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu_strategy(tpu)


def split_cpu(count):
    """Split the CPU into logical devices, so that "mirrored" has replicas without GPUs.

    Args:
        count: int, of the logical devices.

    Raises:
        ValueError: TensorFlow has run something already.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * whole_number(count, "`count`")
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError as error:
        raise ValueError(
            f"The CPU must be split before TensorFlow runs anything else: {error}"
        ) from error


def is_chief(strategy):
    """Whether this process writes what the workers share: checkpoints, config, logs.

    Args:
        strategy: `tf.distribute.Strategy`.

    Example:

    >>> is_chief(make_strategy())
    True
    """
    resolver = strategy.cluster_resolver
    if resolver is None or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    chief = resolver.task_type in (None, "chief")
    return chief or (resolver.task_id == 0 and "chief" not in resolver.cluster_spec().as_dict())


def _check_tf_config(text):
    example = (
        '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text or "null")
        kind, index = config["task"]["type"], config["task"]["index"]
        config["cluster"][kind][index]
    except (ValueError, TypeError, KeyError, IndexError):
        raise ValueError(
            "The strategy 'multi_worker' reads the environment variable TF_CONFIG, such as "
            f"{example}. Received {text!r}."
        ) from None


def _tpu_strategy(name):
    if not name:
        raise ValueError(
            "The strategy 'tpu' needs the TPU's name or address, or 'local' on a TPU VM. "
            f"Received {name!r}."
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # each client library raises its own types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"The TPU {name!r} does not resolve: {reason} Check its name, zone and project, and "
            "that the TensorFlow here is tensorflow-tpu."
        ) from error
