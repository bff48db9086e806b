"""``tickloom verify``: checks the tables against the raw rows and the ledger, in one snapshot.

It computes averages, the join and its numbers again from the raw values, one slice of time after the other (see
``recompute``). It also checks the ledger's sums, the dead letters and the gaps, and, if it verifies all of time, the number
of rows. ``--repair`` corrects everything that can be computed (see ``repair``).

A slice has a bounded number of partitions and a transaction of its own, which bounds the locks of a transaction. One
session exports a snapshot and keeps it alive; the transactions of another session see it. A window that
reaches back over its slice's start gets the rows before it from the slices before (``Carry``), or, before the first
slice, from queries of a few older partitions at a time.

Rows that are gone leave a doubt, which is reported and does not count as a difference:

- The first W-1 rows of a symbol have windows of fewer rows. Where a table holds fewer rows than the ledger stored,
  such a window may have lost rows with a dropped partition; its average was right when it was written.
- A joined row for whose time a raw table has no partition (it was dropped) cannot be compared with anything.
- A joined row that is missing, and whose partition was detached, is or would be in the detached table.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tickloom.core.model import ANALYTICS, FEEDS, TABLES, Side
from tickloom.errors import LocksExhausted, Mistake, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store import derived_check, schema, source_claim
from tickloom.store.carry import Carry, Row
from tickloom.store.catalogue import detached_partitions
from tickloom.store.check import check_schema
from tickloom.store.history import History
from tickloom.store.locks import lock_budget
from tickloom.store.outputs import tables
from tickloom.store.parts import read_parts, refuse_dropped, with_cuts
from tickloom.store.postgres import Connection, connected, sql
from tickloom.store.recompute import (
    WITHIN,
    Before,
    OnProgress,
    as_columns,
    for_side,
    look_back,
    plan_for_slices,
    query_rows,
    starts_and_stops,
)
from tickloom.store.repair import Damage, repair_slices
from tickloom.store.slices import BEGINNING, Part, Slice, Span, cut, pieces, slice_bytes
from tickloom.store.verdict import RAW_TABLES, SIDE_OF_AVERAGE, Difference, Kind, Report

SLICE_BYTES = 64 * 2**20
"""Size of a slice, of all three tables together: some 200,000 rows of each."""
_TRY_AGAIN = (
    "run it again when Postgres is well; if a statement timed out, raise TICKLOOM_DATABASE_COMMAND_TIMEOUT_SECONDS"
)


def _ignore_progress(what: str, done: float, total: float) -> None:
    pass


async def verify(
    settings: Settings,
    span: Span,
    *,
    limit: int = 10,
    repair: bool = False,
    watch: OnProgress = _ignore_progress,
    least_slice_bytes: int = SLICE_BYTES,
) -> Report:
    """Check every row of ``span``; with ``repair``, also correct averages and joined rows there. Needs no Kafka.

    ``limit``: how many of the first differences the report has. The snapshot is read only: without ``repair`` a role that may only
    SELECT is enough, and so is a standby. Raises ``Mistake``, ``StoreUnavailable`` (a repair then ends between two slices).
    """
    started = time.monotonic()
    report = Report(span, tuple(table.name for table in tables()))
    try:
        async with connected(settings) as keeper, connected(settings) as connection:
            await check_schema(connection, settings, writes=repair)
            await _refuse_mistakes(connection, settings, repair)
            budget = await lock_budget(connection)
            async with keeper.exported_snapshot() as snapshot:
                reader = _SnapshotReader(connection, settings, snapshot, budget)
                seen = await _compare(reader, report, limit, watch, least_slice_bytes)
                incomplete = await _conclude(reader, report, limit, seen, repair)
            if repair:
                damage, maker = seen.damage(incomplete), schema.partitioner(settings)
                report.repaired = await repair_slices(connection, keeper, settings, damage, budget, watch)
                written = await derived_check.repair(connection, maker, damage, seen.derived, not incomplete)
                report.repaired.update(written)
    except LocksExhausted as error:
        raise Mistake(str(error)) from error
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}; {_TRY_AGAIN}") from error
    report.seconds = time.monotonic() - started
    return report


async def _refuse_mistakes(connection: Connection, settings: Settings, repair: bool) -> None:
    """Refuse a repair on a standby, and the settings of another source: by those all rows would look wrong."""
    if repair and await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise Mistake("this is a read-only standby; point TICKLOOM_DATABASE_URL at the primary to repair")
    noted = await connection.fetchrow("SELECT * FROM tickloom.source")
    if noted is not None:
        source_claim.refuse_other_source(noted, source_claim.source_of(settings, noted["cluster_id"]))


# --- comparing --------------------------------------------------------------------------------------------------


class _SnapshotReader:
    """Transactions on one snapshot, and the rows that windows reach back to from a slice."""

    def __init__(self, connection: Connection, settings: Settings, snapshot: str, budget: int) -> None:
        self.connection = connection
        self.settings = settings
        self.most_partitions = max(1, budget // len(TABLES))
        self._snapshot = snapshot
        self._history = History(schema.partitioner(settings), settings.window_rows, budget, snapshot)
        self._carried = {side: Carry(max(settings.window_rows - 1, 1)) for side in Side}

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        async with self.connection.transaction(readonly=True, snapshot=self._snapshot):
            await plan_for_slices(self.connection)
            yield self.connection

    async def rows_before(self, piece: Slice, span: Span, tails: Mapping[Side, Sequence[Row]]) -> dict[Side, Before]:
        """For the symbols of a slice, whose last rows are ``tails``: the rows before it that their windows reach back to."""
        found: dict[Side, Before] = {}
        for side, carry in self._carried.items():
            symbols = list(dict.fromkeys(symbol for symbol, _, _ in tails[side]))
            if span.start != BEGINNING:
                carry.add(await look_back(self._history, self.connection, side, span.start, symbols, carry))
            found[side] = as_columns(carry.of(symbols) if self.settings.window_rows > 1 else ())
            carry.add(tails[side])
        return found


@dataclass(slots=True)
class _Seen:
    """The differences so far: the total of each kind, the first ones of each kind, and the kinds in each slice."""

    parts: list[Part]
    totals: Counter[Kind] = field(default_factory=Counter[Kind])
    first: list[tuple[Kind, Difference]] = field(default_factory=list[tuple[Kind, Difference]])
    slices: list[tuple[Slice, frozenset[Kind]]] = field(default_factory=list[tuple[Slice, frozenset[Kind]]])
    derived: Sequence[derived_check.Found] = ()

    def add(self, piece: Slice, rows: Iterable[Any], limit: int) -> None:
        """Take in the differences of a slice."""
        if kinds := self.note(rows, limit):
            self.slices.append((piece, frozenset(kinds)))

    def note(self, rows: Iterable[Any], limit: int) -> set[Kind]:
        """Take in differences. Returns their kinds."""
        kinds: set[Kind] = set()
        kept = Counter(kind for kind, _ in self.first)
        for row in rows:
            kind = Kind(row["table"], row["column"], row["doubt"])
            if kind not in kinds:
                self.totals[kind] += row["total"]
                kinds.add(kind)
            if kept[kind] < limit:
                kept[kind] += 1
                names = ("table", "column", "found", "expected", "symbol", "timestamp")
                self.first.append((kind, Difference(**{name: row[name] for name in names})))
        return kinds

    def damage(self, incomplete: set[str]) -> Damage:
        """The damage that a repair can correct. ``incomplete``: the tables that lack rows."""
        damaged = [
            piece
            for piece, kinds in self.slices
            if any(kind.repairable and not _left_out(kind, incomplete) for kind in kinds)
        ]
        return Damage(damaged, self.parts, {side: FEEDS[side].table.name not in incomplete for side in Side})


async def _compare(
    reader: _SnapshotReader, report: Report, limit: int, watch: OnProgress, least_slice_bytes: int
) -> _Seen:
    """Count and check the rows, slice by slice."""
    async with reader.transaction() as connection:
        parts = await read_parts(connection)
        detached = starts_and_stops(await detached_partitions(connection, ANALYTICS.name))
    largest = slice_bytes(parts, least_slice_bytes)
    cuts: list[Part] = []
    for part in parts:
        async with reader.transaction() as connection:
            cuts.append(await with_cuts(connection, part, pieces(part, largest)))
    slices = cut(cuts, report.span, largest, reader.most_partitions)
    seen, total, done = _Seen(parts), sum(piece.size_bytes for piece in slices), 0.0
    for piece in slices:
        watch("verify", done, total)
        if piece.size_bytes:  # otherwise its partitions are empty files
            seen.add(piece, await _check_slice(reader, report, piece, detached, limit), limit)
            done += piece.size_bytes
    seen.derived = await derived_check.compare(reader, cuts, report.span, largest, limit)
    for one in seen.derived:
        report.rows[one.output.name] += one.rows
        seen.note(one.differences, limit)
    await refuse_dropped(reader.connection, parts)
    watch("verify", total, total)
    return seen


async def _check_slice(
    reader: _SnapshotReader, report: Report, piece: Slice, detached: tuple[list[datetime], list[datetime]], limit: int
) -> Sequence[Any]:
    """Count the rows of each table into ``report``, and compare them. Returns the first differences of each kind."""
    settings = reader.settings
    async with reader.transaction() as connection:
        tails = {side: await _tail(connection, side, piece, settings.window_rows) for side in Side}
    before = await reader.rows_before(piece, report.span, tails)
    async with reader.transaction() as connection:
        for table in TABLES:
            report.rows[table.name] += await _count(connection, table.name, piece)
        return await connection.fetch(
            _SLICE,
            *(piece.start, piece.stop, settings.window_rows, settings.prices_topic, settings.volumes_topic),
            *(piece.tables.issuperset(RAW_TABLES), limit, *before[Side.PRICES], *before[Side.VOLUMES]),
            *detached,
        )


async def _tail(connection: Connection, side: Side, piece: Slice, window_rows: int) -> list[Row]:
    """The last rows of each symbol in a slice, as far as a window reaches back."""
    rows = await connection.fetch(for_side(sql("verify_tail"), side), piece.start, piece.stop, window_rows)
    return [(row["symbol"], row["timestamp"], row["value"]) for row in rows]


async def _count(connection: Connection, table: str, piece: Slice) -> int:
    return await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {WITHIN}", piece.start, piece.stop)


_SLICE = sql("verify_slice").format(prices=query_rows(Side.PRICES, 8), volumes=query_rows(Side.VOLUMES, 11))


# --- concluding -------------------------------------------------------------------------------------------------


async def _conclude(reader: _SnapshotReader, report: Report, limit: int, seen: _Seen, repair: bool) -> set[str]:
    """Check bookkeeping and counts, and decide the doubts. Returns the tables that lack rows."""
    first = await _check_bookkeeping(reader, report)
    stored = await _stored_rows(reader)
    incomplete: set[str] = set()
    for side, topic in ((Side.PRICES, reader.settings.prices_topic), (Side.VOLUMES, reader.settings.volumes_topic)):
        table = FEEDS[side].table.name
        rows = await _rows_if_needed(reader, report, seen, side, repair)
        if rows is None:
            continue
        expected = stored.get(topic, 0)
        if rows < expected:
            incomplete.add(table)
        if report.span.everything and rows != expected:
            first.append(Difference(table, "rows", str(rows), str(expected), topic=topic))
            report.wrong[Kind(table, "rows")] += 1
    if any(kind.doubt == "detached" for kind in seen.totals):
        incomplete.add(ANALYTICS.name)
    for kind, count in seen.totals.items():
        if _left_out(kind, incomplete):
            report.left_out[kind] += count
        else:
            report.wrong[kind._replace(doubt="")] += count
    first += [difference for kind, difference in seen.first if not _left_out(kind, incomplete)]
    report.first = first[:limit]
    return incomplete


async def _check_bookkeeping(reader: _SnapshotReader, report: Report) -> list[Difference]:
    async with reader.transaction() as connection:
        rows = await connection.fetch(sql("verify_ledger"))
    for row in rows:
        report.wrong[Kind(row["table"], row["column"])] += 1
    return [Difference(**dict(row)) for row in rows]


async def _stored_rows(reader: _SnapshotReader) -> dict[str, int]:
    """The number of rows that the ledger counts as stored, by topic."""
    async with reader.transaction() as connection:
        return dict(await connection.fetch("SELECT topic, sum(stored)::bigint FROM tickloom.offsets GROUP BY topic"))


async def _rows_if_needed(reader: _SnapshotReader, report: Report, seen: _Seen, side: Side, repair: bool) -> int | None:
    """The number of rows in a raw table; None if nothing depends on it.

    In a range, a doubt depends on it, and so does a repair, which may meet one.
    """
    table = FEEDS[side].table.name
    if report.span.everything:
        return report.rows[table]
    doubted = any(
        kind.doubt == "partial" or (kind.doubt == "short" and SIDE_OF_AVERAGE[kind.column] is side)
        for kind in seen.totals
    )
    if doubted or (repair and seen.slices):
        return await _count_all(reader, seen.parts, table)
    return None


async def _count_all(reader: _SnapshotReader, parts: Sequence[Part], table: str) -> int:
    """The number of rows of a table."""
    found = 0
    for piece in cut([part for part in parts if part.table == table], Span(), 1 << 62, reader.most_partitions):
        if piece.size_bytes:
            async with reader.transaction() as connection:
                found += await _count(connection, table, piece)
    return found


def _left_out(kind: Kind, incomplete: set[str]) -> bool:
    """Whether a difference may be right after all."""
    if kind.doubt == "short":
        return FEEDS[SIDE_OF_AVERAGE[kind.column]].table.name in incomplete
    return bool(incomplete) if kind.doubt == "partial" else kind.doubt != ""
