"""The daemon with faults in its chores: ``FAULT=raise@keep_house python -m tests.acceptance.faulty_chores run``.

``raise@<chore>``: an error that nobody expects, in that method of ``Daemon`` or ``Watch``, at its first turn.
``slow@close``: each connection takes a second to close, and housekeeping comes twice a second, so that whatever ends the
daemon meets a connection that is being closed. A line on standard output says that the fault is there.
"""

import asyncio
import os
from typing import Any

import asyncpg

from tickloom.daemon import daemon
from tickloom.daemon.daemon import Daemon
from tickloom.daemon.watch import Watch

CHORES = ("_keep_house", "_follow_group", "_feed_watchdog", "ask_kafka", "ask_postgres")


def install(fault: str) -> None:
    """Put it in."""
    action, _, place = fault.partition("@")
    if action == "raise":

        async def fail(self: Any, *_: Any) -> None:
            await asyncio.sleep(1)  # when all else is at work
            print("fault", flush=True)
            raise RuntimeError("nobody expected this")

        fail.__qualname__ = place

        setattr(Daemon if hasattr(Daemon, place) else Watch, place, fail)
    else:
        daemon._HOUSEKEEPING_SECONDS = 0.5
        close = asyncpg.Connection.close
        closed = 0

        async def close_slowly(self: Any, *, timeout: float | None = None) -> None:
            nonlocal closed
            closed += 1
            if closed > 1:  # the first is that of the checks at the start
                print("fault", flush=True)
                await asyncio.sleep(1)
            await close(self, timeout=timeout)

        asyncpg.Connection.close = close_slowly


if __name__ == "__main__":
    from tickloom.cli import main

    install(os.environ["FAULT"])
    main()
