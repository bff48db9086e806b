"""Open loop: the time from the intended send of a message until another session sees its row.

The producer sends by the clock and does not wait for the daemon. Each latency counts from the time at which its message was
*due*, so that a producer that fell behind hides nothing (no coordinated omission). A watcher looks the rows up by key, on
a connection of its own. Both read the clock of this machine; a row counts as visible once the answer that contains it has
arrived. The watched pairs are chosen by their number alone, except that pairs without a joined row of their own are left
out: those with a bad side, and those whose key an earlier pair has.
"""

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from tickloom.bench.child import Child, running
from tickloom.bench.databases import visible, watcher
from tickloom.bench.plan import Plan
from tickloom.bench.rig import Rig
from tickloom.bench.throughput import write_history
from tickloom.core.model import TABLES
from tickloom.errors import TickloomError
from tickloom.shapes import Key, Reshaper
from tickloom.store.postgres import Connection
from tickloom.synthetic import Tick, TickSettings, TopicSide, live

WARMUP_SECONDS = 3.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_PAIRS_WATCHED_PER_SECOND = 500
_POLL_SECONDS = 0.005
_MAX_WAIT_SECONDS = 60.0
_GIL_SWITCH_SECONDS = 0.0005
"""The producer and the watcher share a process; the default of 5 ms would show in the figures."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A pair whose rows the watcher waits for. ``due``: Unix seconds of its intended send."""

    symbol: str
    moment: datetime
    due: float


@dataclass(slots=True)
class Latency:
    """All lists are in seconds, in no particular order. ``polls``: times between two polls of the tables.

    The producer's thread owns ``late`` until it has ended, the watcher everything else.
    """

    rate: float
    seconds: float
    messages: int
    by_table: dict[str, list[float]] = field(default_factory=lambda: {table.name: [] for table in TABLES})
    polls: list[float] = field(default_factory=list[float])
    late: list[float] = field(default_factory=list[float])
    cpu_share: float | None = None
    """The daemon's share of one core from the first counted message to the last; None on a system without ``/proc``."""


async def measure(rig: Rig, plan: Plan, rate: float) -> Latency:
    """Send ``rate`` messages a second for the plan's seconds, after a warm-up that is not counted, and watch their rows.

    Raises ``TickloomError`` if the daemon cannot keep up.
    """
    log = plan.log
    async with rig.topics(f"latency_{rate:g}", log.partitions) as topics, rig.databases.fresh() as database:
        if log.history_days:
            await write_history(rig, database, log, log.history_end(datetime.now(UTC)))
        async with (
            rig.group(database, topics) as settings,
            running(settings, rig.folder / "latency.log") as child,
            watcher(settings) as connection,
        ):
            await child.wait_for_takeover()
            rig.progress.step(f"sending {rate:,.0f} messages a second for {plan.seconds:,.0f} s")
            with _switch_threads_often():
                return await _send_and_watch(rig, plan, rate, topics, child, connection)


@dataclass(slots=True)
class _SendLog:
    """Notes what the producer sends: how late each message is, and the pairs to watch. ``note`` runs in its thread.

    Of the pairs after the first ``warmup_pairs``, every ``every``-th is watched. ``pairs`` goes from the producer's thread
    to the watcher.
    """

    latency: Latency
    reshaper: Reshaper
    warmup_pairs: int
    every: int
    pairs: deque[Awaited] = field(default_factory=deque[Awaited])
    _known: set[Key] = field(default_factory=set[Key])
    _price: Key | None = None  # of the pair that is being sent; None if it makes no joined row of its own

    def note(self, number: int, tick: Tick, late: float) -> None:
        """Message ``number`` (from 0) is sent now, ``late`` seconds after it was due."""
        pair, key = number // 2 - self.warmup_pairs, self.reshaper.key
        if pair >= 0:
            self.latency.late.append(late)
        if tick.topic_side == "prices":
            self._price = None if key in self._known else key
            if self._price:
                self._known.add(self._price)
        elif self._price and key and pair >= 0 and pair % self.every == 0:
            _, symbol, micros = self._price
            self.pairs.append(Awaited(symbol, _EPOCH + timedelta(microseconds=micros), tick.timestamp_ms / 1_000))


async def _send_and_watch(
    rig: Rig, plan: Plan, rate: float, topics: dict[TopicSide, str], child: Child, connection: Connection
) -> Latency:
    warmup = math.ceil(WARMUP_SECONDS * rate / 2)
    pairs = max(1, math.ceil(plan.seconds * rate / 2))
    latency, reshaper = Latency(rate, plan.seconds, 2 * pairs), Reshaper(plan.log.shape)
    every = max(1, math.ceil(rate / 2 / _MAX_PAIRS_WATCHED_PER_SECOND))
    sent = _SendLog(latency, reshaper, warmup, every)
    start = datetime.now(UTC) + timedelta(seconds=0.5)
    plain = islice(live(TickSettings(symbols=plan.log.symbols, step_seconds=2 / rate), start), 2 * (warmup + pairs))
    ticks = map(reshaper.rewrite, plain)
    sending = asyncio.create_task(rig.offload(lambda: rig.broker.paced(topics, ticks, sent.note)))
    measuring = asyncio.create_task(_cpu_share(child, start.timestamp() + 2 * warmup / rate, sending))
    try:
        await _watch_rows(connection, child, sent.pairs, sending, latency)
        latency.cpu_share = await measuring
    finally:
        measuring.cancel()
        if not sending.done():
            sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    sending.result()
    return latency


async def _cpu_share(child: Child, begin: float, sending: "asyncio.Task[None]") -> float | None:
    """The daemon's share of one core, from ``begin`` (Unix seconds) until ``sending`` is done."""
    await asyncio.sleep(max(0.0, begin - time.time()))
    try:
        started, before = time.perf_counter(), child.cpu_seconds()
        await asyncio.wait({sending})
        return (child.cpu_seconds() - before) / (time.perf_counter() - started)
    except TickloomError:  # no /proc: the latencies are measured all the same
        return None


async def _watch_rows(
    connection: Connection, child: Child, sent: deque[Awaited], sending: "asyncio.Task[None]", latency: Latency
) -> None:
    waiting: dict[str, list[Awaited]] = {table: [] for table in latency.by_table}
    while not sending.done() or sent or any(waiting.values()):
        child.check_alive()
        started = time.perf_counter()
        fresh = [sent.popleft() for _ in range(len(sent))]
        for table, awaited in waiting.items():
            awaited += fresh
            seen = set(await visible(connection, table, [(one.symbol, one.moment) for one in awaited]))
            now = time.time()
            latency.by_table[table] += [now - awaited[index].due for index in seen]
            waiting[table] = [one for index, one in enumerate(awaited) if index not in seen]
            if waiting[table] and now - waiting[table][0].due > _MAX_WAIT_SECONDS:
                raise TickloomError(
                    f"a row was not visible {_MAX_WAIT_SECONDS:.0f} s after its message was due: this machine cannot keep "
                    f"up with {latency.rate:,.0f} messages a second; use a lower --rate"
                )
        await asyncio.sleep(_POLL_SECONDS)
        latency.polls.append(time.perf_counter() - started)


@contextmanager
def _switch_threads_often() -> Generator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_GIL_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
