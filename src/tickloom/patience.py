"""The one loop that waits out outages: of Postgres (``store.store``) and of Kafka (the daemon)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from tickloom.errors import SourceUnavailable, StoreUnavailable
from tickloom.retry import Backoff

T = TypeVar("T")
E = TypeVar("E", SourceUnavailable, StoreUnavailable)


@dataclass(frozen=True, slots=True)
class Failure(Generic[E]):
    """The ``attempt`` (from 1) failed with ``error``; the next one starts in ``wait_seconds``."""

    error: E
    attempt: int
    wait_seconds: float


async def outlast(
    outage: type[E], backoff: Backoff, attempt: Callable[[], Awaitable[T]], failed: Callable[[Failure[E]], object]
) -> T:
    """Repeat ``attempt`` until it succeeds, for as long as it raises ``outage``. Returns its result.

    ``failed`` is called after each failure, before the wait, and may raise to give up. Raises every other error at once.
    """
    backoff.reset()
    number = 0
    while True:
        number += 1
        try:
            return await attempt()
        except outage as error:
            if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
                raise asyncio.CancelledError from error  # a library must not turn a cancellation into an outage
            failure = Failure(error, number, backoff.failed())
            failed(failure)
            await asyncio.sleep(failure.wait_seconds)
