"""Training on several devices and workers, and runs that survive being stopped.

The only part of the package that knows replicas.
"""

from mrl_keras.distribution.checkpoints import Checkpoints
from mrl_keras.distribution.fit import DistributedModel, distributed, global_batches
from mrl_keras.distribution.gather import gather
from mrl_keras.distribution.strategies import STRATEGIES, is_chief, split_cpu, strategy

__all__ = [
    "STRATEGIES",
    "Checkpoints",
    "DistributedModel",
    "distributed",
    "gather",
    "global_batches",
    "is_chief",
    "split_cpu",
    "strategy",
]
