"""Give back what models and graphs took."""

import ctypes
import gc
import sys


def free_models():
    """Forget Keras's names and cached kernels, and return unused memory to the system."""
    keras = sys.modules.get("keras")
    if keras is None:
        return
    keras.utils.clear_session()
    gc.collect()
    if sys.platform == "linux":
        # glibc keeps what small graphs left behind; give it back to the system.
        ctypes.CDLL(None).malloc_trim(0)
