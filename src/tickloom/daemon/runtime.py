"""How the allocator and the interpreter are set for the daemon's work."""

import ctypes
import gc
import os
import sys
from typing import NoReturn

_GIL_SWITCH_SECONDS = 0.0005
"""The loop that feeds COPY and the thread that decodes share the GIL; the default of 5 ms starves COPY."""
_GC_THRESHOLDS = (100_000, 20, 100)
"""A batch is made of some ten thousand objects that hold no cycles: by default the collector would look through all
that lives several times a chunk."""
_MALLOPT = ((-8, 1), (-3, 1 << 20), (-1, 8 << 20))
"""mallopt(3): M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD. By default each thread has an arena of its own, and what
the columns of a batch took is kept there for good: some 80 MB more."""


def tune_first() -> None:
    """Before any thread is started, which the allocator must know (nothing is done where the C library is not glibc), and
    before the large imports, of which nothing is garbage: nobody need look.
    """
    gc.disable()
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for parameter, value in _MALLOPT:
            mallopt(parameter, value)


def tune_interpreter() -> None:
    """When all that stays is there: modules and settings."""
    sys.setswitchinterval(_GIL_SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()


def leave() -> NoReturn:
    """End the process with exit code 0, when all is committed and closed.

    What the interpreter does beyond that is to take apart, object by object, memory that the system takes back at once
    anyway: a good third of a second after a long log.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
