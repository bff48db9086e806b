"""The daemon with faults in its chores: ``FAULT=raise@Housekeeping.keep python -m tests.acceptance.faulty_chores run``.

``raise@<chore>``: this chore fails with an unexpected error, one second after its start. ``raise@subscriber``: so does what
counts the first commit. ``slow@close``: each connection takes a second to close, and housekeeping comes twice a second, so that whatever ends the daemon meets a connection that is
being closed. A line on standard output says that the fault has happened.
"""

import asyncio
import os
from typing import Any

import asyncpg

from tickloom.daemon import housekeeping, systemd
from tickloom.daemon.group import Group
from tickloom.daemon.housekeeping import Housekeeping
from tickloom.daemon.monitor import Monitor
from tickloom.daemon.sharing_follower import SharingFollower
from tickloom.observe.metrics import Metrics

CHORES: dict[str, tuple[Any, str]] = {
    "Housekeeping.keep": (Housekeeping, "keep"),
    "Group.follow": (Group, "follow"),
    "SharingFollower.follow": (SharingFollower, "follow"),
    "feed_watchdog": (systemd, "feed_watchdog"),
    "Monitor.ask_kafka": (Monitor, "ask_kafka"),
    "Monitor.ask_postgres": (Monitor, "ask_postgres"),
}


def fail_in(chore: str) -> None:
    """Let this chore fail."""

    async def fail(*_: Any) -> None:
        await asyncio.sleep(1)  # until everything else is at work
        print("fault", flush=True)
        raise RuntimeError("nobody expected this")

    fail.__qualname__ = chore
    setattr(*CHORES[chore], fail)


def fail_to_count() -> None:
    """Let a subscriber fail."""

    def fail(*_: Any) -> None:
        print("fault", flush=True)
        raise RuntimeError("nobody expected this")

    Metrics._committed = fail


def close_slowly() -> None:
    """Let connections take a second to close, beginning with the second one."""
    housekeeping._EVERY_SECONDS = 0.5
    close = asyncpg.Connection.close
    closed = 0

    async def slow_close(self: Any, *, timeout: float | None = None) -> None:
        nonlocal closed
        closed += 1
        if closed > 1:  # the first one is that of the checks at the start
            print("fault", flush=True)
            await asyncio.sleep(1)
        await close(self, timeout=timeout)

    asyncpg.Connection.close = slow_close


if __name__ == "__main__":
    from tickloom.cli import main

    action, _, place = os.environ["FAULT"].partition("@")
    if place == "subscriber":
        fail_to_count()
    elif action == "raise":
        fail_in(place)
    else:
        close_slowly()
    main()
