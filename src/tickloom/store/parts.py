"""The tables as parts to cut into slices (see ``slices``), read from the catalogue."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tickloom.core.model import TABLES
from tickloom.errors import StoreUnavailable
from tickloom.store.postgres import Connection, sql
from tickloom.store.slices import BEGINNING, END, Part

_SAMPLE_PAGES = 500
_THE_THREE = tuple(table.name for table in TABLES)


async def read_parts(connection: Connection, tables: Sequence[str] = _THE_THREE) -> list[Part]:
    """The partitions of these tables, and those of the tables that have none. Raises ``StoreUnavailable``, ``Mistake``."""
    found = await connection.fetch(sql("verify_partitions"), tables)
    return [
        Part(row["table"], row["name"], row["start"] or BEGINNING, row["stop"] or END, row["size"]) for row in found
    ]


async def with_cuts(connection: Connection, part: Part, count: int) -> Part:
    """``part`` with cuts into ``count`` pieces of about as many rows each, by a sample of its pages."""
    if count == 1:
        return part
    percent = min(100.0, 100 * _SAMPLE_PAGES * 8192 / part.size_bytes)
    shares = [number / count for number in range(1, count)]
    found = await connection.fetchval(
        # Read from the table, because a role may have no right to its partition.
        f'SELECT percentile_disc($1::float8[]) WITHIN GROUP (ORDER BY "timestamp") FROM {part.table} '
        'TABLESAMPLE SYSTEM ($2) REPEATABLE (0) WHERE "timestamp" >= $3 AND "timestamp" < $4 '
        "AND \"timestamp\" < '9999-12-31'",
        *(shares, percent, part.start, part.stop),
    )
    return replace(part, cuts=tuple(sorted(set(found or ()))))


async def refuse_dropped(connection: Connection, parts: Iterable[Part]) -> None:
    """Raise ``StoreUnavailable`` if one of ``parts`` has been dropped: windows that lost rows would look like a symbol's first."""
    gone = {part.name for part in parts} - {part.name for part in await read_parts(connection)}
    if gone:
        raise StoreUnavailable(f"partition {min(gone)} was dropped meanwhile")
