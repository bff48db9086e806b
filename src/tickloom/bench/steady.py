"""A daemon with nothing to do, and one that starts on much history."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tickloom.bench.child import Child, running
from tickloom.bench.databases import partitions_of, rows_at, watcher
from tickloom.bench.ground import Ground
from tickloom.bench.plan import Plan, one_pair_each
from tickloom.bench.throughput import with_history
from tickloom.errors import TickloomError
from tickloom.store.postgres import Connection

_SETTLE_SECONDS = 3.0
_LOOK_EVERY_SECONDS = 0.02
_PATIENCE_SECONDS = 120.0


async def idle_share(ground: Ground, plan: Plan) -> float:
    """The share of one core that a daemon takes over the plan's seconds, when both topics are empty."""
    async with (
        ground.topics("idle", plan.log.partitions) as topics,
        ground.databases.fresh() as database,
        ground.group(database, topics) as settings,
        running(settings, ground.folder / "idle.log") as child,
    ):
        ground.progress.step(f"idle for {plan.seconds:,.0f} s")
        await child.took_over()
        await asyncio.sleep(_SETTLE_SECONDS)
        started, before = time.perf_counter(), child.cpu_seconds()
        await asyncio.sleep(plan.seconds)
        child.must_live()
        return (child.cpu_seconds() - before) / (time.perf_counter() - started)


@dataclass(slots=True)
class Restart:
    """Seconds from a daemon's start to the first new row, and to a row for each symbol; one a repetition."""

    symbols: int
    history_rows: int = 0
    table_partitions: int = 0
    first: list[float] = field(default_factory=list[float])
    every: list[float] = field(default_factory=list[float])


async def restart(ground: Ground, plan: Plan) -> Restart:
    """Start, with a pair for each symbol waiting in the log, as often as the plan says; before that once, not counted."""
    log = plan.log
    found = Restart(log.symbols)
    async with ground.topics("restart", log.partitions) as topics, ground.databases.fresh() as database:
        if log.history_days:
            end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
            found.history_rows = await with_history(ground, database, log, end)
        async with ground.group(database, topics) as settings, watcher(settings) as connection:
            for number in range(plan.repetitions + 1):
                told = f"{number} of {plan.repetitions}" if number else "to warm up"
                ground.progress.step(f"restart, {told}")
                moment = datetime.now(UTC)
                ticks = one_pair_each(log.symbol_names, moment)
                await ground.offload(lambda ticks=ticks: ground.broker.fill(topics, ticks, lambda _: None))
                async with running(settings, ground.folder / "restart.log") as child:
                    first = await _rows(connection, child, moment, 1)
                    every = await _rows(connection, child, moment, log.symbols)
                if number:
                    found.first.append(first)
                    found.every.append(every)
            found.table_partitions = await partitions_of(connection)
    return found


async def _rows(connection: Connection, child: Child, moment: datetime, wanted: int) -> float:
    """Seconds from the daemon's start until that many rows of ``moment`` are visible."""
    while await rows_at(connection, moment) < wanted:
        child.must_live()
        if time.perf_counter() - child.started > _PATIENCE_SECONDS:
            raise TickloomError(f"after {_PATIENCE_SECONDS:.0f} s the daemon has not written what waits in the log")
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
    return time.perf_counter() - child.started
