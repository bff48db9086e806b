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
from tickloom.timestamps import EARLIEST, LATEST, micros_of, moment

_FORMATS = {Partitioning.HOURLY: "%Y%m%d%H", Partitioning.DAILY: "%Y%m%d", Partitioning.MONTHLY: "%Y%m"}
_WIDTHS_MICROSECONDS = {Partitioning.HOURLY: 3_600 * 10**6, Partitioning.DAILY: 86_400 * 10**6}
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
    return [Range(micros_of(part.start), micros_of(part.stop)) for part in partitions_for("", width, micros)]


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


_UNKNOWN, _FILLED = -1, 1  # 0: an empty file


@dataclass(frozen=True, slots=True)
class Layout:
    """A table's partitions by time: names, bounds in µs, and whether they may hold rows of ours (see ``Partitioner``).

    Who reads by it has one layout to the end: with a new partition there is a new layout. Only ``filled`` is written to.
    """

    names: list[str]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    filled: NDArray[np.int8]

    def with_rows(self, parts: Sequence[Partition]) -> "Layout":
        """There are, or will be, these partitions, and they will hold rows."""
        starts = np.array([micros_of(part.start) for part in parts])
        new = [part for part, known in zip(parts, np.isin(starts, self.starts), strict=True) if not known]
        layout = self
        if new:
            stops = [micros_of(part.stop) for part in new]
            begins = np.concatenate([self.starts, [micros_of(part.start) for part in new]]).astype(np.int64)
            order = np.argsort(begins)
            names = [*self.names, *(part.name for part in new)]
            layout = Layout(
                [names[at] for at in order.tolist()],
                begins[order],
                np.concatenate([self.stops, stops]).astype(np.int64)[order],
                np.concatenate([self.filled, [_FILLED] * len(new)]).astype(np.int8)[order],
            )
        layout.filled[np.searchsorted(layout.starts, starts)] = _FILLED
        return layout


class Partitioner:
    """Makes partitions, and remembers which there are."""

    def __init__(self, widths: dict[str, Partitioning], ahead: int) -> None:
        """``widths``: table name to partitioning."""
        self.widths = widths
        self._ahead = ahead
        self._known: set[str] = set()
        self._layouts: dict[str, Layout] = {}
        self._filled: dict[str, set[int]] = {}  # by us, perhaps not yet committed: the starts

    def forget(self) -> None:
        """Look at the catalogue again: partitions may be gone, and others may have come, or have got rows."""
        self._known.clear()
        self._layouts.clear()

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

    async def layout(self, connection: Connection, table: str) -> "Layout":
        """A table's partitions, as they are known now; one for all time where it has none. Raises ``StoreUnavailable``."""
        if self.widths[table] is Partitioning.NONE:
            return Layout([""], np.array([EARLIEST]), np.array([LATEST]), np.array([_FILLED], dtype=np.int8))
        if table not in self._layouts:
            with told():
                names: list[str] = await connection.fetchval(sql("partitions"), table)
                starts, stops, foreign = _bounds_by_name(names)
                for at in foreign:
                    row = await connection.fetchrow(sql("partition_bounds"), table, names[at])
                    starts[at], stops[at] = micros_of(row["start"]), micros_of(row["stop"])
            order = np.argsort(starts)
            filled = np.where(np.isin(starts, list(self._filled.get(table, ()))), _FILLED, _UNKNOWN).astype(np.int8)
            self._layouts[table] = Layout([names[at] for at in order], starts[order], stops[order], filled[order])
        return self._layouts[table]

    async def filled(self, connection: Connection, layout: "Layout", first: int, stop: int) -> NDArray[np.int64]:
        """Which of the partitions [``first``, ``stop``) may hold rows: their indexes. Raises ``StoreUnavailable``."""
        unknown = first + np.flatnonzero(layout.filled[first:stop] == _UNKNOWN)
        if len(unknown):
            with told():
                rows: list[bool] = await connection.fetchval(
                    # Whom we cannot name, say in another schema, may hold rows.
                    "SELECT array_agg(coalesce(pg_relation_size(to_regclass(quote_ident(name))) > 0, true) ORDER BY number) "
                    "FROM unnest($1::text[]) WITH ORDINALITY AS names (name, number)",
                    [layout.names[at] for at in unknown.tolist()],
                )
            # What we have filled meanwhile stays so.
            layout.filled[unknown] = np.where(layout.filled[unknown] == _FILLED, _FILLED, rows)
        return first + np.flatnonzero(layout.filled[first:stop] == _FILLED)

    def _note_rows(self, table: str, partitions: Sequence[Partition]) -> None:
        """These are about to hold rows."""
        starts = [micros_of(part.start) for part in partitions]
        self._filled.setdefault(table, set()).update(starts)
        if (layout := self._layouts.get(table)) is not None:
            self._layouts[table] = layout.with_rows(partitions)

    async def _ensure(self, connection: Connection, wanted: Iterable[Partition]) -> int:
        missing = [partition for partition in wanted if partition.name not in self._known]
        made = 0
        for at in range(0, len(missing), _MADE_AT_ONCE):
            some = missing[at : at + _MADE_AT_ONCE]
            made += await _create(connection, some)
            self._known |= {partition.name for partition in some}
        return made


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


def _bounds_by_name(names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Starts and stops of partitions that bear the names that we give, and the indexes of those that do not.

    The bounds themselves have to be parsed by the server, which takes longer than all else at a start.
    """
    stamps = [name.rpartition("_")[2] for name in names]
    starts, stops = np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=np.int64)
    foreign = set(range(len(names)))
    for size, width in {10: Partitioning.HOURLY, 8: Partitioning.DAILY, 6: Partitioning.MONTHLY}.items():
        ours = [at for at, stamp in enumerate(stamps) if len(stamp) == size and stamp.isdecimal()]
        for stamp in {stamps[at][:6] for at in ours}:  # a month at a time: few are to be looked up in a calendar
            mine = np.array([at for at in ours if stamps[at].startswith(stamp)])
            try:
                month = partition_at("", Partitioning.MONTHLY, datetime(int(stamp[:4]), int(stamp[4:]), 1, tzinfo=UTC))
            except ValueError:
                continue
            rest = np.array([stamps[at][6:] or "0" for at in mine.tolist()]).astype(np.int64)
            days, hours = (rest // 100 - 1, rest % 100) if size == 10 else (rest - (size == 8), 0 * rest)
            starts[mine] = micros_of(month.start) + (days * 24 + hours) * 3_600_000_000
            stops[mine] = starts[mine] + _WIDTHS_MICROSECONDS.get(width, 0)
            if width is Partitioning.MONTHLY:
                stops[mine] = micros_of(month.stop)
            foreign -= set(mine[(starts[mine] < micros_of(month.stop)) & (days >= 0) & (hours < 24)].tolist())
    return starts, stops, sorted(foreign)
