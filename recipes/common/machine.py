"""The machine that measures, and the versions installed on it."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Sequence

from mrl_keras.files import write_csv
from mrl_keras.retrieval.exact.threads import available_cores

PACKAGES = ("mrl_keras", "keras", "tensorflow", "numpy")
# What tells processors apart whose names are the same, the widest first.
_VECTOR_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def processor_name(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The model name of the processor, and its widest vector instructions in brackets."""
    try:
        with open(cpuinfo) as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        lines = []
    about = {name.strip(): value.strip() for name, _, value in lines}
    name = about.get("model name") or platform.processor() or platform.machine()
    flags = about.get("flags", "").split()
    widest = next((one for one in _VECTOR_INSTRUCTIONS if one in flags), None)
    return f"{name} ({widest})" if widest else name


def accelerator_names() -> list[str]:
    """The GPUs and TPUs of TensorFlow, where it has been imported."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return []
    devices = [
        device
        for kind in ("GPU", "TPU")
        for device in tensorflow.config.list_physical_devices(kind)
    ]
    details = map(tensorflow.config.experimental.get_device_details, devices)
    return [one.get("device_name", "unnamed") for one in details]


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """{package: installed version, "" where it is not installed}."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def machine_columns() -> dict[str, object]:
    """Day (UTC), hardware and versions of a measurement, as columns of its CSV file."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": processor_name(),
        "cores": available_cores(),
        "accelerator": "; ".join(accelerator_names()),
        "python": platform.python_version(),
        **versions(),
    }


def write_measurements(path, rows: Sequence[dict]) -> None:
    """Writes a CSV file of `rows`, each with `machine_columns` after its own columns.

    Raises:
        ValueError: no row, or rows of different keys.
    """
    columns = machine_columns()
    write_csv(path, [{**row, **columns} for row in rows])
