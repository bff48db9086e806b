"""``tickloom verify``: the tables held against what they must be, in one snapshot; what can be computed is mended.

The raw values are what all else is computed from, so they are taken as they are: averages, the join and its numbers
are recomputed from them, slice by slice of time, in set-based SQL. Beside that the ledger is held against itself, the
dead letters and the gaps, and, where everything is looked at, against the number of rows.

Rows that are gone leave a doubt, which is told and not counted as a difference:

- The first W-1 rows of a symbol have windows of fewer rows. Where a table holds fewer rows than the ledger stored,
  such a window may have lost rows with a dropped partition; its average was right when it was written.
- A joined row for whose time a raw table has no partition (it was dropped) has nothing to be held against.

A repair never touches either. It works slice by slice, each in one transaction that first locks the ledger against
writers. A batch moves the ledger first, too, so none is under way: what the repair reads is the latest, and what it
writes cannot overwrite anything newer. A running daemon waits for one slice at most, and what it holds in memory are
raw values, which a repair does not change.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from tickloom import schema
from tickloom.errors import Mistake, SettingsError, StoreUnavailable
from tickloom.model import ANALYTICS, AVERAGE_COLUMN, RAW_TABLE, TABLES, VALUE_COLUMN, Side
from tickloom.partitions import Partitioner
from tickloom.postgres import Connection, connected, sql, told, transaction
from tickloom.settings import Settings
from tickloom.slices import BEGINNING, END, Part, Slice, Span, cut, pieces, slice_bytes
from tickloom.timestamps import parse_text
from tickloom.verdict import RAW_TABLES, SIDE_OF_AVERAGE, Difference, Kind, Report

SLICE_BYTES = 64 * 2**20
"""Of all three tables together: some 200,000 rows of each."""
_SAMPLE_PAGES = 500
_ROW_BYTES = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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
    span = Span(_moment("--from", since) or BEGINNING, _moment("--to", until) or END)
    if span.start >= span.stop:
        raise SettingsError(f"--from {since} is not before --to {until}; the range is half open, [from, to)")
    return span


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    micros = parse_text(text if len(text) > len("2026-11-24") else f"{text}T00:00")
    try:
        if micros is not None:
            return _EPOCH + timedelta(microseconds=micros)
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
        async with connected(settings) as connection:
            await schema.check(connection, settings, writes=repair)
            with told():
                await _refuse_mistakes(connection, settings, repair)
                async with transaction(connection, readonly=True, snapshot=True):
                    await _be_quick(connection)
                    await connection.execute(f"LOCK TABLE {', '.join(t.name for t in TABLES)} IN ACCESS SHARE MODE")
                    seen = await _look(connection, settings, report, limit, watch, least_slice_bytes)
                    incomplete = await _conclude(connection, settings, report, limit, seen, repair)
                if repair:
                    whole = {side: RAW_TABLE[side].name not in incomplete for side in Side}
                    report.repaired = await _repair(connection, settings, whole, seen, incomplete, watch)
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
        mine = (noted["cluster_id"], settings.prices_topic, settings.volumes_topic, settings.window_rows)
        schema.refuse_other_source(noted, mine)


async def _be_quick(connection: Connection) -> None:
    """For the transaction: plans for the very slice (its partitions and no others), sorts in memory, times in UTC.

    The joins are of whole slices, and statistics may be stale or missing: never a loop over one of them for each row.
    """
    await connection.execute(
        "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_nestloop = off; SET LOCAL jit = off; "
        "SET LOCAL work_mem = '64MB'; SET LOCAL TimeZone = 'UTC'"
    )


# --- looking ----------------------------------------------------------------------------------------------------


async def _look(
    connection: Connection, settings: Settings, report: Report, limit: int, watch: Watch, least_slice_bytes: int
) -> _Seen:
    """Slice by slice, the rows and what differs in them."""
    parts = await _parts(connection)
    largest = slice_bytes(parts, least_slice_bytes)
    slices = cut([await _with_cuts(connection, part, pieces(part, largest)) for part in parts], report.span, largest)
    seen, total, done = _Seen(parts), sum(piece.size_bytes for piece in slices), 0.0
    for piece in slices:
        watch("verify", done, total)
        back: dict[Side, str] = {}
        for side in Side:
            back[side], count = await _way_back(connection, side, piece, parts, settings.window_rows)
            report.rows[RAW_TABLE[side].name] += count
        report.rows[ANALYTICS.name] += await connection.fetchval(
            f"SELECT count(*) FROM {ANALYTICS.name} WHERE {_INSIDE}", piece.start, piece.stop
        )
        topics = (settings.prices_topic, settings.volumes_topic)
        backed = piece.tables.issuperset(RAW_TABLES)
        statement = _SLICE.format(**{side: _rows(side, back[side]) for side in Side})
        rows = await connection.fetch(statement, piece.start, piece.stop, settings.window_rows, *topics, backed, limit)
        seen.add(piece, rows, limit)
        done += piece.size_bytes
    watch("verify", total, total)
    return seen


async def _conclude(
    connection: Connection, settings: Settings, report: Report, limit: int, seen: _Seen, repair: bool
) -> set[str]:
    """The bookkeeping, the counts, and what the doubts come to; gives the raw tables that lack rows.

    A range is not held against the ledger's counts. All rows are counted there only where a doubt, or a repair that
    may meet one, needs to know.
    """
    first: list[Difference] = []
    for row in await connection.fetch(sql("verify_ledger")):
        first.append(Difference(**dict(row)))
        report.wrong[Kind(row["table"], row["column"])] += 1
    incomplete: set[str] = set()
    for side, topic in ((Side.PRICES, settings.prices_topic), (Side.VOLUMES, settings.volumes_topic)):
        table = RAW_TABLE[side].name
        doubted = any(kind.doubt == "short" and SIDE_OF_AVERAGE[kind.column] is side for kind in seen.totals)
        if not (report.span.everything or doubted or (repair and seen.slices)):
            continue
        stored = await connection.fetchval(
            "SELECT coalesce(sum(stored), 0)::bigint FROM tickloom.offsets WHERE topic = $1", topic
        )
        rows = (
            report.rows[table] if report.span.everything else await connection.fetchval(f"SELECT count(*) FROM {table}")
        )
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


def _left_out(kind: Kind, incomplete: set[str]) -> bool:
    if kind.doubt == "short":
        return RAW_TABLE[SIDE_OF_AVERAGE[kind.column]].name in incomplete
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
        f'SELECT percentile_disc($1::float8[]) WITHIN GROUP (ORDER BY "timestamp") FROM {part.name} '
        "TABLESAMPLE SYSTEM ($2) REPEATABLE (0) WHERE \"timestamp\" < '9999-12-31'",
        *(shares, percent),
    )
    return replace(part, cuts=tuple(sorted(set(found or ()))))


async def _way_back(
    connection: Connection, side: Side, piece: Slice, parts: Sequence[Part], window_rows: int
) -> tuple[str, int]:
    """How the rows before a slice are found, by a statement of ``sql/``; and how many rows are in the slice."""
    table = RAW_TABLE[side].name
    found = await connection.fetchrow(
        f"SELECT count(*) AS rows, count(DISTINCT symbol) AS symbols FROM {table} WHERE {_INSIDE}",
        *(piece.start, piece.stop),
    )
    mine = [part for part in parts if part.table == table and part.size_bytes]
    older = [part for part in mine if part.start < piece.start]
    inside = sum(part.start < piece.stop and part.stop > piece.start for part in mine)
    scanned_rows = sum(part.size_bytes for part in older) / _ROW_BYTES
    if scan_is_cheaper(found["rows"], found["symbols"], inside, len(older), scanned_rows, window_rows):
        return sql("verify_scan"), found["rows"]
    return sql("verify_lookup"), found["rows"]


def scan_is_cheaper(rows: int, symbols: int, parts: int, older_parts: int, older_rows: float, window_rows: int) -> bool:
    """Whether to read all ``older_rows`` rather than look up each of ``symbols``, which have ``rows`` in ``parts``.

    A look-up probes the older parts, newest first, until it has its window: about a microsecond a part, as is half a
    row of the scan. Rare symbols are in few parts, and new ones in none.
    """
    probes = min(older_parts, 1 + (window_rows - 1) * symbols * parts / max(rows, 1))
    return symbols * probes > 2 * older_rows


# --- repairing --------------------------------------------------------------------------------------------------


async def _repair(
    connection: Connection,
    settings: Settings,
    whole: dict[Side, bool],
    seen: _Seen,
    incomplete: set[str],
    watch: Watch,
) -> Counter[str]:
    """Mend the slices that hold what can be mended; how many rows of each table were written."""
    written: Counter[str] = Counter()
    bad = [piece for piece, kinds in seen.slices if any(k.mendable and not _left_out(k, incomplete) for k in kinds)]
    widths = {table.name: schema.partitioning(settings, table) for table in TABLES}
    partitioner = Partitioner(widths, settings.partitions_ahead)
    for number, piece in enumerate(bad):
        watch("repair", number, len(bad))
        if ANALYTICS.name not in piece.tables:
            hours = await connection.fetch(sql("repair_hours"), piece.start, piece.stop)
            micros = np.array([row["hour"] for row in hours], dtype=np.int64)
            await partitioner.ensure_for(connection, {ANALYTICS.name: micros})
        async with transaction(connection):
            await _be_quick(connection)
            await connection.execute("LOCK TABLE tickloom.offsets IN SHARE ROW EXCLUSIVE MODE")
            await connection.execute(f"LOCK TABLE {', '.join(t.name for t in TABLES)} IN ROW EXCLUSIVE MODE")
            await _refuse_dropped(connection, seen.parts)
            written.update(await _repair_slice(connection, settings.window_rows, piece, seen.parts, whole))
    return written


async def _refuse_dropped(connection: Connection, parts: Sequence[Part]) -> None:
    """Windows that lost rows after the look would be taken for beginnings."""
    gone = {part.name for part in parts} - {part.name for part in await _parts(connection)}
    if gone:
        raise StoreUnavailable(f"partition {min(gone)} was dropped meanwhile")


async def _repair_slice(
    connection: Connection, window_rows: int, piece: Slice, parts: Sequence[Part], whole: dict[Side, bool]
) -> dict[str, int]:
    span = (piece.start, piece.stop)
    await connection.execute(sql("repair_symbols"), *span)
    written: dict[str, int] = {}
    for side in Side:
        back, _ = await _way_back(connection, side, piece, parts, window_rows)
        statement = _for_side(sql("repair_averages"), side, rows=_rows(side, back))
        status = await connection.execute(statement, *span, window_rows, whole[side])
        written[RAW_TABLE[side].name] = int(status.rpartition(" ")[2])
    backed = piece.tables.issuperset(RAW_TABLES)
    written[ANALYTICS.name] = await connection.fetchval(_JOIN, *span, datetime.now(UTC), backed)
    return written


def _rows(side: Side, back: str) -> str:
    """One side's rows with their averages, as a query; ``back`` finds the rows before the slice."""
    return _for_side(sql("verify_rows"), side, before=_for_side(back, side))


def _for_side(statement: str, side: Side, **more: str) -> str:
    """A statement of ``sql/`` for one side; its names come from the model, never from data."""
    return statement.format(
        table=RAW_TABLE[side].name,
        value=VALUE_COLUMN[side],
        average=AVERAGE_COLUMN[side],
        possible=_POSSIBLE[side],
        **more,
    )


_INSIDE = '"timestamp" >= $1 AND "timestamp" < $2'
_SLICE = sql("verify_slice")
_JOIN = sql("repair_join").format(**{f"possible_{side}": text for side, text in _POSSIBLE.items()})
