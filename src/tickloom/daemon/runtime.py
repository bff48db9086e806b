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
objects several times per chunk."""
_MALLOPT = ((-8, 1), (-3, 1 << 20), (-1, 8 << 20))
"""mallopt(3): M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD. By default each thread has an arena of its own, which never
returns the memory of a batch's columns: some 80 MB more."""


def tune_first() -> None:
    """Tune the allocator (only glibc's), and stop the garbage collector.

    Call this before any thread starts, because the allocator then makes arenas, and before the large imports: all of their
    objects stay, so collecting them would be wasted work.
    """
    gc.disable()
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for parameter, value in _MALLOPT:
            mallopt(parameter, value)


def tune_interpreter() -> None:
    """Tune the interpreter. Call this once the modules and settings, which all stay, are loaded."""
    sys.setswitchinterval(_GIL_SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()


def leave() -> NoReturn:
    """End the process with exit code 0, once everything is committed and closed.

    A normal exit would free the memory object by object, which takes a third of a second after a long log. The system takes
    it back at once.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
