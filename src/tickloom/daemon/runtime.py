"""Settings of the interpreter and the memory allocator for the daemon's work."""

import ctypes
import gc
import os
import sys
from typing import NoReturn

_GIL_SWITCH_SECONDS = 0.0005
"""The loop that feeds COPY and the thread that decodes share the GIL; the default of 5 ms starves COPY."""
_GC_THRESHOLDS = (100_000, 20, 100)
"""A batch consists of some ten thousand objects without cycles. With the defaults the collector would go through all live
objects several times a chunk."""
_MALLOPT = ((-8, 1), (-3, 1 << 20), (-1, 8 << 20))
"""mallopt(3): M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD. By default each thread has an arena of its own, which never
returns the memory of a batch's columns: some 80 MB more."""


def tune_first() -> None:
    """Call this before any thread starts, for the allocator's sake, and before the large imports, whose objects all stay, so
    that the garbage collector would go through them in vain. Does nothing to the allocator where the C library is not glibc.
    """
    gc.disable()
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for parameter, value in _MALLOPT:
            mallopt(parameter, value)


def tune_interpreter() -> None:
    """Call this once everything that stays has been loaded: modules and settings."""
    sys.setswitchinterval(_GIL_SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()


def leave() -> NoReturn:
    """End the process with exit code 0, once all is committed and closed.

    The interpreter would go on to free memory object by object, which the system takes back at once anyway: a third of a
    second after a long log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
