"""``tickloom verify``: the tables held against what they must be, in one snapshot; what can be computed is mended.

The raw values are what all else is computed from, so they are taken as they are: averages, the join and its numbers
are recomputed from them, slice by slice of time, in set-based SQL. Beside that the ledger is held against itself, the
dead letters and the gaps, and, where everything is looked at, against the number of rows.

A slice has a bounded number of partitions, and a transaction of its own, so that there are never more locks than that.
One session exports a snapshot and keeps it alive; the transactions of another one see it. A window that reaches back
over its slice's start gets the rows before it from the slices before (``Carry``), or, before the first one, by looking
back a few partitions at a time.

Rows that are gone leave a doubt, which is told and not counted as a difference:

- The first W-1 rows of a symbol have windows of fewer rows. Where a table holds fewer rows than the ledger stored,
  such a window may have lost rows with a dropped partition; its average was right when it was written.
- A joined row for whose time a raw table has no partition (it was dropped) has nothing to be held against.
- A joined row that is not there, whose partition was detached, is in the table that was put away, or would be.

A repair never touches either. It works slice by slice, each in one transaction that first locks the ledger against
writers. A batch moves the ledger first, too, so none is under way: what the repair reads is the latest (also by its
second session, which looks back), and what it writes cannot overwrite anything newer. A running daemon waits for one
slice at most. What it holds in memory are raw values, which a repair does not change; a batch that has read averages
from the tables is joined anew where a repair came between (``ledger.refuse_repaired``).
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np

from tickloom.core.model import ANALYTICS, FEEDS, TABLES, Side
from tickloom.core.timestamps import micros_of, moment, parse_text
from tickloom.errors import LocksExhausted, Mistake, SettingsError, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store import schema, source_claim
from tickloom.store.carry import Carry, Row
from tickloom.store.check import check_schema
from tickloom.store.history import History
from tickloom.store.partitions import Partition, lock_budget, put_away
from tickloom.store.postgres import Connection, connected, sql
from tickloom.store.slices import BEGINNING, END, Part, Slice, Span, cut, pieces, slice_bytes
from tickloom.store.verdict import RAW_TABLES, SIDE_OF_AVERAGE, Difference, Kind, Report

Before: TypeAlias = tuple[list[str], list[datetime], list[float | None]]
"""Rows before a slice as a statement takes them: symbols, times, values."""
SLICE_BYTES = 64 * 2**20
"""Of all three tables together: some 200,000 rows of each."""
_SAMPLE_PAGES = 500
_AGAIN = (
    "run it again when Postgres is well; where a statement takes longer than it may, raise "
    "TICKLOOM_DATABASE_COMMAND_TIMEOUT_SECONDS"
)
_POSSIBLE = {Side.PRICES: "abs(price) <= 1e15", Side.VOLUMES: "volume >= 0 AND volume <= 1e15"}
Watch = Callable[[str, float, float], None]
"""Told of the progress: what is done, how much of it, of how much."""


def _unwatched(what: str, done: float, total: float) -> None:
    pass


def parse_span(since: str | None, until: str | None) -> Span:
    """``--from`` and ``--to`` as a span. Raises ``SettingsError``."""
    span = Span(_parsed("--from", since) or BEGINNING, _parsed("--to", until) or END)
    if span.start >= span.stop:
        raise SettingsError(f"--from {since} is not before --to {until}; the range is half open, [from, to)")
    return span


def _parsed(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    micros = parse_text(text if len(text) > len("2026-11-24") else f"{text}T00:00")
    try:
        if micros is not None:
            return moment(micros)
    except OverflowError:
        pass
    raise SettingsError(f"{option} {text!r} is no time; write it like 2026-11-24T10:15:00 (UTC) or …+01:00")


@dataclass(slots=True)
class _Seen:
    """What the slices gave: per kind the total and the first rows; per slice the kinds that it holds."""

    parts: list[Part]
    totals: Counter[Kind] = field(default_factory=Counter[Kind])
    first: list[tuple[Kind, Difference]] = field(default_factory=list[tuple[Kind, Difference]])
    slices: list[tuple[Slice, frozenset[Kind]]] = field(default_factory=list[tuple[Slice, frozenset[Kind]]])

    def add(self, piece: Slice, rows: Iterable[Any], limit: int) -> None:
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
        if kinds:
            self.slices.append((piece, frozenset(kinds)))


async def verify(
    settings: Settings,
    span: Span,
    *,
    limit: int = 10,
    repair: bool = False,
    watch: Watch = _unwatched,
    least_slice_bytes: int = SLICE_BYTES,
) -> Report:
    """Look at every row of ``span``; with ``repair``, mend averages and join there. Needs no Kafka.

    The snapshot is read only, so a role that may only SELECT, or a standby, will do without ``repair``.
    Raises ``Mistake``, ``StoreUnavailable`` (nothing is half done: a repair ends at a slice's border).
    """
    started = time.monotonic()
    report = Report(span)
    try:
        async with connected(settings) as keeper, connected(settings) as connection:
            await check_schema(connection, settings, writes=repair)
            await _refuse_mistakes(connection, settings, repair)
            budget = await lock_budget(connection)
            async with keeper.exported_snapshot() as snapshot:
                look = _Look(connection, settings, snapshot, budget)
                seen = await _look(look, report, limit, watch, least_slice_bytes)
                incomplete = await _conclude(look, report, limit, seen, repair)
            if repair:
                whole = {side: FEEDS[side].table.name not in incomplete for side in Side}
                bad = [
                    piece
                    for piece, kinds in seen.slices
                    if any(kind.mendable and not _left_out(kind, incomplete) for kind in kinds)
                ]
                report.repaired = await _repair(connection, keeper, settings, whole, seen.parts, bad, budget, watch)
    except LocksExhausted as error:
        raise Mistake(str(error)) from error
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}; {_AGAIN}") from error
    report.seconds = time.monotonic() - started
    return report


async def _refuse_mistakes(connection: Connection, settings: Settings, repair: bool) -> None:
    """The tables of another topic or window would all look wrong."""
    if repair and await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise Mistake("this is a read-only standby; point TICKLOOM_DATABASE_URL at the primary to repair")
    noted = await connection.fetchrow("SELECT * FROM tickloom.source")
    if noted is not None:
        source_claim.refuse_other_source(noted, source_claim.source_of(settings, noted["cluster_id"]))


async def _be_quick(connection: Connection) -> None:
    """For the transaction: plans for the very slice (its partitions and no others), sorts in memory, times in UTC.

    The joins are of whole slices, and statistics may be stale or missing: never a loop over one of them for each row.
    """
    await connection.execute(
        "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_nestloop = off; SET LOCAL jit = off; "
        "SET LOCAL work_mem = '64MB'; SET LOCAL TimeZone = 'UTC'"
    )


# --- looking ----------------------------------------------------------------------------------------------------


class _Look:
    """Transactions on one snapshot, and the way back from a slice."""

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
            await _be_quick(self.connection)
            yield self.connection

    async def rows_before(self, piece: Slice, span: Span, tails: Mapping[Side, Sequence[Row]]) -> dict[Side, Before]:
        """Of the symbols of a slice, whose last rows are ``tails``, the rows that their windows reach back to."""
        found: dict[Side, Before] = {}
        for side, carry in self._carried.items():
            symbols = list(dict.fromkeys(symbol for symbol, _, _ in tails[side]))
            if span.start != BEGINNING:
                carry.add(await _looked_back(self._history, self.connection, side, span.start, symbols, carry))
            found[side] = _columns(carry.of(symbols) if self.settings.window_rows > 1 else ())
            carry.add(tails[side])
        return found


async def _looked_back(
    history: History, connection: Connection, side: Side, start: datetime, symbols: Sequence[str], carry: Carry | None
) -> list[Row]:
    """Rows before ``start`` of those symbols of which nothing is carried, in order."""
    new = [symbol for symbol in symbols if carry is None or symbol not in carry]
    if not new:
        return []
    rows = (await history.before(connection, side, new, micros_of(start))).sort("code", "ts")
    return [(new[code], moment(ts), value) for code, ts, value in rows.select("code", "ts", "value").iter_rows()]


def _ranges(parts: Sequence[Partition]) -> tuple[list[datetime], list[datetime]]:
    """Starts and stops."""
    return [part.start for part in parts], [part.stop for part in parts]


def _columns(rows: Iterable[Row]) -> Before:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return list(columns[0]), list(columns[1]), list(columns[2])


async def _look(look: _Look, report: Report, limit: int, watch: Watch, least_slice_bytes: int) -> _Seen:
    """Slice by slice, the rows and what differs in them."""
    settings = look.settings
    async with look.transaction() as connection:
        parts = await _parts(connection)
        largest = slice_bytes(parts, least_slice_bytes)
        detached = _ranges(await put_away(connection, ANALYTICS.name))
    cuts: list[Part] = []
    for part in parts:
        async with look.transaction() as connection:
            cuts.append(await _with_cuts(connection, part, pieces(part, largest)))
    slices = cut(cuts, report.span, largest, look.most_partitions)
    seen, total, done = _Seen(parts), sum(piece.size_bytes for piece in slices), 0.0
    for piece in slices:
        watch("verify", done, total)
        if not piece.size_bytes:
            continue  # its partitions are empty files
        async with look.transaction() as connection:
            tails = {side: await _tail(connection, side, piece, settings.window_rows) for side in Side}
        before = await look.rows_before(piece, report.span, tails)
        async with look.transaction() as connection:
            for table in TABLES:
                report.rows[table.name] += await _count(connection, table.name, piece)
            rows = await connection.fetch(
                _SLICE,
                *(piece.start, piece.stop, settings.window_rows, settings.prices_topic, settings.volumes_topic),
                *(piece.tables.issuperset(RAW_TABLES), limit, *before[Side.PRICES], *before[Side.VOLUMES]),
                *detached,
            )
        seen.add(piece, rows, limit)
        done += piece.size_bytes
    await _refuse_dropped(look.connection, parts)
    watch("verify", total, total)
    return seen


async def _tail(connection: Connection, side: Side, piece: Slice, window_rows: int) -> list[Row]:
    rows = await connection.fetch(_for_side(sql("verify_tail"), side), piece.start, piece.stop, window_rows)
    return [(row["symbol"], row["timestamp"], row["value"]) for row in rows]


async def _count(connection: Connection, table: str, piece: Slice) -> int:
    return await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {_INSIDE}", piece.start, piece.stop)


async def _conclude(look: _Look, report: Report, limit: int, seen: _Seen, repair: bool) -> set[str]:
    """The bookkeeping, the counts, and what the doubts come to; gives the raw tables that lack rows.

    A range is not held against the ledger's counts. All rows are counted there only where a doubt, or a repair that
    may meet one, needs to know.
    """
    first: list[Difference] = []
    settings = look.settings
    async with look.transaction() as connection:
        ledger = await connection.fetch(sql("verify_ledger"))
        stored_of = dict(
            await connection.fetch("SELECT topic, sum(stored)::bigint FROM tickloom.offsets GROUP BY topic")
        )
    for row in ledger:
        first.append(Difference(**dict(row)))
        report.wrong[Kind(row["table"], row["column"])] += 1
    incomplete: set[str] = set()
    for side, topic in ((Side.PRICES, settings.prices_topic), (Side.VOLUMES, settings.volumes_topic)):
        table = FEEDS[side].table.name
        doubted = any(kind.doubt == "short" and SIDE_OF_AVERAGE[kind.column] is side for kind in seen.totals)
        if not (report.span.everything or doubted or (repair and seen.slices)):
            continue
        stored = stored_of.get(topic, 0)
        rows = report.rows[table] if report.span.everything else await _count_all(look, seen.parts, table)
        if rows < stored:
            incomplete.add(table)
        if report.span.everything and rows != stored:
            first.append(Difference(table, "rows", str(rows), str(stored), topic=topic))
            report.wrong[Kind(table, "rows")] += 1
    for kind, count in seen.totals.items():
        if _left_out(kind, incomplete):
            report.left_out[kind] += count
        else:
            report.wrong[kind._replace(doubt="")] += count
    first += [difference for kind, difference in seen.first if not _left_out(kind, incomplete)]
    report.first = first[:limit]
    return incomplete


async def _count_all(look: _Look, parts: Sequence[Part], table: str) -> int:
    found = 0
    for piece in cut([part for part in parts if part.table == table], Span(), 1 << 62, look.most_partitions):
        if piece.size_bytes:
            async with look.transaction() as connection:
                found += await _count(connection, table, piece)
    return found


def _left_out(kind: Kind, incomplete: set[str]) -> bool:
    if kind.doubt == "short":
        return FEEDS[SIDE_OF_AVERAGE[kind.column]].table.name in incomplete
    return kind.doubt != ""


async def _parts(connection: Connection) -> list[Part]:
    found = await connection.fetch(sql("verify_partitions"), [table.name for table in TABLES])
    return [
        Part(row["table"], row["name"], row["start"] or BEGINNING, row["stop"] or END, row["size"]) for row in found
    ]


async def _with_cuts(connection: Connection, part: Part, count: int) -> Part:
    """A large part with cuts at times that divide its rows about evenly, by a sample of its pages."""
    if count == 1:
        return part
    percent = min(100.0, 100 * _SAMPLE_PAGES * 8192 / part.size_bytes)
    shares = [number / count for number in range(1, count)]
    found = await connection.fetchval(
        # Of the table, not of its partition, to which a role need have no right.
        f'SELECT percentile_disc($1::float8[]) WITHIN GROUP (ORDER BY "timestamp") FROM {part.table} '
        'TABLESAMPLE SYSTEM ($2) REPEATABLE (0) WHERE "timestamp" >= $3 AND "timestamp" < $4 '
        "AND \"timestamp\" < '9999-12-31'",
        *(shares, percent, part.start, part.stop),
    )
    return replace(part, cuts=tuple(sorted(set(found or ()))))


# --- repairing --------------------------------------------------------------------------------------------------


async def _repair(
    connection: Connection,
    second: Connection,
    settings: Settings,
    whole: Mapping[Side, bool],
    parts: Sequence[Part],
    bad: Sequence[Slice],
    budget: int,
    watch: Watch,
) -> Counter[str]:
    """Mend the slices that hold what can be mended; how many rows of each table were written."""
    written: Counter[str] = Counter()
    partitioner = schema.partitioner(settings)
    for number, piece in enumerate(bad):
        watch("repair", number, len(bad))
        if ANALYTICS.name not in piece.tables:
            hours = await connection.fetch(sql("repair_hours"), piece.start, piece.stop)
            micros = np.array([row["hour"] for row in hours], dtype=np.int64)
            await partitioner.ensure_kept(connection, ANALYTICS.name, micros)
        async with connection.transaction():
            await _be_quick(connection)
            await connection.execute("LOCK TABLE tickloom.offsets IN SHARE ROW EXCLUSIVE MODE")
            await connection.execute("UPDATE tickloom.source SET repairs = repairs + 1")  # see ledger.refuse_repaired
            # Of the parents alone: it keeps partitions from being dropped, and does not lock each of them.
            await connection.execute(f"LOCK TABLE ONLY {', ONLY '.join(t.name for t in TABLES)} IN ROW EXCLUSIVE MODE")
            await _refuse_dropped(connection, parts)
            # With a fresh look at the partitions: the daemon may have made some, and filled some that were empty.
            history = History(schema.partitioner(settings), settings.window_rows, budget)
            before = {side: await _before(connection, second, history, side, piece) for side in Side}
            written.update(await _repair_slice(connection, settings.window_rows, piece, whole, before))
    return written


async def _refuse_dropped(connection: Connection, parts: Sequence[Part]) -> None:
    """Windows that lost rows after the look would be taken for beginnings."""
    gone = {part.name for part in parts} - {part.name for part in await _parts(connection)}
    if gone:
        raise StoreUnavailable(f"partition {min(gone)} was dropped meanwhile")


async def _before(connection: Connection, second: Connection, history: History, side: Side, piece: Slice) -> Before:
    """The rows before a slice, by the ``second`` session: its locks end with each statement."""
    if piece.start == BEGINNING:
        return _columns(())
    found = await connection.fetch(
        f"SELECT DISTINCT symbol FROM {FEEDS[side].table.name} WHERE {_INSIDE}", piece.start, piece.stop
    )
    symbols = [row["symbol"] for row in found]
    return _columns(await _looked_back(history, second, side, piece.start, symbols, None))


async def _repair_slice(
    connection: Connection,
    window_rows: int,
    piece: Slice,
    whole: Mapping[Side, bool],
    before: Mapping[Side, Before],
) -> dict[str, int]:
    span = (piece.start, piece.stop)
    await connection.execute(sql("repair_symbols"), *span)
    written: dict[str, int] = {}
    for side in Side:
        statement = _for_side(sql("repair_averages"), side, rows=_rows(side, 5))
        status = await connection.execute(statement, *span, window_rows, whole[side], *before[side])
        written[FEEDS[side].table.name] = int(status.rpartition(" ")[2])
    backed = piece.tables.issuperset(RAW_TABLES)
    detached = _ranges(await put_away(connection, ANALYTICS.name))
    written[ANALYTICS.name] = await connection.fetchval(_JOIN, *span, datetime.now(UTC), backed, *detached)
    return written


def _rows(side: Side, first: int) -> str:
    """One side's rows with their averages, as a query; from parameter ``first`` on it takes the rows before the slice."""
    before = f"${first}::text[], ${first + 1}::timestamptz[], ${first + 2}::float8[]"
    return _for_side(sql("verify_rows"), side, before=before)


def _for_side(statement: str, side: Side, **more: str) -> str:
    """A statement of ``sql/`` for one side; its names come from the model, never from data."""
    return statement.format(
        table=FEEDS[side].table.name,
        value=FEEDS[side].value,
        average=FEEDS[side].average,
        possible=_POSSIBLE[side],
        **more,
    )


_INSIDE = '"timestamp" >= $1 AND "timestamp" < $2'
_SLICE = sql("verify_slice").format(prices=_rows(Side.PRICES, 8), volumes=_rows(Side.VOLUMES, 11))
_JOIN = sql("repair_join").format(**{f"possible_{side}": text for side, text in _POSSIBLE.items()})
