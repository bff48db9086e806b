"""What ends a session, or the run."""

import asyncio

from tickloom.daemon.lifecycle import Lifecycle
from tickloom.observe.outcome import Ended


def test_the_first_reason_counts() -> None:
    """A summary would say that somebody stopped a drain that had reached its end."""
    lifecycle = Lifecycle()
    lifecycle.end(Ended.DRAINED)
    lifecycle.end(Ended.STOPPED)
    assert lifecycle.ended is Ended.DRAINED
    first = ValueError("first")
    lifecycle.fail(first)
    lifecycle.fail(ValueError("second"))
    assert lifecycle.error is first


async def test_work_ends_with_the_run() -> None:
    """A daemon that waits for an outage to end could not be stopped."""
    lifecycle, cancelled = Lifecycle(), asyncio.Event()

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return "done"

    waiting = asyncio.create_task(lifecycle.unless_stopped(work()))
    await asyncio.sleep(0.01)
    lifecycle.end(Ended.STOPPED)
    assert await asyncio.wait_for(waiting, 2) is None
    assert cancelled.is_set()
    await asyncio.wait_for(lifecycle.pause(60), 2)


async def test_work_that_ends_first_gives_its_result() -> None:
    """The checks at the start would be taken for a stop."""

    async def work() -> str:
        return "done"

    assert await Lifecycle().unless_stopped(work()) == "done"
