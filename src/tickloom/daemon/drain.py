"""``tickloom.drain``: the daemon as a function call, for an orchestrator or a script, within its process.

It leaves that process alone: no signal handler, no exit, no change to the interpreter, the allocator or logging, and no port
unless the caller asks for one. If structlog is not set up, log lines go to Python's ``logging``, below the name
``tickloom``.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import replace
from typing import Any, TypeVar

from tickloom.daemon.daemon import Daemon
from tickloom.daemon.goal import log_ends
from tickloom.errors import SourceUnavailable, StoreUnavailable
from tickloom.logs import Logger
from tickloom.observe.outcome import Bounds, Ended, Outcome
from tickloom.settings import Settings
from tickloom.store import ledger
from tickloom.store.postgres import connected

_log = Logger(__name__)
_POLL_SECONDS = 0.05
T = TypeVar("T")


def drain(
    settings: Settings,
    *,
    max_seconds: float | None = None,
    max_messages: int | None = None,
    stop: threading.Event | None = None,
    serve: bool = False,
) -> Outcome:
    """Load the log up to its current end or up to a bound, whichever comes first.

    Blocks. It may be called from any thread, and repeatedly. It ends between two batches, and everything that the
    outcome counts is committed. A drain is a replica like any other: beside daemons of the same group it takes its share,
    and waits until they have done theirs.

    ``max_seconds`` count from the call; the batch in flight is finished first, which takes up to
    ``TICKLOOM_REVOKE_TIMEOUT_SECONDS``. Without them an outage is waited out, however long it takes. ``max_messages`` is
    never exceeded. ``stop``, once set, ends the drain after the batch in flight; so does an exception that a signal handler
    raises in the calling thread, as Ctrl-C does. ``serve``: answer by HTTP as the daemon does, at the port in the settings.

    Raises ``Mistake`` (a person must act); ``SourceUnavailable`` or ``StoreUnavailable`` if the time ran out while Kafka or
    Postgres was away; ``SettingsError`` for a bound that allows no message.
    """
    daemon = Daemon(settings, once=Bounds(max_seconds, max_messages), serve=serve, notify=False)
    interrupted = threading.Event()

    async def work() -> Outcome:
        stopping = asyncio.create_task(_stop_when_set(daemon, interrupted, stop or interrupted))
        try:
            await daemon.run()
        finally:
            stopping.cancel()
        return await with_lag(daemon.outcome(), settings)

    return run_apart(work, interrupted.set)


async def with_lag(outcome: Outcome, settings: Settings) -> Outcome:
    """The outcome with its lag: by topic, how many messages of the log, up to its current end, are not in the ledger.

    The lag is left out if Kafka or Postgres does not answer, and after a stop, because then somebody waits for the end.
    Raises ``Mistake``.
    """
    if outcome.ended is Ended.STOPPED:
        return outcome
    try:
        ends = await asyncio.get_running_loop().run_in_executor(None, log_ends, settings)
        async with connected(settings) as connection:
            positions = await ledger.positions(connection, list(ends))
    except (SourceUnavailable, StoreUnavailable) as error:
        _log.warning("the lag is unknown", error=str(error))
        return outcome
    lag = dict.fromkeys((settings.prices_topic, settings.volumes_topic), 0)
    for at, end in ends.items():
        lag[at.topic] += max(0, end - positions.get(at, 0))
    return replace(outcome, lag=lag)


def run_apart(work: Callable[[], Coroutine[Any, Any, T]], interrupted: Callable[[], object] = lambda: None) -> T:
    """Run ``work`` in an event loop of its own, in a thread of its own. Blocks; raises what ``work`` raises.

    The caller may have a running loop, and in the main thread asyncio would take over SIGINT. ``interrupted`` is called
    when a signal handler raises in the waiting thread; the exception goes on once ``work`` has ended.
    """

    def run() -> T:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work())

    with ThreadPoolExecutor(1, "tickloom-loop") as executor:
        running: Future[T] = executor.submit(copy_context().run, run)
        try:
            # In steps: polars handles SIGINT with SA_RESTART, after which no signal ends a wait in the main thread.
            while wait([running], _POLL_SECONDS).not_done:
                pass
        except BaseException:
            interrupted()
            raise
    return running.result()


async def _stop_when_set(daemon: Daemon, *events: threading.Event) -> None:
    while not any(event.is_set() for event in events):  # noqa: ASYNC110  (a threading.Event cannot wake an event loop)
        await asyncio.sleep(_POLL_SECONDS)
    daemon.stop()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # uvloop does not exist for every platform
        return None
    return uvloop.new_event_loop
