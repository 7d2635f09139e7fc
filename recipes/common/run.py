"""A run's work directory."""

from __future__ import annotations

import dataclasses

import ml_collections

from mrl_keras.distribution import Checkpoints
from mrl_keras.files import as_path, exists, join, read_json


@dataclasses.dataclass(frozen=True)
class Run:
    """A work directory: the resolved config, checkpoints, logs, results.

    Args:
        workdir: str, the folder, local or remote.
        config: `ml_collections.ConfigDict`.

    Raises:
        ValueError: `workdir` is a URL of no file system that TensorFlow knows.
    """

    workdir: str
    config: ml_collections.ConfigDict

    def __post_init__(self):
        object.__setattr__(self, "workdir", as_path(self.workdir, "The work directory"))

    @classmethod
    def open(cls, workdir) -> Run:
        """The run of a work directory that `train.py` made.

        Raises:
            ValueError: the folder has no config.json, or it is damaged.
            OSError: a remote folder that can't be read.
        """
        workdir = as_path(workdir, "The work directory")
        path = join(workdir, "config.json")
        if not exists(path):
            raise ValueError(f"{workdir} holds no config.json; train there first (train.py).")
        return cls(workdir, ml_collections.ConfigDict(read_json(path)))

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path("checkpoints"), self.config.to_dict())

    def path(self, name) -> str:
        """The path of a file in the work directory."""
        return join(self.workdir, name)

    def cost(self) -> dict[str, float]:
        """CPU and wall seconds that training has taken so far."""
        path = self.path("cost.json")
        return read_json(path) if exists(path) else {"cpu_seconds": 0.0, "wall_seconds": 0.0}
