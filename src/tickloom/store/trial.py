"""Finds the rows that Postgres refuses, when it has refused a batch: all are written in one transaction, which is undone.

The rows go to the server once, into a temporary table; a function there writes them on into the tables, in as many
statements as it takes to find each refusal (see ``sql/try_rows.sql``). So the cost is that of a load, and some for each
row that is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tickloom.core.timestamps import moment
from tickloom.store.loader import KEPT_OUT, Encoded, copy
from tickloom.store.partitions import ALWAYS
from tickloom.store.postgres import LOOKUPS_ONLY, NO_REFUSALS, Connection, first_line, sql
from tickloom.store.targets import TARGETS, Target

_FUNCTION = sql("try_rows").format(others="|".join(NO_REFUSALS), kept_out=KEPT_OUT)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row that Postgres refuses: the ``index``-th of those for ``target`` (see ``TARGETS``), with its words.

    ``constraint`` and ``column``: empty where it names none. ``own``: whatever its averages are, so that no other row can
    be the reason.
    """

    target: str
    index: int
    state: str
    words: str
    constraint: str
    column: str
    own: bool


async def refusals(connection: Connection, encoded: Encoded, copy_seconds: float) -> list[Refusal]:
    """Which rows are refused, those that were written before being there; partitions must exist.

    Raises ``StoreUnavailable``, ``Mistake``; ``DataRefused`` where it is no row of these.
    """
    found: list[Refusal] = []
    async with connection.transaction(rehearsal=True):
        await connection.execute(LOOKUPS_ONLY)
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await connection.execute(_FUNCTION)
        for name, stream in encoded.copies.items():
            target = TARGETS[name]
            await connection.execute(target.definition("tried", "number bigint GENERATED ALWAYS AS IDENTITY, "))
            await copy(connection, target, ("pg_temp", "tried"), stream, copy_seconds)
            await connection.execute("CREATE UNIQUE INDEX ON pg_temp.tried (number)")
            found += await _try(connection, target, encoded)
            await connection.execute("DROP TABLE pg_temp.tried")
    return found


async def _try(connection: Connection, target: Target, encoded: Encoded) -> list[Refusal]:
    statement, *variants = _statements(target)
    found: list[Refusal] = []
    for run in encoded.updates.get(target.name, [ALWAYS]):
        rows = await connection.fetch(
            "SELECT * FROM pg_temp.rows_refused($1, $2, $3, $4, $5)",
            *(statement, variants, not target.staged, moment(run.start), moment(run.stop)),
        )
        for number, state, words, constraint, column, own in rows:
            told_of = f"{first_line(words)} (SQLSTATE {state})"
            found.append(Refusal(target.name, number - 1, state, told_of, constraint, column, own))
    return found


def _statements(target: Target) -> Sequence[str]:
    """How a range of the rows is written; and how with NULL, or its own value, for each average."""
    averages: list[dict[str, str]] = [{}]
    if target.values:
        averages += [dict.fromkeys(target.values, "NULL::float8"), dict(target.values)]
    return [target.write(_rows(target, instead)) for instead in averages]


def _rows(target: Target, instead: dict[str, str]) -> str:
    """The query for a range of the rows, which says what row it is at before that is written. OFFSET keeps it in order."""
    columns = ", ".join(f'{instead[name]} AS "{name}"' if name in instead else f'"{name}"' for name in target.names)
    return f"""
        SELECT {columns} FROM (
            SELECT * FROM pg_temp.tried
            WHERE number BETWEEN $3 AND $4 AND "timestamp" >= $1 AND "timestamp" < $2 ORDER BY number OFFSET 0
        ) t WHERE setval('pg_temp.tried_at', number) = number"""
