"""Lowers the forward and gradient graph of every recipe for TPU, without a TPU.

    python3.11 -m venv tpu
    tpu/bin/pip install "tensorflow-tpu==2.20.0" "libtpu==0.0.14" ml_collections psutil tqdm \\
        tensorflow-datasets importlib_resources scikit-learn matplotlib gin-config \\
        pycocotools sentencepiece opencv-python-headless
    tpu/bin/pip install --no-deps -e . tf_keras==2.20.1 tensorflow-text==2.20.1 \\
        tf-models-official==2.20.0 tensorflow-model-optimization tensorflow-hub
    TPU_SKIP_MDS_QUERY=1 tpu/bin/python recipes/benchmarks/tpu_lowering.py --sizes tiny full

The environment is its own: `tensorflow-tpu` fills the folder of `tensorflow`, which packages that
require `tensorflow` would overwrite, hence --no-deps; newer libtpu abort at import; and without
TPU_SKIP_MDS_QUERY the import waits for a TPU machine's metadata server.

For every file of recipes/configs/ the task's model, with mixed_bfloat16, goes through TensorFlow's
bridge to XLA for the TPU platform: once forward, once with the loss and its gradients in training
mode. A graph fails if an operation has no kernel on TPU, if a shape is not static, or if it holds
float64. Each graph's line counts its dots and convolutions, and those in bfloat16. As a check of
the check, a graph with `as_string`, which TPUs lack, must fail. The exit status is 1 if any failed.

Full size keeps model and batch, and takes made data of the full shape for the real set. The
optimizer, the input pipeline and XLA's TPU compiler are not part of this check: a graph that lowers
may still exceed a TPU's memory or be slow there.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gc
import importlib
import pathlib
import re
import time

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from mrl_keras.data import Sampling
from recipes.common.arguments import ScriptParser
from recipes.common.training import set_up_task

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def config_names():
    """The files of the configs folder that have a `get_config`."""
    files = sorted(CONFIGS.glob("*.py"))
    return [path.stem for path in files if "\ndef get_config(" in path.read_text()]


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--configs", nargs="+", choices=config_names(), default=config_names(), metavar="NAME")
    add("--sizes", nargs="+", choices=("tiny", "full"), default=["tiny"], help="of the models")
    add("--precision", default="mixed_bfloat16", help="dtype policy")
    add("--platform", default="TPU", help="XLA's platform; CPU is to try the script")
    return parser.parse_args(arguments)


def sized_config(name, size, precision):
    """The config `name` at a size, on made data."""
    config = importlib.import_module(f"recipes.configs.{name}").get_config(
        "tiny" if size == "tiny" else ""
    )
    config.precision = precision
    if size == "full":
        config.data.name = "made"
        if "made_shape" in config.data:
            _made_images_of_full_size(config.data)
    return config


def _made_images_of_full_size(data):
    pixels, classes = (32, 10) if data.in_memory else (max(data.resolution), 1000)
    data.made_shape = (pixels, pixels, 3)
    if "made_classes" in data:
        data.made_classes = classes
    data.in_memory, data.augment = True, "pad_crop_flip"


class Graphs:
    """Forward and gradients of a task's model as functions without state, and their inputs.

    Weights of Keras layers are arguments. Those of Model Garden's networks, which are captured,
    become constants: XLA for TPU lowers no variables from outside.
    """

    def __init__(self, config):
        task = set_up_task(config)
        self.model, self.loss = task.build_model(), task.loss()
        self.batch = task.train_data(config.batch_size, Sampling(config.seed)).element_spec
        self.weights = [_spec(v) for v in self.model.trainable_variables]
        self.others = [_spec(v) for v in self.model.non_trainable_variables]
        garden = [v for layer in self.model._flatten_layers() for v in _garden_variables(layer)]
        self.captured = [v for v in garden if v.trainable]

    def forward(self):
        def function(weights, others, batch):
            outputs, _ = self.model.stateless_call(weights, others, batch[0], training=False)
            return outputs

        return self._frozen(function)

    def gradients(self):
        def function(weights, others, batch):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                outputs, changed, losses = self.model.stateless_call(
                    weights, others, batch[0], training=True, return_losses=True
                )
                loss = self.loss(batch[1], outputs, *batch[2:]) + sum(losses)
            found = tape.gradient(loss, [*weights, *self.captured])
            return loss, changed, [g for g in found if g is not None]

        return self._frozen(function)

    def _frozen(self, function):
        arguments = self.weights, self.others, self.batch
        concrete = tf.function(function).get_concrete_function(*arguments)
        frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
        specs = [tf.TensorSpec(x.shape, x.dtype) for x in frozen.inputs]
        return (lambda *tensors: frozen(*tensors)), specs


def _spec(variable):
    return tf.TensorSpec(variable.shape, variable.dtype)


def _garden_variables(layer):
    return layer.network.variables if hasattr(layer, "load_checkpoint") else []


def lowered(function, specs, platform):
    """XLA's text of a function of tensors, which captures none, for a platform."""
    get = tf.function(function, jit_compile=True).experimental_get_compiler_ir(*specs)
    return get(stage="hlo", platform_name=platform)


def report(text):
    """What a lowered graph holds, as text, and whether it may run on a TPU."""
    kinds = re.findall(r"= (\w+)\[[^=]*? (?:dot|convolution)\(", text)
    wide = len(re.findall(r"\bf64\[", text))
    found = f"{kinds.count('bf16'):4}/{len(kinds):<4} dots in bf16, {wide or 'no'} f64"
    return found, not wide


def first_line(error):
    lines = (str(error) or type(error).__name__).strip().splitlines()
    return lines[0][:300]


def check_platform(platform):
    """Whether lowering is tested here at all: x + 1 lowers, and a detour over strings fails.

    Raises:
        SystemExit: this TensorFlow lowers nothing for the platform.
    """
    spec = tf.TensorSpec((2,), tf.float32)
    try:
        lowered(lambda x: x + 1.0, [spec], platform)
    except Exception as error:
        raise SystemExit(
            f"error: this TensorFlow {tf.__version__} lowers nothing for {platform} "
            f"({first_line(error)}). Install tensorflow-tpu as this script's docstring says."
        ) from error
    try:
        lowered(lambda x: tf.strings.to_number(tf.strings.as_string(x)), [spec], platform)
    except Exception as error:
        print(f"as_string fails, as it should: {first_line(error)[:100]}")
        return True
    print("FAILED: as_string lowers; this check tells nothing")
    return False


def lower_config(name, size, options):
    """Prints a line for each graph of a config; returns the number that failed."""
    keras.backend.clear_session()
    gc.collect()
    failed = 0
    try:
        graphs = Graphs(sized_config(name, size, options.precision))
        parts = {"forward": graphs.forward, "gradients": graphs.gradients}
    except Exception as error:
        parts = {"model": lambda error=error: _raise(error)}
    for part, make in parts.items():
        start = time.perf_counter()
        try:
            function, specs = make()
            text, fine = report(lowered(function, specs, options.platform))
        except Exception as error:
            text, fine = f"{type(error).__name__}: {first_line(error)}", False
        failed += not fine
        seconds = time.perf_counter() - start
        state = "ok" if fine else "FAILED"
        print(f"{name:22}{size:5} {part:10}{state:7}{text}  ({seconds:.0f} s)", flush=True)
    return failed


def _raise(error):
    raise error


def main(options):
    print(f"TensorFlow {tf.__version__}, platform {options.platform}, {options.precision}")
    failed = int(not check_platform(options.platform))
    for size in options.sizes:
        for name in options.configs:
            failed += lower_config(name, size, options)
    if failed:
        raise SystemExit(f"error: {failed} graphs failed")


if __name__ == "__main__":
    main(parse_arguments())
