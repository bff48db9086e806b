"""A chore: every minute it creates partitions ahead of time, checks the schema, and warns before locks run out."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tickloom.core.partitioning import partition_at
from tickloom.core.timestamps import micros_of
from tickloom.errors import Mistake, SchemaMismatch, StoreUnavailable, TickloomError
from tickloom.logs import Logger
from tickloom.observe.metrics import Metrics
from tickloom.settings import Settings
from tickloom.store.check import check_tables
from tickloom.store.locks import judge_locks, lock_table
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection, connected

_EVERY_SECONDS = 60.0
_HOUR_SECONDS = 3_600.0
_log = Logger(__name__)


class Housekeeping:
    """Belongs to the event loop."""

    def __init__(
        self, settings: Settings, partitioner: Partitioner, metrics: Metrics, fail: Callable[[Mistake], object]
    ) -> None:
        """``fail`` is called with the mistake when the tables no longer fit this version."""
        self._settings, self._partitioner, self._metrics = settings, partitioner, metrics
        self._fail = fail
        self._warned_of_locks = -_HOUR_SECONDS  # monotonic

    async def keep(self) -> None:
        """Do all of it every minute, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                async with connected(self._settings) as connection:
                    await self.make_partitions(connection)
                    await self._check_schema(connection)
            except StoreUnavailable as error:  # the monitor reports whether Postgres is away
                _log.warning("housekeeping waits for Postgres", error=str(error))
            except Mistake as error:
                _log.error("housekeeping failed", error=str(error))

    async def make_partitions(self, connection: Connection) -> None:
        """Create partitions ahead of time; warn if they run out, are detached, or are too many.

        Raises ``StoreUnavailable``, ``Mistake``.
        """
        partitioner, now = self._partitioner, datetime.now(UTC)
        self._metrics.partitions_created.inc(await partitioner.ensure_ahead(connection, now))
        counts: dict[str, int] = {}
        for table in partitioner.widths:
            layout = await partitioner.layout(connection, table)
            counts[table] = len(layout.names)
            self._metrics.table_partitions.labels(table).set(counts[table])
            self._show_end(table, layout.contiguous_until(micros_of(now)) / 1_000_000, now)
        if detached := [part.name for part in partitioner.detached if part.stop > now]:
            _log.warning(
                "current rows become dead letters, because their partitions were detached; attach them",
                partitions=detached,
            )
        await self._check_locks(connection, counts)

    def _show_end(self, table: str, until: float, now: datetime) -> None:
        partitioner = self._partitioner
        self._metrics.partitions_until.labels(table).set(until)
        if partitioner.refusal and until < now.timestamp() + _HOUR_SECONDS:
            missing = partition_at(table, partitioner.widths[table], now)
            _log.warning(
                "partitions run out, and this role may not create any",
                table=table,
                until=datetime.fromtimestamp(until, UTC).isoformat(),
                fix=f"{partitioner.refusal}; or: {missing.ddl}",
            )

    async def _check_locks(self, connection: Connection, counts: dict[str, int]) -> None:
        locks = await lock_table(connection)
        self._metrics.table_partitions_limit.set(locks.slots // 2)
        try:
            judge_locks(locks, counts, self._partitioner.widths)
        except TickloomError as error:
            if time.monotonic() - self._warned_of_locks > _HOUR_SECONDS:
                self._warned_of_locks = time.monotonic()
                _log.warning("there are many partitions", reason=str(error))

    async def _check_schema(self, connection: Connection) -> None:
        """Check the tables: without this, the flow might not notice a dropped key or an added policy, and be wrong or slow."""
        try:
            await check_tables(connection, self._settings)
        except SchemaMismatch as error:
            self._fail(error)
