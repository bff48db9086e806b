"""SQL for the streams of a batch: staging tables, and the statements that write from them.

Every statement names its columns, so columns that a user adds, and the order of columns, change nothing.
Names come from the model, never from data.
"""

from tickloom.core.streams import Stream
from tickloom.store.postgres import sql

_ANY_NUMBER = "LIMIT (SELECT 9223372036854775807)"
"""It limits nothing, but the planner then expects few rows and looks each of them up. Without statistics it assumes that a range of
partitions holds half a percent of a table, and might scan all staged rows for each row of it."""


def staging_table(stream: Stream, name: str, first: str = "") -> str:
    """``CREATE TEMP TABLE`` for a table that takes the stream; ``first``: further columns before its own."""
    columns = ", ".join(f'"{column.name}" {column.sql}' for column in stream.columns)
    return f"CREATE TEMP TABLE IF NOT EXISTS {name} ({first}{columns}) ON COMMIT DELETE ROWS"


def write(stream: Stream, rows: str) -> str:
    """The statement that brings the rows of a query into the stream's table; of a staged stream those in [$1, $2)."""
    names = ", ".join(f'"{name}"' for name in stream.names)
    if not stream.staged:
        return f"INSERT INTO {stream.table.name} ({names}) SELECT {names} FROM ({rows}) r"
    assignments = [f'"{name}" = r."{name}"' for name in stream.names if name not in stream.table.key]
    return sql("update").format(table=stream.table.name, assignments=", ".join(assignments), rows=rows)


def update(stream: Stream) -> str:
    """The statement that takes the staged rows of one run of partitions: $1, $2."""
    return write(
        stream, f'SELECT * FROM pg_temp.{stream.name} WHERE "timestamp" >= $1 AND "timestamp" < $2 {_ANY_NUMBER}'
    )
