"""``tickloom.drain``: the daemon's own core as a call, for an orchestrator or a script, in a process that is not ours.

The process is left as it is: no signal handler, no end of the process, no setting of interpreter, allocator or logging,
no port. Where structlog is not set up, what there is to say goes to Python's ``logging``, below the name ``tickloom``.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

from tickloom.daemon.daemon import Daemon, with_lag
from tickloom.observe.outcome import Bounds, Outcome
from tickloom.settings import Settings

_LOOK_SECONDS = 0.05
T = TypeVar("T")


def drain(
    settings: Settings,
    *,
    max_seconds: float | None = None,
    max_messages: int | None = None,
    stop: threading.Event | None = None,
    serve: bool = False,
) -> Outcome:
    """Load the log up to its end as it is now, or up to a bound, whichever is first; ends at a batch's border.

    Blocks; may be called from any thread, and as often as you like. Everything that the outcome counts is committed.
    It is a replica as any other: beside daemons of the same group it takes its share, and waits until the others have
    done theirs. ``max_seconds`` are counted from the call. The batch in flight is finished first, which takes
    ``TICKLOOM_REVOKE_TIMEOUT_SECONDS`` at most. ``max_messages`` are committed at most. Without ``max_seconds`` an outage
    is waited out, however long. ``stop``, once set, ends it softly; so does an exception that a signal handler raises in
    the calling thread, as Ctrl-C does. ``serve`` answers by HTTP as the daemon does, at the port of the settings.

    Raises ``Mistake`` (a person must act); ``SourceUnavailable`` or ``StoreUnavailable`` where the time was over while
    Kafka or Postgres was away; ``SettingsError`` for a bound that lets nothing be read.
    """
    daemon = Daemon(settings, once=Bounds(max_seconds, max_messages), serve=serve, notify=False)
    leave = threading.Event()

    def asked() -> bool:
        return leave.is_set() or (stop is not None and stop.is_set())

    async def work() -> Outcome:
        watching = asyncio.create_task(_watch(daemon, asked))
        try:
            await daemon.run()
        finally:
            watching.cancel()
        return await with_lag(daemon.outcome(), settings)

    return run_apart(work, leave.set)


def run_apart(work: Callable[[], Coroutine[Any, Any, T]], interrupted: Callable[[], object] = lambda: None) -> T:
    """``work`` in an event loop of its own, in a thread of its own; blocks, and raises what it raises.

    For the caller may have a loop that runs, and in the main thread asyncio takes SIGINT. ``interrupted`` is called where
    a signal handler raises in the waiting thread; the exception goes on when ``work`` has ended.
    """

    def run() -> T:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work())

    with ThreadPoolExecutor(1, "tickloom-loop") as executor:
        running: Future[T] = executor.submit(copy_context().run, run)
        try:
            # In steps: polars takes SIGINT with SA_RESTART, and then no signal ends a wait in the main thread.
            while wait([running], _LOOK_SECONDS).not_done:
                pass
        except BaseException:
            interrupted()
            raise
    return running.result()


async def _watch(daemon: Daemon, asked: Callable[[], bool]) -> None:
    while not asked():  # noqa: ASYNC110  (a threading.Event is asked, which tells no loop)
        await asyncio.sleep(_LOOK_SECONDS)
    daemon.stop()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return None
    return uvloop.new_event_loop
