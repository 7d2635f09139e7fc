"""Training on several devices and workers, and checkpoints of runs that may be stopped.

No other part of the package depends on the number of replicas.
"""

from mrl_keras.distribution.checkpoints import Checkpoints
from mrl_keras.distribution.clipping import clip_over_replicas
from mrl_keras.distribution.fit import fit_distributed
from mrl_keras.distribution.interruption import Interrupted, Interruption
from mrl_keras.distribution.replicas import gather
from mrl_keras.distribution.strategies import STRATEGIES, is_chief, make_strategy, split_cpu

__all__ = [
    "STRATEGIES",
    "Checkpoints",
    "Interrupted",
    "Interruption",
    "clip_over_replicas",
    "fit_distributed",
    "gather",
    "is_chief",
    "make_strategy",
    "split_cpu",
]
