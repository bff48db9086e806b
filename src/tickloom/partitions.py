"""Time partitions: half open, contiguous, named by their start; created ahead and on demand, by any replica.

A partition is made stand-alone and then attached: ``ATTACH`` takes SHARE UPDATE EXCLUSIVE on the parent, which neither
readers nor COPY wait for, where ``CREATE … PARTITION OF`` takes ACCESS EXCLUSIVE. An advisory lock a table keeps replicas
from racing (``tickloom.make_partitions`` in ``sql/bookkeeping.sql``).

A transaction locks each partition that it touches, and its index, in a table of locks that all sessions share. So none
of ours touches more than ``lock_budget`` allows, however many partitions there are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from tickloom.errors import SchemaMismatch
from tickloom.model import TABLES
from tickloom.postgres import Connection, sql, told
from tickloom.settings import Partitioning
from tickloom.timestamps import EARLIEST, LATEST, moment

_FORMATS = {Partitioning.HOURLY: "%Y%m%d%H", Partitioning.DAILY: "%Y%m%d", Partitioning.MONTHLY: "%Y%m"}
_WIDTHS_MICROSECONDS = {Partitioning.HOURLY: 3_600 * 10**6, Partitioning.DAILY: 86_400 * 10**6}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MADE_AT_ONCE = 16
"""By one transaction, which holds some five locks for each."""
_LEAST_BUDGET, _MOST_BUDGET = 6, 256


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """The rows of ``table`` with ``start`` <= timestamp < ``stop``."""

    table: str
    start: datetime
    stop: datetime
    name: str


def partition_at(table: str, width: Partitioning, time: datetime) -> Partition:
    """The partition of ``table`` that holds ``time`` (any zone; partitions are cut in UTC)."""
    start = time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
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
    return sorted({partition_at(table, width, moment(start)) for start in starts.tolist()})


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Event times in microseconds since 1970: ``start`` <= time < ``stop``."""

    start: int
    stop: int


ALWAYS = Range(EARLIEST, LATEST)
"""Of a table without partitions."""


def ranges_of(micros: NDArray[np.int64], width: Partitioning) -> list[Range]:
    """The partitions that rows at ``micros`` fall into, in order; one for all in a table without any."""
    if width is Partitioning.NONE:
        return [ALWAYS] if len(micros) else []
    return [Range(_micros(part.start), _micros(part.stop)) for part in partitions_for("", width, micros)]


def runs_of(ranges: Sequence[Range]) -> list[Range]:
    """Ordered ranges, with neighbours that touch made one."""
    runs: list[Range] = []
    for one in ranges:
        if runs and runs[-1].stop == one.start:
            runs[-1] = Range(runs[-1].start, one.stop)
        else:
            runs.append(one)
    return runs


@dataclass(frozen=True, slots=True)
class LockTable:
    """What the server's table of locks surely holds, for all sessions together (PostgreSQL documentation,
    ``max_locks_per_transaction``).
    """

    locks_a_session: int
    sessions: int

    @property
    def slots(self) -> int:
        return self.locks_a_session * self.sessions


async def lock_table(connection: Connection) -> LockTable:
    """As the server is set. Raises ``StoreUnavailable``."""
    with told():
        row = await connection.fetchrow(
            "SELECT current_setting('max_locks_per_transaction')::int AS locks, "
            "current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int AS sessions"
        )
    return LockTable(row["locks"], row["sessions"])


def budget_of(locks: LockTable) -> int:
    """How many table partitions one transaction of ours may touch, each with two locks: its own and its index's.

    That is a quarter of the table: other replicas and other people's sessions want some, too.
    """
    return max(_LEAST_BUDGET, min(locks.slots // 8, _MOST_BUDGET))


async def lock_budget(connection: Connection) -> int:
    """``budget_of`` this server. Raises ``StoreUnavailable``."""
    return budget_of(await lock_table(connection))


class Partitioner:
    """Makes partitions, and remembers which there are."""

    def __init__(self, widths: dict[str, Partitioning], ahead: int) -> None:
        """``widths``: table name to partitioning."""
        self.widths = widths
        self._ahead = ahead
        self._known: set[str] = set()
        self._ranges: dict[str, dict[Range, bool]] = {}  # in order; whether there may be rows
        self._filled: dict[str, set[Range]] = {}  # by us, perhaps not yet committed

    def forget(self) -> None:
        """Look at the catalogue again: partitions may be gone, and others may have come, or have got rows."""
        self._known.clear()
        self._ranges.clear()

    async def ensure_for(self, connection: Connection, needed: dict[str, NDArray[np.int64]]) -> int:
        """Make the partitions that rows of each table (name to their µs) need; how many were made.

        Not inside a transaction. Raises ``StoreUnavailable``, ``Mistake``.
        """
        made = 0
        for table, micros in needed.items():
            if self.widths[table] is not Partitioning.NONE and len(micros):
                wanted = partitions_for(table, self.widths[table], micros)
                made += await self._ensure(connection, wanted)
                self._note_rows(table, wanted)
        return made

    async def ensure_ahead(self, connection: Connection, now: datetime) -> int:
        """Make the partitions of ``now`` and of what comes next; how many were made."""
        made = 0
        for table in TABLES:
            if (width := self.widths[table.name]) is not Partitioning.NONE:
                made += await self._ensure(connection, partitions_ahead(table.name, width, now, self._ahead))
        return made

    async def ranges(self, connection: Connection, table: str) -> Sequence[tuple[Range, bool]]:
        """A table's partitions, in order, and whether each may hold rows of ours; ``ALWAYS`` alone where it has none.

        Raises ``StoreUnavailable``.
        """
        if self.widths[table] is Partitioning.NONE:
            return [(ALWAYS, True)]
        if table not in self._ranges:
            with told():
                rows = await connection.fetch(sql("partitions"), table)
            ranges = (_range_by_name(row["name"]) or Range(_micros(row["start"]), _micros(row["stop"])) for row in rows)
            filled = self._filled.get(table, set())
            found = {one: row["filled"] or one in filled for one, row in zip(ranges, rows, strict=True)}
            self._ranges[table] = dict(sorted(found.items()))
        return list(self._ranges[table].items())

    async def _ensure(self, connection: Connection, wanted: Iterable[Partition]) -> int:
        missing = [partition for partition in wanted if partition.name not in self._known]
        made = 0
        for at in range(0, len(missing), _MADE_AT_ONCE):
            some = missing[at : at + _MADE_AT_ONCE]
            made += await _create(connection, some)
            self._known |= {partition.name for partition in some}
        return made

    def _note_rows(self, table: str, partitions: Sequence[Partition]) -> None:
        """These are about to hold rows."""
        new = {Range(_micros(part.start), _micros(part.stop)) for part in partitions}
        self._filled.setdefault(table, set()).update(new)
        if (ranges := self._ranges.get(table)) is not None and not all(ranges.get(one) for one in new):
            self._ranges[table] = dict(sorted((ranges | dict.fromkeys(new, True)).items()))


async def _create(connection: Connection, some: Sequence[Partition]) -> int:
    """Make and attach what is missing of some partitions of one table; how many."""
    table = some[0].table
    names, starts, stops = zip(*((part.name, part.start, part.stop) for part in some), strict=True)
    with told():
        found = await connection.fetchval(
            "SELECT tickloom.make_partitions($1, $2, $3, $4)", table, names, starts, stops
        )
    for name, what in zip(names, found, strict=True):
        if what == "foreign":
            raise SchemaMismatch(f"table {name} exists but is no partition of {table}; attach, rename or drop it")
    return found.count("made")


def _range_by_name(name: str) -> Range | None:
    """What a partition that we have named holds. Its bounds themselves have to be parsed by the server, which takes longer."""
    stamp = name.rpartition("_")[2]
    if not stamp.isdecimal() or len(stamp) not in _WIDTHS_BY_STAMP:
        return None
    try:
        start = datetime(int(stamp[:4]), int(stamp[4:6]), int(stamp[6:8] or 1), int(stamp[8:] or 0), tzinfo=UTC)
    except ValueError:
        return None
    part = partition_at("", _WIDTHS_BY_STAMP[len(stamp)], start)
    return Range(_micros(part.start), _micros(part.stop))


_WIDTHS_BY_STAMP = {10: Partitioning.HOURLY, 8: Partitioning.DAILY, 6: Partitioning.MONTHLY}


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
