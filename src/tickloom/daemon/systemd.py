"""Notifications to systemd, if it started the daemon and asked for them (sd_notify(3))."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable

from tickloom.observe.health import Health

_WATCHDOG_SECONDS = 10.0
Notify = Callable[[str], None]


def notify(state: str) -> None:
    """Send ``state`` to the socket that systemd has named, if it has."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())


def ignore(state: str) -> None:
    """Send nothing, because the process and its socket to systemd belong to the caller of ``drain``."""


async def feed_watchdog(health: Health, notify: Notify) -> None:
    """A chore: tell systemd that the event loop runs and the daemon is alive. Without that, systemd kills the daemon."""
    while True:
        alive, _ = health.alive(time.monotonic())
        if alive:
            notify("WATCHDOG=1")
        await asyncio.sleep(_WATCHDOG_SECONDS)
