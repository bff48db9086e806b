"""Time partitions: half open, contiguous, named by their start; created ahead and on demand, by any replica.

A partition is made stand-alone with its CHECK and then attached: ``ATTACH`` takes SHARE UPDATE EXCLUSIVE on the
parent, which neither readers nor COPY wait for, where ``CREATE … PARTITION OF`` would take ACCESS EXCLUSIVE.
An advisory lock a table keeps replicas from racing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from tickloom.errors import SchemaMismatch
from tickloom.model import TABLES
from tickloom.postgres import Connection, told
from tickloom.settings import Partitioning

_FORMATS = {Partitioning.HOURLY: "%Y%m%d%H", Partitioning.DAILY: "%Y%m%d", Partitioning.MONTHLY: "%Y%m"}
_WIDTHS_MICROSECONDS = {Partitioning.HOURLY: 3_600 * 10**6, Partitioning.DAILY: 86_400 * 10**6}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """The rows of ``table`` with ``start`` <= timestamp < ``stop``."""

    table: str
    start: datetime
    stop: datetime
    name: str


def partition_at(table: str, width: Partitioning, moment: datetime) -> Partition:
    """The partition of ``table`` that holds ``moment`` (any zone; partitions are cut in UTC)."""
    moment = moment.astimezone(UTC)
    start = moment.replace(minute=0, second=0, microsecond=0)
    if width is not Partitioning.HOURLY:
        start = start.replace(hour=0)
    if width is Partitioning.MONTHLY:
        start = start.replace(day=1)
        stop = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    else:
        stop = start + timedelta(microseconds=_WIDTHS_MICROSECONDS[width])
    stamp = start.strftime(_FORMATS[width]).rjust({"%Y%m%d%H": 10, "%Y%m%d": 8, "%Y%m": 6}[_FORMATS[width]], "0")
    return Partition(table, start, stop, f"{table}_{stamp}")


def partitions_ahead(table: str, width: Partitioning, now: datetime, ahead: int) -> list[Partition]:
    """The partition of ``now`` and the ``ahead`` after it, in order."""
    found = [partition_at(table, width, now)]
    for _ in range(ahead):
        found.append(partition_at(table, width, found[-1].stop))
    return found


def partitions_for(table: str, width: Partitioning, micros: NDArray[np.int64]) -> list[Partition]:
    """The partitions that rows at ``micros`` (µs since 1970) fall into, in order."""
    step = _WIDTHS_MICROSECONDS.get(width, 86_400 * 10**6)
    starts = np.unique(micros // step) * step
    moments = (_EPOCH + timedelta(microseconds=int(start)) for start in starts)
    return sorted({partition_at(table, width, moment) for moment in moments})


class Partitioner:
    """Makes partitions, and remembers which it has seen."""

    def __init__(self, widths: dict[str, Partitioning], ahead: int) -> None:
        """``widths``: table name to partitioning."""
        self._widths = widths
        self._ahead = ahead
        self._known: set[str] = set()

    def forget(self) -> None:
        """Look at the catalogue again before the next batch: partitions may be gone."""
        self._known.clear()

    async def ensure_for(self, connection: Connection, needed: dict[str, NDArray[np.int64]]) -> int:
        """Make the partitions that rows of each table (name to their µs) need; how many were made.

        Not inside a transaction. Raises ``StoreUnavailable``, ``Mistake``.
        """
        made = 0
        for table, micros in needed.items():
            if self._widths[table] is not Partitioning.NONE and len(micros):
                made += await self._ensure(connection, partitions_for(table, self._widths[table], micros))
        return made

    async def ensure_ahead(self, connection: Connection, now: datetime) -> int:
        """Make the partitions of ``now`` and of what comes next; how many were made."""
        made = 0
        for table in TABLES:
            if (width := self._widths[table.name]) is not Partitioning.NONE:
                made += await self._ensure(connection, partitions_ahead(table.name, width, now, self._ahead))
        return made

    async def _ensure(self, connection: Connection, wanted: Iterable[Partition]) -> int:
        missing = [partition for partition in wanted if partition.name not in self._known]
        if not missing:
            return 0
        with told():
            present = await attached(connection, missing[0].table)
            made = 0
            for partition in missing:
                if partition.name not in present:
                    made += await _create(connection, partition)
                self._known.add(partition.name)
        return made


async def attached(connection: Connection, table: str) -> set[str]:
    """Names of the partitions of ``table``."""
    rows = await connection.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1)",
        table,
    )
    return {row["relname"] for row in rows}


async def _create(connection: Connection, partition: Partition) -> int:
    """Make and attach one partition; 0 where another replica was faster."""
    table, name = partition.table, partition.name
    found = await connection.fetchval(
        "SELECT tickloom.make_partition($1, $2, $3, $4)", table, name, partition.start, partition.stop
    )
    if found == "foreign":
        raise SchemaMismatch(f"table {name} exists but is no partition of {table}; attach, rename or drop it")
    return int(found == "made")
