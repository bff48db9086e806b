"""Time partitions: half open, contiguous, named by their start; created ahead and on demand, by any replica.

What is there decides: a row goes into the partition that holds its time, whoever made it, however wide it is. Only where
there is none, one is made, of the width that the settings say; or, where that would overlap with some that are there, a
narrower one. A partition that was detached is not made anew as long as its table stands under its name: its rows are
*expired* (see ``Partitioner.expired``).

A partition is made stand-alone and then attached: ``ATTACH`` takes SHARE UPDATE EXCLUSIVE on the parent, which neither
readers nor COPY wait for, where ``CREATE … PARTITION OF`` takes ACCESS EXCLUSIVE. An advisory lock a table keeps replicas
from racing (``tickloom.make_partitions`` in ``migrations/``).

A transaction locks each partition that it touches, and its index, in a table of locks that all sessions share. So none
of ours touches more than ``lock_budget`` allows, however many partitions there are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tickloom.core.model import TABLES
from tickloom.core.partitioning import (
    Partition,
    Range,
    partition_at,
    partitions_ahead,
    partitions_for,
    starts_of,
    step_of,
)
from tickloom.core.timestamps import EARLIEST, LATEST, micros_of, moment
from tickloom.errors import NotAllowed, PartitionMissing, SchemaMismatch, StateSpoilt
from tickloom.settings import Partitioning
from tickloom.store.postgres import Connection, sql

Bools: TypeAlias = NDArray[np.bool_]
_AND_NARROWER = {
    Partitioning.HOURLY: (Partitioning.HOURLY,),
    Partitioning.DAILY: (Partitioning.DAILY, Partitioning.HOURLY),
    Partitioning.MONTHLY: (Partitioning.MONTHLY, Partitioning.DAILY, Partitioning.HOURLY),
}
_FORMATS = {Partitioning.HOURLY: "%Y%m%d%H", Partitioning.DAILY: "%Y%m%d", Partitioning.MONTHLY: "%Y%m"}
_MADE_AT_ONCE = 16
"""By one transaction, which holds some five locks for each."""
_WIDEST = 31 * 86_400 * 10**6
_LEAST_BUDGET, _MOST_BUDGET = 6, 256


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

    def at(self, micros: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index of the partition that holds each of these times; -1 where none does."""
        at = np.searchsorted(self.starts, micros, "right") - 1
        return np.where(micros < np.append(self.stops, EARLIEST)[at], at, -1)

    def within(self, first: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many partitions have a part of each range [``first``, ``stop``)."""
        return np.searchsorted(self.starts, stop, "left") - np.searchsorted(self.stops, first, "right")

    def with_parts(self, parts: Sequence[Partition]) -> "Layout":
        """There are these partitions, too."""
        parts = [part for part in parts if self.at(np.array([micros_of(part.start)]))[0] < 0]
        bounds = np.array([(micros_of(part.start), micros_of(part.stop)) for part in parts], dtype=np.int64)
        starts, stops = np.concatenate([[self.starts, self.stops], bounds.T], axis=1)
        order = np.argsort(starts)
        names = [*self.names, *(part.name for part in parts)]
        filled = np.concatenate([self.filled, np.full(len(parts), _UNKNOWN, dtype=np.int8)])
        return Layout([names[at] for at in order.tolist()], starts[order], stops[order], filled[order])

    def contiguous_until(self, micros: int) -> int:
        """Up to where there is a partition for each time from ``micros`` on; ``micros`` itself where there is none."""
        while (at := int(self.at(np.array([micros]))[0])) >= 0 and self.stops[at] < LATEST:
            micros = int(self.stops[at])
        return micros if at < 0 else LATEST

    def holes(self, width: Partitioning, since: int) -> list[Range]:
        """What no partition holds of the periods of ``width`` from that of ``since`` on that some partitions hold a part of.

        No partition of that width can be made there.
        """
        found: list[Range] = []
        edges = np.unique(np.concatenate([self.starts, self.stops]))
        edges = edges[(edges > max(EARLIEST, since - _WIDEST)) & (edges < LATEST)]
        periods = {partition_at("", width, moment(edge - after)) for edge in edges.tolist() for after in (0, 1)}
        for period in sorted(periods):
            start, stop = micros_of(period.start), micros_of(period.stop)
            if stop <= since:
                continue
            inside = np.flatnonzero((self.starts < stop) & (self.stops > start))
            bounds = [
                start,
                *np.clip(np.stack([self.starts, self.stops])[:, inside].T.ravel(), start, stop).tolist(),
                stop,
            ]
            if len(inside):
                found += [Range(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=True) if a < b]
        return found


@dataclass(frozen=True, slots=True)
class Far:
    """How many partitions of a table may begin ``after`` a time (µs): who may produce could make any number of them."""

    after: int
    most: int


class Partitioner:
    """Makes partitions, and remembers which there are."""

    def __init__(self, widths: dict[str, Partitioning], ahead: int) -> None:
        """``widths``: table name to partitioning."""
        self.widths = widths
        self.refusal = ""
        """Why this role may make no partition; empty as long as nothing has said that it may not."""
        self._ahead = ahead
        self._layouts: dict[str, Layout] = {}
        self._bounds: dict[int, tuple[int, int]] = {}  # by oid: they do not change, and the server takes long to tell
        self._filled: dict[str, set[int]] = {}  # by us, perhaps not yet committed: the starts
        self._detached: dict[str, set[Partition]] = {}  # as we were told last
        self._attached_again = False

    def forget(self) -> None:
        """Look at the catalogue again: partitions may be gone, and others may have come, or have got rows."""
        self._layouts.clear()
        self._detached.clear()
        self._attached_again = False

    async def ensure_for(self, connection: Connection, needed: Mapping[str, NDArray[np.int64]]) -> int:
        """Make the partitions that rows of each table (name to their µs) need; how many were made.

        Not inside a transaction. Raises ``StoreUnavailable`` (``PartitionMissing`` where this role may not make one),
        ``Mistake``; ``StateSpoilt`` where one was detached: whoever asks has taken its rows for good.
        """
        made = 0
        for table, micros in needed.items():
            made += await self.ensure_kept(connection, table, micros)
            if self.expired(table, micros).any():
                raise StateSpoilt(f"a partition of {table} was detached while rows for it were on their way")
        return made

    async def ensure_kept(
        self, connection: Connection, table: str, micros: NDArray[np.int64], far: "Far | None" = None
    ) -> int:
        """As ``ensure_for``, but for rows of which some may be ``expired``, or ``too_far``.

        Raises ``StateSpoilt`` where a partition was attached again: what was read without its rows is wrong.
        """
        if self.widths[table] is Partitioning.NONE or not len(micros):
            return 0
        made, step = 0, step_of(self.widths[table])
        starts = starts_of(micros, step)
        layout = await self.layout(connection, table)
        at = layout.at(starts)
        torn = (at < 0) | (at != layout.at(starts + step - 1))
        if torn.any():
            left = micros[np.isin(micros // step * step, starts[torn])]
            made = await self._ensure(
                connection, table, left if far is None else await self._near(connection, table, left, far)
            )
            layout = await self.layout(connection, table)
            at = layout.at(micros)
        self._note_rows(table, layout, at)
        if self._attached_again:
            raise StateSpoilt(f"a partition of {table} that was detached is attached again")
        return made

    async def ensure_ahead(self, connection: Connection, now: datetime) -> int:
        """Make the partitions of ``now`` and of what comes next; how many were made.

        Where this role may not make any, ``refusal`` says so. Raises ``StoreUnavailable``, ``Mistake``.
        """
        made = 0
        for table in TABLES:
            if (width := self.widths[table.name]) is not Partitioning.NONE:
                starts = [micros_of(part.start) for part in partitions_ahead(table.name, width, now, self._ahead)]
                starts[0] = micros_of(now)
                try:
                    made += await self._ensure(connection, table.name, np.array(starts))
                except PartitionMissing:
                    continue  # there is no row for it yet
        return made

    def too_far(self, table: str, micros: NDArray[np.int64], far: "Far") -> Bools:
        """Which rows at these times have no partition, since ``ensure_kept`` makes no more that far ahead."""
        beyond, layout = micros > far.after, self._layouts.get(table)
        if layout is not None and beyond.any():
            return beyond & (layout.at(micros) < 0) & ~self.expired(table, micros)
        return np.zeros(len(micros), dtype=np.bool_)

    def count(self, touched: Mapping[str, Sequence[Range]]) -> int:
        """How many partitions lie in these ranges of each table: one each where nothing is known."""
        found = 0
        for table, ranges in touched.items():
            layout = self._layouts.get(table)
            if layout is None or not ranges:
                found += len(ranges)
            else:
                bounds = np.array([(one.start, one.stop) for one in ranges]).T
                found += int(np.maximum(layout.within(*bounds), 1).sum())
        return found

    def expired(self, table: str, micros: NDArray[np.int64]) -> Bools:
        """Which rows at these times have lost their partition: it was detached, as ``ensure_for`` has seen."""
        found = np.zeros(len(micros), dtype=np.bool_)
        for part in self._detached.get(table, ()):
            found |= (micros >= micros_of(part.start)) & (micros < micros_of(part.stop))
        return found

    @property
    def detached(self) -> list[Partition]:
        """The partitions that were found detached, in order."""
        return sorted(part for parts in self._detached.values() for part in parts)

    async def layout(self, connection: Connection, table: str) -> "Layout":
        """A table's partitions, as they are known now; one for all time where it has none.

        Raises ``StoreUnavailable``; ``SchemaMismatch`` for a default partition.
        """
        if self.widths[table] is Partitioning.NONE:
            return Layout([""], np.array([EARLIEST]), np.array([LATEST]), np.array([_FILLED], dtype=np.int8))
        if table not in self._layouts:
            row = await connection.fetchrow(sql("partitions"), table)
            oids: list[int] = row["oids"]
            unknown = [oid for oid in oids if oid not in self._bounds]
            if unknown:
                bounds: list[str | None] = await connection.fetchval(sql("partition_bounds"), unknown)
                self._bounds.update(
                    (oid, _parsed(table, one)) for oid, one in zip(unknown, bounds, strict=True) if one is not None
                )
            names = [name for oid, name in zip(oids, row["names"], strict=True) if oid in self._bounds]
            parts = [self._bounds[oid] for oid in oids if oid in self._bounds]  # one may be gone by now
            starts, stops = np.array(parts, dtype=np.int64).reshape(-1, 2).T
            order = np.argsort(starts)
            filled = np.where(np.isin(starts, list(self._filled.get(table, ()))), _FILLED, _UNKNOWN).astype(np.int8)
            self._layouts[table] = found = Layout(
                [names[at] for at in order], starts[order], stops[order], filled[order]
            )
            back = {
                part for part in self._detached.get(table, ()) if found.at(np.array([micros_of(part.start)]))[0] >= 0
            }
            self._detached.get(table, set()).difference_update(back)
            self._attached_again |= bool(back)
        return self._layouts[table]

    async def filled(self, connection: Connection, layout: "Layout", first: int, stop: int) -> NDArray[np.int64]:
        """Which of the partitions [``first``, ``stop``) may hold rows: their indexes. Raises ``StoreUnavailable``."""
        unknown = first + np.flatnonzero(layout.filled[first:stop] == _UNKNOWN)
        if len(unknown):
            rows: list[bool] = await connection.fetchval(
                # Whom we cannot name, say in another schema, may hold rows; so may what is no plain table.
                "SELECT array_agg(coalesce(relkind <> 'r' OR pg_relation_size(c.oid) > 0, true) ORDER BY number) "
                "FROM unnest($1::text[]) WITH ORDINALITY AS names (name, number) "
                "LEFT JOIN pg_class c ON c.oid = to_regclass(quote_ident(name))",
                [layout.names[at] for at in unknown.tolist()],
            )
            # What we have filled meanwhile stays so.
            layout.filled[unknown] = np.where(layout.filled[unknown] == _FILLED, _FILLED, rows)
        return first + np.flatnonzero(layout.filled[first:stop] == _FILLED)

    def _note_rows(self, table: str, layout: Layout, at: NDArray[np.int64]) -> None:
        """The partitions at these indexes are about to hold rows."""
        at = np.unique(at[at >= 0])
        layout.filled[at] = _FILLED
        self._filled.setdefault(table, set()).update(layout.starts[at].tolist())

    async def _near(
        self, connection: Connection, table: str, micros: NDArray[np.int64], far: "Far"
    ) -> NDArray[np.int64]:
        """Those of the times for which a partition may be made."""
        layout = await self.layout(connection, table)
        there = int(np.count_nonzero(layout.starts > far.after))
        beyond = micros[(micros > far.after) & (layout.at(micros) < 0)]
        coming = partitions_for(table, self.widths[table], beyond)
        if there + len(coming) <= far.most:
            return micros
        left = max(0, far.most - there)
        end = micros_of(coming[left].start)
        return micros[(micros <= far.after) | (micros < end)]

    async def _ensure(self, connection: Connection, table: str, micros: NDArray[np.int64]) -> int:
        """Make partitions for what no partition holds yet of these times; how many."""
        made = 0
        for width in _AND_NARROWER[self.widths[table]]:
            left = micros[(await self.layout(connection, table)).at(micros) < 0]
            if width is not self.widths[table]:
                left = left[~self.expired(table, left)]
            wanted = partitions_for(table, width, left)
            for first in range(0, len(wanted), _MADE_AT_ONCE):
                made += await self._create(connection, table, wanted[first : first + _MADE_AT_ONCE])
        layout = await self.layout(connection, table)
        left = micros[(layout.at(micros) < 0) & ~self.expired(table, micros)]
        if not len(left):
            return made
        self._layouts.pop(table, None)
        hour = partition_at(table, Partitioning.HOURLY, moment(int(left[0])))
        if self.refusal:
            raise PartitionMissing(
                f"{table} has no partition for {hour.start:%Y-%m-%dT%H:%MZ}, and this role may make none ({self.refusal}); or make it "
                f"by hand: {statement(hour)}"
            )
        raise SchemaMismatch(
            f"a part of the hour {hour.start:%Y-%m-%dT%H:%MZ} has no partition of {table}, and another part has; make what is "
            f"missing, or attach partitions of whole hours"
        )

    async def _create(self, connection: Connection, table: str, some: Sequence[Partition]) -> int:
        """Make and attach what is missing of some partitions of one table; how many."""
        stamps = [part.stamp for part in some]
        try:
            found: list[str] = await connection.fetchval(_MAKE, table, stamps)
            self.refusal = ""
        except NotAllowed as error:
            self.refusal = await why_not(connection, error)
            found = await connection.fetchval(_STATES, table, stamps)
        detached = self._detached.setdefault(table, set())
        made = [part for part, what in zip(some, found, strict=True) if what == "made"]
        for part, what in zip(some, found, strict=True):
            if what == "foreign":
                raise SchemaMismatch(
                    f"table {part.name} exists but is no partition of {table}; attach, rename or drop it"
                )
            if what == "detached":
                detached.add(part)
            elif what == "made":
                detached.discard(part)
        if len(made) + found.count("detached") < len(some):
            self._layouts.pop(table, None)  # somebody else has made some, or of another width
        elif made and table in self._layouts:
            self._layouts[table] = self._layouts[table].with_parts(made)
        return len(made)


async def why_not(connection: Connection, error: NotAllowed) -> str:
    """What to type for a role that may make no partitions. Raises ``StoreUnavailable``."""
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    return (
        f"{str(error).partition('; ')[0]}; as the tables' owner type: "
        f"GRANT EXECUTE ON FUNCTION tickloom.make_partitions(regclass, text[]) TO {role}"
    )


async def put_away(connection: Connection, table: str) -> list[Partition]:
    """What was detached of a table and stands under its name still, in order. Raises ``StoreUnavailable``, ``Mistake``."""
    names: list[str] = await connection.fetchval(sql("detached"), table)
    return sorted(part for part in (_named(table, name) for name in names) if part is not None)


def _named(table: str, name: str) -> Partition | None:
    """The partition that we would give this name; None where we give no such name."""
    stamp = name.removeprefix(f"{table}_")
    for width, form in _FORMATS.items():
        try:
            part = partition_at(table, width, datetime.strptime(stamp, form).replace(tzinfo=UTC))
        except ValueError:
            continue
        if part.name == name:
            return part
    return None


def statement(part: Partition) -> str:
    """What makes a partition by hand."""
    return (
        f"CREATE TABLE {part.name} PARTITION OF {part.table} "
        f"FOR VALUES FROM ('{part.start:%Y-%m-%d %H:%M:%S.%f}+00') TO ('{part.stop:%Y-%m-%d %H:%M:%S.%f}+00')"
    ).replace(".000000", "")


_MAKE = "SELECT tickloom.make_partitions($1::text::regclass, $2)"
_STATES = (
    "SELECT array_agg(tickloom.partition_state($1::text::regclass, stamp) ORDER BY number) "
    "FROM unnest($2::text[]) WITH ORDINALITY AS stamps (stamp, number)"
)
_BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|'[^']+')\) TO \((MAXVALUE|'[^']+')\)")


def _parsed(table: str, bounds: str) -> tuple[int, int]:
    """A partition's bounds in µs, from how Postgres writes them in UTC. Raises ``SchemaMismatch`` for a default partition."""
    found = _BOUNDS.fullmatch(bounds)
    if found is None:
        raise SchemaMismatch(
            f"{table} has a partition of another kind ({bounds}): rows that land there make later partitions hard to make, and "
            f"are not found again; detach it"
        )
    return _micros(found[1].strip("'")), _micros(found[2].strip("'"))


def _micros(bound: str) -> int:
    """Of one bound; what lies beyond all events is at their end."""
    try:
        return min(max(micros_of(datetime.fromisoformat(bound)), EARLIEST), LATEST)
    except ValueError:
        return EARLIEST if bound in ("MINVALUE", "-infinity") or bound.endswith("BC") else LATEST
