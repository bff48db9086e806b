"""Tasks beside the flow, under one supervision: none of them dies unnoticed, and none outlives the daemon."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from tickloom.logs import Logger

_CANCEL_AGAIN_SECONDS = 3.0
_CANCELLATIONS = 3
_log = Logger(__name__)


class Chores:
    """Runs chores until ``end``. A chore that returns is done; one that fails is logged, and ``failed`` gets its error."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *chores: Coroutine[Any, Any, None]) -> None:
        """Start these chores as well."""
        for chore in chores:
            task = asyncio.create_task(chore, name=chore.__qualname__)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def end(self) -> None:
        """Cancel all chores and wait until they have ended."""
        await end_all(self._tasks)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("a chore has failed, so the daemon ends", chore=task.get_name(), exc_info=error)
        self._failed(error)


async def end_all(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel the tasks until they have ended, and drop what they raise. Takes 9 seconds at most.

    One cancellation may not be enough: a library may take it for an outage, or lose it while it closes a connection.
    """
    pending = set(tasks)
    for _ in range(_CANCELLATIONS):
        if not pending:
            return
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
        for task in done:
            _ = task.cancelled() or task.exception()  # or asyncio complains that the exception was never retrieved
    for task in pending:
        _log.error("a task does not end; it is left behind", task=task.get_name())
