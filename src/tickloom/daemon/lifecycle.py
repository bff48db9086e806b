"""Ends the session, or the whole run. One object, shared by the sessions' loop and everything that may end them."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from tickloom.daemon.chores import end_all
from tickloom.daemon.session import Session
from tickloom.observe.outcome import Ended

T = TypeVar("T")


class Lifecycle:
    """Belongs to the event loop.

    ``session`` is the one that may have a batch in flight; None between sessions, and while one opens. ``interrupted`` is
    set when the loop must end its current session or wait; the loop clears it before it decides what to do next. ``ended``:
    why the run ends. ``error``: the exception to end with.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        self.interrupted = asyncio.Event()
        self.ended: Ended | None = None
        self.error: BaseException | None = None
        self._stop = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether the run ends."""
        return self._stop.is_set()

    def end_session(self) -> None:
        """End the session after the batch in flight, or the wait between two sessions; then another session begins."""
        self.interrupted.set()
        if self.session is not None:
            self.session.stop()

    def end(self, why: Ended) -> None:
        """End the run, after the batch in flight. The first reason counts."""
        self.ended = self.ended or why
        self._stop.set()
        self.end_session()

    def fail(self, error: BaseException) -> None:
        """End the run as a stop does, and then with ``error``. The first error counts."""
        self.error = self.error or error
        self.end(Ended.STOPPED)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of ``work``. If the run ends first, cancels ``work`` and returns None."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        await end_all([task])
        return None

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than the run lasts."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
