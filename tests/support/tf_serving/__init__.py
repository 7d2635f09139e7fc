"""A test double of TF Serving: its REST and gRPC protocols over TensorFlow's C++ loader.

It is not `tensorflow_model_server`. It takes that server's flags and config files, and follows its
sources in what tests depend on: when versions are loaded and dropped, labels, defaults of inputs,
codes and texts of errors, JSON. It has no batching (with --enable_batching it refuses what the
real server then refuses), no classify or regress, no TFRT, no SSL. It links ScaNN's ops only with
--scann, as a server of one's own would; tensorflow-text's, which stock images link, never.

`running(...)` starts it as a process of its own, on 127.0.0.1 and free ports.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).parents[3]
LIFETIME = 300


@dataclasses.dataclass
class Double:
    """A running double: `rest` is "http://127.0.0.1:PORT", `grpc` "127.0.0.1:PORT"."""

    rest: str
    grpc: str
    process: subprocess.Popen

    @contextlib.contextmanager
    def stopped(self):
        """It answers nothing inside."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def memory(self):
        """MiB that its process holds."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextlib.contextmanager
def running(*flags, scann=False, mounts=None):
    """Yields a `Double` that has loaded its models.

    Args:
        *flags: those of tensorflow_model_server, as `server.py` knows them.
        scann: whether it links ScaNN's ops.
        mounts: {folder in the config files: folder here}, as Docker's volumes.
    """
    command = [sys.executable, "-m", "tests.support.tf_serving.server", *flags]
    command += [f"--lifetime={LIFETIME}", *(["--scann"] if scann else [])]
    command += [f"--mount={there}={here}" for there, here in (mounts or {}).items()]
    # oneDNN's allocator keeps what a dropped version had.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the double ended with status {process.wait()}")
        ports = json.loads(line)
        yield Double(f"http://127.0.0.1:{ports['rest']}", f"127.0.0.1:{ports['grpc']}", process)
    finally:
        process.stdin.close()  # it ends then
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextlib.contextmanager
def serving(*models, **options):
    """`running` with the newest version of each folder of a model."""
    config = "".join(
        f'config {{ name: "{pathlib.Path(model).name}" base_path: "{model}" '
        'model_platform: "tensorflow" }\n'
        for model in models
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "models.config"
        path.write_text(f"model_config_list {{ {config} }}")
        flags = [f"--model_config_file={path}", "--file_system_poll_wait_seconds=0.1"]
        with running(*flags, **options) as server:
            yield server


def composed(folder, *flags, **options):
    """`running` as a folder's compose file says: its command with its volumes, and `flags`."""
    service = yaml.safe_load((pathlib.Path(folder) / "compose.yaml").read_text())["services"]
    service = service["serving"]
    mounts = {}
    for volume in service["volumes"]:
        here, there, *_ = volume.split(":")
        mounts[there] = os.path.normpath(os.path.join(os.path.abspath(folder), here))
    return running(*service["command"], *flags, mounts=mounts, **options)
