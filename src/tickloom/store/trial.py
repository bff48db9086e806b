"""Finds the rows that Postgres refuses, after it has refused a batch: writes all of them in a transaction that is rolled back.

The rows go to the server once, into a temporary table. A function there writes them on into the tables, in as many statements as
it takes to find each refusal (``sql/try_rows.sql``). So the cost is that of a load, plus a little for each refused row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tickloom.core.encode import Encoded
from tickloom.core.partitioning import ALWAYS
from tickloom.core.streams import STREAMS, Stream
from tickloom.core.timestamps import moment
from tickloom.store.loader import KEPT_OUT
from tickloom.store.postgres import LOOKUPS_ONLY, Connection, sql
from tickloom.store.sqlstates import NO_REFUSALS, first_line
from tickloom.store.statements import staging_table, write

_FUNCTION = sql("try_rows").format(others="|".join(NO_REFUSALS), kept_out=KEPT_OUT)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row that Postgres refuses, with its message: the ``index``-th row of the stream ``target`` (see ``STREAMS``).

    ``constraint``, ``column``: empty if Postgres names none. ``own``: Postgres refuses it with any averages, so no other row can
    be the cause.
    """

    target: str
    index: int
    state: str
    message: str
    constraint: str
    column: str
    own: bool


async def refusals(connection: Connection, encoded: Encoded, copy_seconds: float) -> list[Refusal]:
    """The refused rows of a batch, each tried after all earlier rows are written. Partitions must exist.

    Raises ``StoreUnavailable``, ``Mistake``; ``DataRefused`` if none of these rows is the reason.
    """
    found: list[Refusal] = []
    async with connection.transaction(rehearsal=True):
        await connection.execute(LOOKUPS_ONLY)
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await connection.execute(_FUNCTION)
        for name, copy in encoded.copies.items():
            stream = STREAMS[name]
            await connection.execute(staging_table(stream, "tried", "number bigint GENERATED ALWAYS AS IDENTITY, "))
            await connection.copy_in(("pg_temp", "tried"), stream.names, copy, copy_seconds)
            await connection.execute("CREATE UNIQUE INDEX ON pg_temp.tried (number)")
            found += await _try(connection, stream, encoded)
            await connection.execute("DROP TABLE pg_temp.tried")
    return found


async def _try(connection: Connection, stream: Stream, encoded: Encoded) -> list[Refusal]:
    statement, *variants = _statements(stream)
    found: list[Refusal] = []
    for run in encoded.updates.get(stream.name, [ALWAYS]):
        rows = await connection.fetch(
            "SELECT * FROM pg_temp.rows_refused($1, $2, $3, $4, $5)",
            *(statement, variants, not stream.staged, moment(run.start), moment(run.stop)),
        )
        for number, state, text, constraint, column, own in rows:
            message = f"{first_line(text)} (SQLSTATE {state})"
            found.append(Refusal(stream.name, number - 1, state, message, constraint, column, own))
    return found


def _statements(stream: Stream) -> Sequence[str]:
    """The statement that writes a range of the rows; then its variants with NULL, and the plain value, for each average."""
    averages: list[dict[str, str]] = [{}]
    if stream.averages:
        averages += [dict.fromkeys(stream.averages, "NULL::float8"), dict(stream.averages)]
    return [write(stream, _rows(stream, instead)) for instead in averages]


def _rows(stream: Stream, instead: dict[str, str]) -> str:
    """The query for a range of the rows. It notes each row's number before that row is written; OFFSET keeps the order."""
    columns = ", ".join(f'{instead[name]} AS "{name}"' if name in instead else f'"{name}"' for name in stream.names)
    return f"""
        SELECT {columns} FROM (
            SELECT * FROM pg_temp.tried
            WHERE number BETWEEN $3 AND $4 AND "timestamp" >= $1 AND "timestamp" < $2 ORDER BY number OFFSET 0
        ) t WHERE setval('pg_temp.tried_at', number) = number"""
