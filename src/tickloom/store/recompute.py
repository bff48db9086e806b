"""Shared by ``verify`` and ``repair``: computes a slice of time again from the raw rows in it and before it.

Everything else follows from the raw values, so these are taken as right. Averages are windows over them, in set-based SQL.
A window that reaches back over a slice's start needs the rows before the slice, so statements take those as parameters
(``Before``).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeAlias

from tickloom.core.model import FEEDS, Side
from tickloom.core.partitioning import Partition
from tickloom.core.timestamps import micros_of, moment
from tickloom.store.carry import Carry, Row
from tickloom.store.history import History
from tickloom.store.postgres import Connection, sql
from tickloom.store.slices import Span

Before: TypeAlias = tuple[list[str], list[datetime], list[float | None]]
"""Rows before a slice as a statement takes them: symbols, times, values."""
OnProgress: TypeAlias = Callable[[str, float, float], None]
"""Called with the name of the work, the amount done, and the total."""
WITHIN = '"timestamp" >= $1 AND "timestamp" < $2'
POSSIBLE = {Side.PRICES: "abs(price) <= 1e15", Side.VOLUMES: "volume >= 0 AND volume <= 1e15"}
"""Values that a message can have."""


async def plan_for_slices(connection: Connection) -> None:
    """Until the transaction ends: plan for the partitions of this slice only, sort in memory, write times in UTC.

    The joins cover whole slices, and statistics may be stale or missing, so no plan may loop over a table for each row of
    another.
    """
    await connection.execute(
        "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_nestloop = off; SET LOCAL jit = off; "
        "SET LOCAL work_mem = '64MB'; SET LOCAL TimeZone = 'UTC'"
    )


async def look_back(
    history: History, connection: Connection, side: Side, start: datetime, symbols: Sequence[str], carry: Carry | None
) -> list[Row]:
    """The rows before ``start`` that windows reach back to, in order, for those symbols of which ``carry`` holds none."""
    new = [symbol for symbol in symbols if carry is None or symbol not in carry]
    if not new:
        return []
    rows = (await history.before(connection, side, new, micros_of(start))).sort("code", "ts")
    return [(new[code], moment(ts), value) for code, ts, value in rows.select("code", "ts", "value").iter_rows()]


def as_columns(rows: Iterable[Row]) -> Before:
    """Rows as a statement takes them."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return list(columns[0]), list(columns[1]), list(columns[2])


def starts_and_stops(ranges: Iterable[Partition | Span]) -> tuple[list[datetime], list[datetime]]:
    """The bounds of some ranges of time as a statement takes them."""
    ranges = list(ranges)
    return [one.start for one in ranges], [one.stop for one in ranges]


def query_rows(side: Side, first: int) -> str:
    """One side's rows in a slice ($1, $2) with their averages over $3 rows, as a query. Its parameters ``first`` to
    ``first`` + 2 are the rows before the slice.
    """
    before = f"${first}::text[], ${first + 1}::timestamptz[], ${first + 2}::float8[]"
    return for_side(sql("verify_rows"), side, before=before)


def for_side(statement: str, side: Side, **more: str) -> str:
    """A statement of ``sql/`` for one side; its names come from the model, never from data."""
    return statement.format(
        table=FEEDS[side].table.name,
        value=FEEDS[side].value,
        average=FEEDS[side].average,
        possible=POSSIBLE[side],
        **more,
    )
