"""What every command does first: read the settings, set up the logs, run the event loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tickloom import logs, settings

T = TypeVar("T")


def configured(*, tolerant: bool = False) -> settings.Settings:
    """Settings from the environment, with logs as they say. Raises ``SettingsError``; see ``settings.load``."""
    loaded = settings.load(tolerant=tolerant)
    logs.configure(loaded.log_format, loaded.log_level)
    return loaded


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end on uvloop, or on asyncio's own loop where uvloop is not available. Blocks."""
    try:
        import uvloop
    except ImportError:  # it does not exist for this platform
        return asyncio.run(work)
    return uvloop.run(work)
