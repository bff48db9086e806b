"""An idle daemon, and a daemon that starts on a long history."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tickloom.bench.child import Child, running
from tickloom.bench.databases import partitions_of, rows_at, watcher
from tickloom.bench.plan import Plan, one_pair_each
from tickloom.bench.rig import Rig
from tickloom.bench.throughput import write_history
from tickloom.errors import TickloomError
from tickloom.store.postgres import Connection

_SETTLE_SECONDS = 3.0
_POLL_SECONDS = 0.02
_MAX_WAIT_SECONDS = 120.0


async def idle_share(rig: Rig, plan: Plan) -> float:
    """The share of one core that a daemon uses during the plan's seconds while both topics are empty."""
    async with (
        rig.topics("idle", plan.log.partitions) as topics,
        rig.databases.fresh() as database,
        rig.group(database, topics) as settings,
        running(settings, rig.folder / "idle.log") as child,
    ):
        rig.progress.step(f"idle for {plan.seconds:,.0f} s")
        await child.wait_for_takeover()
        await asyncio.sleep(_SETTLE_SECONDS)
        started, before = time.perf_counter(), child.cpu_seconds()
        await asyncio.sleep(plan.seconds)
        child.check_alive()
        return (child.cpu_seconds() - before) / (time.perf_counter() - started)


@dataclass(slots=True)
class Restart:
    """Seconds from a daemon's start to the first new row, and to a new row for each symbol; one value per repetition."""

    symbols: int
    history_rows: int = 0
    table_partitions: int = 0
    first_row: list[float] = field(default_factory=list[float])
    all_rows: list[float] = field(default_factory=list[float])


async def restart(rig: Rig, plan: Plan) -> Restart:
    """Start a daemon once per repetition, with a pair for each symbol waiting in the log. The first start only warms up the
    caches and is not counted.
    """
    log = plan.log
    result = Restart(log.symbols)
    async with rig.topics("restart", log.partitions) as topics, rig.databases.fresh() as database:
        if log.history_days:
            end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
            result.history_rows = await write_history(rig, database, log, end)
        async with rig.group(database, topics) as settings, watcher(settings) as connection:
            for number in range(plan.repetitions + 1):
                which = f"{number} of {plan.repetitions}" if number else "to warm up"
                rig.progress.step(f"restart, {which}")
                moment = datetime.now(UTC)
                ticks = one_pair_each(log.symbol_names, moment)
                await rig.offload(lambda ticks=ticks: rig.broker.fill(topics, ticks, lambda _: None))
                async with running(settings, rig.folder / "restart.log") as child:
                    first_row = await _wait_for_rows(connection, child, moment, 1)
                    all_rows = await _wait_for_rows(connection, child, moment, log.symbols)
                if number:
                    result.first_row.append(first_row)
                    result.all_rows.append(all_rows)
            result.table_partitions = await partitions_of(connection)
    return result


async def _wait_for_rows(connection: Connection, child: Child, moment: datetime, wanted: int) -> float:
    """Seconds from the daemon's start until ``wanted`` rows with the event time ``moment`` are visible."""
    while await rows_at(connection, moment) < wanted:
        child.check_alive()
        if time.perf_counter() - child.started > _MAX_WAIT_SECONDS:
            raise TickloomError(
                f"the daemon has not loaded the waiting messages in {_MAX_WAIT_SECONDS:.0f} s; bench with fewer --symbols or "
                f"--history-days"
            )
        await asyncio.sleep(_POLL_SECONDS)
    return time.perf_counter() - child.started
