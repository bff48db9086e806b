"""Open loop: how long from the intended send of a message until another session sees its row.

The producer sends by the clock, whatever the daemon does; each latency counts from the time at which its message was
*due*, so that a producer that fell behind hides nothing (no coordinated omission). A watcher looks for the rows by their
keys on a connection of its own. Both read the clock of this machine; a row counts as visible when the answer that has it
is here. Which pairs are watched is a matter of their number alone, but for those that make no joined row of their own: one
side is bad, or an earlier pair has the key.
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
from tickloom.bench.ground import Ground
from tickloom.bench.plan import Plan
from tickloom.bench.throughput import with_history
from tickloom.core.model import TABLES
from tickloom.errors import TickloomError
from tickloom.shapes import Key, Reshaper
from tickloom.store.postgres import Connection
from tickloom.synthetic import Tick, TickSettings, TopicSide, live

WARMUP_SECONDS = 3.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WATCHED_A_SECOND = 500
_LOOK_EVERY_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0
_GIL_SWITCH_SECONDS = 0.0005
"""Producer and watcher share a process; the default of 5 ms would be seen in the figures."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A pair whose rows are looked for. ``due``: Unix seconds of its intended send."""

    symbol: str
    moment: datetime
    due: float


@dataclass(slots=True)
class Latency:
    """Seconds, in no order. ``late`` belongs to the producer's thread until it has ended, the rest to the watcher."""

    rate: float
    seconds: float
    messages: int
    by_table: dict[str, list[float]] = field(default_factory=lambda: {table.name: [] for table in TABLES})
    looks: list[float] = field(default_factory=list[float])
    late: list[float] = field(default_factory=list[float])
    cpu_share: float | None = None
    """Of one core, by the daemon, from the first message that counts to the last; None where the system does not tell."""


async def measure(ground: Ground, plan: Plan, rate: float) -> Latency:
    """``rate`` messages a second for the plan's seconds, after some that are not counted.

    Raises ``TickloomError`` where the daemon cannot keep up.
    """
    log = plan.log
    async with ground.topics(f"latency_{rate:g}", log.partitions) as topics, ground.databases.fresh() as database:
        if log.history_days:
            await with_history(ground, database, log, log.history_end(datetime.now(UTC)))
        async with (
            ground.group(database, topics) as settings,
            running(settings, ground.folder / "latency.log") as child,
            watcher(settings) as connection,
        ):
            await child.took_over()
            ground.progress.step(f"sending {rate:,.0f} messages a second for {plan.seconds:,.0f} s")
            with _switching_often():
                return await _send_and_watch(ground, plan, rate, topics, child, connection)


async def _send_and_watch(
    ground: Ground, plan: Plan, rate: float, topics: dict[TopicSide, str], child: Child, connection: Connection
) -> Latency:
    warm = math.ceil(WARMUP_SECONDS * rate / 2)
    pairs = max(1, math.ceil(plan.seconds * rate / 2))
    every = max(1, math.ceil(rate / 2 / _WATCHED_A_SECOND))
    found = Latency(rate, plan.seconds, 2 * pairs)
    sent: deque[Awaited] = deque()  # from the producer's thread to the watcher

    reshaper = Reshaper(plan.log.shape)
    known: set[Key] = set()
    price: Key | None = None

    def note(number: int, tick: Tick, late: float) -> None:
        nonlocal price
        pair = number // 2 - warm
        if pair >= 0:
            found.late.append(late)
        if tick.topic_side == "prices":
            price = None if reshaper.key in known else reshaper.key
            if price:
                known.add(price)
        elif price and reshaper.key and pair >= 0 and pair % every == 0:
            _, symbol, micros = price
            sent.append(Awaited(symbol, _EPOCH + timedelta(microseconds=micros), tick.timestamp_ms / 1_000))

    start = datetime.now(UTC) + timedelta(seconds=0.5)
    plain = islice(live(TickSettings(symbols=plan.log.symbols, step_seconds=2 / rate), start), 2 * (warm + pairs))
    ticks = map(reshaper.rewrite, plain)
    sending = asyncio.create_task(ground.offload(lambda: ground.broker.paced(topics, ticks, note)))
    counting = asyncio.create_task(_cpu_share(child, start.timestamp() + 2 * warm / rate, sending))
    try:
        await _watch(connection, child, sent, sending, found)
        found.cpu_share = await counting
    finally:
        counting.cancel()
        if not sending.done():
            sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    sending.result()
    return found


async def _cpu_share(child: Child, begin: float, sending: "asyncio.Task[None]") -> float | None:
    """Of one core, from ``begin`` (Unix seconds) until ``sending`` is done."""
    await asyncio.sleep(max(0.0, begin - time.time()))
    try:
        started, before = time.perf_counter(), child.cpu_seconds()
        await asyncio.wait({sending})
        return (child.cpu_seconds() - before) / (time.perf_counter() - started)
    except TickloomError:  # no /proc here: that takes no latency away
        return None


async def _watch(
    connection: Connection, child: Child, sent: deque[Awaited], sending: "asyncio.Task[None]", found: Latency
) -> None:
    waiting: dict[str, list[Awaited]] = {table: [] for table in found.by_table}
    while not sending.done() or sent or any(waiting.values()):
        child.must_live()
        started = time.perf_counter()
        fresh = [sent.popleft() for _ in range(len(sent))]
        for table, awaited in waiting.items():
            awaited += fresh
            seen = set(await visible(connection, table, [(one.symbol, one.moment) for one in awaited]))
            now = time.time()
            found.by_table[table] += [now - awaited[index].due for index in seen]
            waiting[table] = [one for index, one in enumerate(awaited) if index not in seen]
            if waiting[table] and now - waiting[table][0].due > _PATIENCE_SECONDS:
                raise TickloomError(
                    f"a row was not visible {_PATIENCE_SECONDS:.0f} s after its message was due: this machine cannot keep "
                    f"up with {found.rate:,.0f} messages a second; give a lower --rate"
                )
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        found.looks.append(time.perf_counter() - started)


@contextmanager
def _switching_often() -> Generator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_GIL_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
