"""What a drain works towards."""

import asyncio

from tests.commits import committed
from tickloom.daemon.goal import Goal
from tickloom.daemon.lifecycle import Lifecycle
from tickloom.observe.outcome import Bounds, Ended, Tally


async def test_a_drain_ends_when_its_time_is_over() -> None:
    """A cron job would still run when the next one starts."""
    lifecycle = Lifecycle()
    await asyncio.wait_for(Goal(Bounds(max_seconds=0.05), Tally(), lifecycle).keep_time(), 2)
    assert (lifecycle.stopping, lifecycle.ended) == (True, Ended.MAX_SECONDS)


def test_messages_count_down() -> None:
    """A drain would load more than it was allowed to, or less."""
    tally = Tally()
    goal = Goal(Bounds(max_messages=6), tally, Lifecycle())
    assert goal.messages_left() == 6
    tally.add(committed())
    assert goal.messages_left() == 2
    tally.add(committed())
    assert goal.messages_left() == 0
    assert Goal(Bounds(), tally, Lifecycle()).messages_left() is None
