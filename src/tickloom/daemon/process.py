"""The daemon as a process: its signals, and a time limit for its end."""

import asyncio
import os
import signal
import threading

from prometheus_client import disable_created_metrics

from tickloom.daemon.daemon import Daemon
from tickloom.daemon.runtime import tune_interpreter
from tickloom.logs import Logger
from tickloom.observe.outcome import Bounds
from tickloom.settings import Settings

_LEAVE_SECONDS = 15.0
"""Upper bound on the time from a signal to the end, without the batch in flight. Leaving the group takes up to 10 s of it."""
_log = Logger(__name__)


async def run(settings: Settings, *, once: Bounds | None = None) -> Daemon:
    """Run the daemon. The first SIGTERM or SIGINT ends it after the batch in flight, a second one at once.

    Tunes the interpreter. Returns the daemon when it has ended; raises as ``Daemon.run`` does.
    """
    tune_interpreter()
    disable_created_metrics()  # process-wide; otherwise each counter has one more series, which is useless
    daemon = Daemon(settings, once=once)
    loop = asyncio.get_running_loop()
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            _log.warning("leaving at once; the batch in flight will be read again")
            os._exit(0)
        _log.info("stopping: the batch in flight is finished first")
        _exit_after(settings.revoke_timeout_seconds + _LEAVE_SECONDS)
        daemon.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await daemon.run()
    return daemon


def _exit_after(seconds: float) -> None:
    """End the process after ``seconds``, even if the event loop hangs. That is safe at any moment, because the next start
    reads on from the ledger.
    """

    def leave() -> None:
        _log.error("did not end in time; leaving; the batch in flight will be read again", seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
