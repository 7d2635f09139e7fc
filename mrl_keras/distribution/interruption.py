"""SIGTERM while a model trains: it is noted, and all workers act on it after the same step."""

import os
import signal
import threading

import tensorflow as tf


class Interrupted(SystemExit):
    """Ends a script whose training was stopped; the same command goes on where it stopped.

    Args:
        step: int, of the checkpoint that was written last.

    Attributes:
        code: the exit status 75 (EX_TEMPFAIL of sysexits.h): start me again.
    """

    START_AGAIN = os.EX_TEMPFAIL

    def __init__(self, step):
        super().__init__(self.START_AGAIN)
        self.step = step


class Interruption:
    """A context in which SIGTERM is noted rather than obeyed, and the workers of a strategy agree.

    The signal, by which a preempted machine is told to stop, may reach one worker or all, each
    at its own moment; all must stop after the same step, since each waits for the others.

    `tf.distribute.experimental.PreemptionCheckpointHandler` is not used: on Google Cloud it does
    nothing on TPU and CPU machines, it reads a checkpoint of its own when it is made, and it writes
    `tf.train.Checkpoint`s.

    Args:
        strategy: `tf.distribute.Strategy` of the training.

    Example:

    >>> from mrl_keras.distribution import Interruption, make_strategy
    >>> with Interruption(make_strategy()) as interruption:
    ...     before = interruption.requested()
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     before, interruption.requested()
    (False, True)
    """

    def __init__(self, strategy):
        self._strategy, self._noted, self._before = strategy, False, None
        workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._workers = workers and strategy.extended._num_workers > 1

    def __enter__(self):
        # Only the main thread may handle signals; in another one SIGTERM does what it did.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_):
        self._noted = True

    def requested(self):
        """Whether any worker got the signal; all workers must ask after the same steps.

        On one worker this costs nothing; several reduce one number each time.
        """
        if not self._workers:
            return self._noted
        distribute = self._strategy.experimental_distribute_values_from_function
        noted = distribute(lambda context: tf.constant(float(self._noted)))
        return float(self._strategy.reduce("SUM", noted, axis=None)) > 0
