"""``tickloom verify --repair``: computes averages and joined rows again from the raw tables, and corrects them.

A repair works slice by slice. Each slice is one transaction that first locks the ledger against writers. A batch moves
the ledger first, too, so no batch is in flight. The repair therefore reads the latest rows (also in its second session, which
reads the rows before the slice), and overwrites nothing newer. A running daemon waits for one slice at most.
A daemon holds raw values in memory, and a repair does not change those. A batch that has read averages from the tables
is joined again if a repair has changed the tables since (``ledger.refuse_repaired``).

A repair does not touch the rows that ``verify`` leaves in doubt.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from tickloom.core.model import ANALYTICS, FEEDS, TABLES, Side
from tickloom.settings import Settings
from tickloom.store import schema
from tickloom.store.catalogue import detached_partitions
from tickloom.store.history import History
from tickloom.store.partitions import Partitioner
from tickloom.store.parts import refuse_dropped
from tickloom.store.postgres import Connection, sql
from tickloom.store.recompute import (
    POSSIBLE,
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
from tickloom.store.slices import BEGINNING, Part, Slice
from tickloom.store.verdict import RAW_TABLES


@dataclass(frozen=True, slots=True)
class Damage:
    """The damage that ``verify`` found. ``slices``: those with a difference that can be repaired. ``parts``: the partitions
    that it saw. ``complete``: whether a side's raw table holds all rows that the ledger has stored.
    """

    slices: Sequence[Slice]
    parts: Sequence[Part]
    complete: Mapping[Side, bool]


async def repair_slices(
    connection: Connection, second: Connection, settings: Settings, damage: Damage, budget: int, watch: OnProgress
) -> Counter[str]:
    """Repair the slices, each in a transaction of its own. Returns the number of rows written, by table.

    ``second`` reads the rows before a slice, so that its locks end with each statement. ``budget``: partitions that a
    transaction may touch. Raises ``Mistake``, ``StoreUnavailable``: the earlier slices stay repaired.
    """
    written: Counter[str] = Counter()
    partitioner = schema.partitioner(settings)
    for number, piece in enumerate(damage.slices):
        watch("repair", number, len(damage.slices))
        await _make_partitions(connection, partitioner, piece)
        async with connection.transaction():
            await plan_for_slices(connection)
            await _lock_out_writers(connection)
            await refuse_dropped(connection, damage.parts)
            # A new history: the daemon may have made partitions, and filled some that were empty.
            history = History(schema.partitioner(settings), settings.window_rows, budget)
            before = {side: await _rows_before(connection, second, history, side, piece) for side in Side}
            written.update(await _repair_slice(connection, settings.window_rows, piece, damage.complete, before))
    return written


async def _make_partitions(connection: Connection, partitioner: Partitioner, piece: Slice) -> None:
    """Make the missing partitions of joined rows in a slice."""
    if ANALYTICS.name not in piece.tables:
        hours = await connection.fetch(sql("repair_hours"), piece.start, piece.stop)
        micros = np.array([row["hour"] for row in hours], dtype=np.int64)
        await partitioner.ensure_kept(connection, ANALYTICS.name, micros)


async def _lock_out_writers(connection: Connection) -> None:
    await connection.execute("LOCK TABLE tickloom.offsets IN SHARE ROW EXCLUSIVE MODE")
    await connection.execute("UPDATE tickloom.source SET repairs = repairs + 1")  # see ledger.refuse_repaired
    # Locks on the parents alone keep partitions from being dropped, without a lock on each of them.
    await connection.execute(f"LOCK TABLE ONLY {', ONLY '.join(t.name for t in TABLES)} IN ROW EXCLUSIVE MODE")


async def _rows_before(
    connection: Connection, second: Connection, history: History, side: Side, piece: Slice
) -> Before:
    """The rows before a slice that its windows reach back to."""
    if piece.start == BEGINNING:
        return as_columns(())
    found = await connection.fetch(
        f"SELECT DISTINCT symbol FROM {FEEDS[side].table.name} WHERE {WITHIN}", piece.start, piece.stop
    )
    symbols = [row["symbol"] for row in found]
    return as_columns(await look_back(history, second, side, piece.start, symbols, None))


async def _repair_slice(
    connection: Connection,
    window_rows: int,
    piece: Slice,
    complete: Mapping[Side, bool],
    before: Mapping[Side, Before],
) -> dict[str, int]:
    """Repair known symbols, averages and joined rows of one slice. Returns the number of rows written, by table."""
    span = (piece.start, piece.stop)
    await connection.execute(sql("repair_symbols"), *span)
    written: dict[str, int] = {}
    for side in Side:
        statement = for_side(sql("repair_averages"), side, rows=query_rows(side, 5))
        status = await connection.execute(statement, *span, window_rows, complete[side], *before[side])
        written[FEEDS[side].table.name] = int(status.rpartition(" ")[2])
    both_sides_exist = piece.tables.issuperset(RAW_TABLES)
    detached = starts_and_stops(await detached_partitions(connection, ANALYTICS.name))
    written[ANALYTICS.name] = await connection.fetchval(_JOIN, *span, datetime.now(UTC), both_sides_exist, *detached)
    return written


_JOIN = sql("repair_join").format(**{f"possible_{side}": text for side, text in POSSIBLE.items()})
