"""The first steps of every command: read the settings, set up the logs, run the event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tickloom import logs, settings

T = TypeVar("T")


def configured(*, tolerant: bool = False) -> settings.Settings:
    """Read the settings from the environment, and set up the logs accordingly. Raises ``SettingsError``; ``tolerant``: see
    ``settings.load``.
    """
    loaded = settings.load(tolerant=tolerant)
    logs.configure(loaded.log_format, loaded.log_level)
    return loaded


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end on uvloop, or on asyncio's own loop where uvloop is not available. Blocks."""
    try:
        import uvloop
    except ImportError:  # uvloop does not exist for every platform
        return asyncio.run(work)
    return uvloop.run(work)
