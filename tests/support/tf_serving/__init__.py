"""A test double of TF Serving: its REST and gRPC protocols over TensorFlow's C++ loader.

It is not `tensorflow_model_server`. It takes that server's flags and config files, and follows its
sources in what tests depend on: when versions are loaded and dropped, labels, defaults of inputs,
codes and texts of errors, JSON. It has no batching (with --enable_batching it refuses what the
real server then refuses), no classify or regress, no TFRT, no SSL. It links ScaNN's ops only with
--scann, as a server of one's own would; tensorflow-text's, which stock images link, never.

`running(...)` starts it as a process of its own, on 127.0.0.1 and free ports.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import types

import yaml

ROOT = pathlib.Path(__file__).parents[3]
LIFETIME = 300


@contextlib.contextmanager
def running(*flags, scann=False, delay=0.0, mounts=None, log=None):
    """Yields the double as `rest` ("http://127.0.0.1:PORT"), `grpc` ("127.0.0.1:PORT"), `process`.

    Args:
        *flags: those of tensorflow_model_server, as for `server.py`.
        scann: whether it links ScaNN's ops.
        delay: seconds that it waits before each answer of Predict.
        mounts: {folder in the config files: folder here}, as Docker's volumes.
        log: file for its output. Default: the test's stderr.
    """
    command = [sys.executable, "-m", "tests.support.tf_serving.server", *flags]
    command += [f"--delay={delay}", f"--lifetime={LIFETIME}", *(["--scann"] if scann else [])]
    command += [f"--mount={there}={here}" for there, here in (mounts or {}).items()]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the double ended with status {process.wait()}")
        ports = json.loads(line)
        yield types.SimpleNamespace(
            rest=f"http://127.0.0.1:{ports['rest']}",
            grpc=f"127.0.0.1:{ports['grpc']}",
            process=process,
        )
    finally:
        process.stdin.close()  # it ends then
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def serving(*models, **options):
    """`running` with the newest version of each folder of a model."""
    config = "".join(
        f'config {{ name: "{pathlib.Path(model).name}" base_path: "{model}" '
        'model_platform: "tensorflow" }\n'
        for model in models
    )
    return _with_config(f"model_config_list {{ {config} }}", **options)


def composed(folder, **options):
    """`running` as the compose file in `folder` says: its command, with its volumes."""
    service = yaml.safe_load((pathlib.Path(folder) / "compose.yaml").read_text())["services"]
    service = service["serving"]
    mounts = {}
    for volume in service["volumes"]:
        here, there, *_ = volume.split(":")
        mounts[there] = os.path.abspath(os.path.join(folder, here))
    return running(*service["command"], mounts=mounts, **options)


@contextlib.contextmanager
def _with_config(text, **options):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "models.config"
        path.write_text(text)
        flags = [f"--model_config_file={path}", "--file_system_poll_wait_seconds=0.2"]
        with running(*flags, **options) as server:
            yield server
