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


def processor_name() -> str:
    """The model name of the processor."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


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
