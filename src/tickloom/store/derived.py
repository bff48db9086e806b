"""Writes derived outputs: recomputes the rows of touched keys from the sources as the batch has left them.

The keys go into a temporary table, and one statement for each run of neighbouring partitions takes them from there. A
bucket is computed from the source rows that still exist, so keep raw partitions for longer than messages may be late.
"""

from collections.abc import Sequence

from tickloom.core.outputs import SOURCES, Output
from tickloom.core.timestamps import moment
from tickloom.core.touched import Recomputed
from tickloom.errors import DataRefused, SchemaMismatch
from tickloom.store.outputs import declared
from tickloom.store.postgres import LOOKUPS_ONLY, Connection, sql


async def stage(connection: Connection) -> None:
    """Make the connection's temporary tables of touched keys. Raises ``StoreUnavailable``, ``Mistake``."""
    for output in declared():
        columns = ", ".join(f'"{column.name}" {column.sql}' for column in output.table.columns[:2])
        await connection.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {_staging(output)} ({columns}) ON COMMIT DELETE ROWS"
        )


async def write(connection: Connection, derived: Sequence[Recomputed], copy_seconds: float) -> None:
    """Recompute rows after the rest of the batch is written, in its transaction. Their partitions must exist.

    Raises ``SchemaMismatch`` if Postgres refuses such a row, since no message is to blame for the result of a query;
    ``StoreUnavailable``; ``Mistake``.
    """
    if derived:
        await connection.execute(f"{LOOKUPS_ONLY}; SET LOCAL work_mem = '64MB'")  # a bucket is sorted in memory
    for one in derived:
        output, statement = one.output, statement_of(one.output)
        try:
            await connection.copy_in(("pg_temp", _staging(output)), output.table.key, one.keys, copy_seconds)
            for run in one.runs:
                await connection.execute(statement, moment(run.start), moment(run.stop))
        except DataRefused as error:
            raise SchemaMismatch(
                f"Postgres refuses a row of {output.name}, or cannot compute it: {error}. It is derived, so no message is to "
                f"blame, and nothing of its batch was stored; drop the constraint or trigger of {output.name} that refuses "
                f"it, or fix the select of its declaration"
            ) from error


def statement_of(output: Output) -> str:
    """The statement that recomputes the staged keys in the range [$1, $2)."""
    names = [column.name for column in output.columns]
    return sql("derived_write").format(
        table=output.name,
        staging=_staging(output),
        sources=", ".join(_source(output, name) for name in output.sources),
        select=output.select,
        values=", ".join(f's."{column.name}"::{column.type} AS "{column.name}"' for column in output.columns),
        names=listed(names),
        assignments=", ".join(f'"{name}" = excluded."{name}"' for name in names),
        kept=listed(names, "o."),
        given=listed(names, "excluded."),
    )


def listed(names: Sequence[str], prefix: str = "") -> str:
    """Names of columns as a list in a statement."""
    return ", ".join(f'{prefix}"{name}"' for name in names)


def _source(output: Output, name: str) -> str:
    columns = listed(SOURCES[name].names, "r.")
    return sql("derived_source").format(name=name, columns=columns, seconds=output.bucket.total_seconds()).strip()


def _staging(output: Output) -> str:
    return f"touched_{output.name}"
