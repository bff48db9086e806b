"""Tasks beside the flow, under one supervision: none of them can die unnoticed, and none outlives its time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from tickloom.logs import Logger

_CANCEL_AGAIN_SECONDS = 3.0
_CANCELLATIONS = 3
_log = Logger(__name__)


class Chores:
    """Runs them until ``end``. One that ends by itself is done; one that fails is told to ``failed``, and logged."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *works: Coroutine[Any, Any, None]) -> None:
        """Begin these too."""
        for work in works:
            task = asyncio.create_task(work, name=work.__qualname__)
            task.add_done_callback(self._look)
            self._tasks.append(task)

    async def end(self) -> None:
        """End all of them; returns when they have."""
        await end_all(self._tasks)

    def _look(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("a chore has failed, so the daemon ends", chore=task.get_name(), exc_info=error)
        self._failed(error)


async def end_all(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel until they have ended, and forget what they raise. Takes ``_CANCELLATIONS`` times ``_CANCEL_AGAIN_SECONDS``.

    Once may not be enough: a library may take a cancellation for an outage, or lose it while it closes something.
    """
    pending = set(tasks)
    for _ in range(_CANCELLATIONS):
        if not pending:
            return
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
        for task in done:
            _ = task.cancelled() or task.exception()  # or asyncio says that nobody looked
    for task in pending:
        _log.error("a task does not end; it is left behind", task=task.get_name())
