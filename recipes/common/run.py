"""A run's work directory."""

from __future__ import annotations

import dataclasses
import json
import os

import ml_collections

from mrl_keras.distribution import Checkpoints
from mrl_keras.files import local_path


@dataclasses.dataclass(frozen=True)
class Run:
    """A work directory: the resolved config, checkpoints, logs, results.

    Args:
        workdir: str, the folder.
        config: `ml_collections.ConfigDict`.

    Raises:
        ValueError: `workdir` is a URL.
    """

    workdir: str
    config: ml_collections.ConfigDict

    def __post_init__(self):
        local_path(self.workdir, "The work directory")

    @classmethod
    def open(cls, workdir) -> Run:
        """The run of a work directory that `train.py` made.

        Raises:
            ValueError: the folder has no config.json, or `workdir` is a URL.
        """
        workdir = local_path(workdir, "The work directory")
        path = os.path.join(workdir, "config.json")
        if not os.path.exists(path):
            raise ValueError(f"{workdir} holds no config.json; train there first (train.py).")
        with open(path) as file:
            return cls(workdir, ml_collections.ConfigDict(json.load(file)))

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path("checkpoints"), self.config.to_dict())

    def path(self, name) -> str:
        """The path of a file in the work directory."""
        return os.path.join(self.workdir, name)

    def cost(self) -> dict[str, float]:
        """CPU and wall seconds that training has taken so far."""
        path = self.path("cost.json")
        if not os.path.exists(path):
            return {"cpu_seconds": 0.0, "wall_seconds": 0.0}
        with open(path) as file:
            return json.load(file)
