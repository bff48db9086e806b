"""The loop that waits out outages."""

import asyncio
from random import Random

import pytest

from tickloom.errors import Mistake, StoreUnavailable
from tickloom.patience import Failure, outlast
from tickloom.retry import Backoff, RetryPolicy

Failures = list[Failure[StoreUnavailable]]


def backoff() -> Backoff:
    return Backoff(RetryPolicy(0.001, 0.002), Random(1))


async def fail(times: list[Exception]) -> str:
    if times:
        raise times.pop(0)
    return "done"


async def test_an_outage_is_outlasted() -> None:
    """A batch would be lost, or loaded twice, because the database was away for a moment."""
    failures: Failures = []
    times: list[Exception] = [StoreUnavailable("1"), StoreUnavailable("2")]
    assert await outlast(StoreUnavailable, backoff(), lambda: fail(times), failures.append) == "done"
    assert [(failure.attempt, str(failure.error)) for failure in failures] == [(1, "1"), (2, "2")]
    assert all(0 < failure.wait_seconds <= 0.002 for failure in failures)


async def test_other_errors_are_raised_at_once() -> None:
    """A mistake that a person must cure would be waited out for ever."""
    failures: Failures = []
    with pytest.raises(Mistake, match="no right"):
        await outlast(StoreUnavailable, backoff(), lambda: fail([Mistake("no right")]), failures.append)
    assert failures == []


async def test_the_caller_may_give_up() -> None:
    """A lock table that stays full would be waited for without end, and without a word of what to do."""

    def give_up(failure: Failure[StoreUnavailable]) -> None:
        raise Mistake(str(failure.error))

    with pytest.raises(Mistake, match="full"):
        await outlast(StoreUnavailable, backoff(), lambda: fail([StoreUnavailable("full")]), give_up)


async def test_a_cancellation_is_no_outage() -> None:
    """A session that was given up would be tried again for ever, because a library raised something else instead."""
    failures: Failures = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise StoreUnavailable("the connection is closed") from None

    task = asyncio.create_task(outlast(StoreUnavailable, backoff(), work, failures.append))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
    assert failures == []
