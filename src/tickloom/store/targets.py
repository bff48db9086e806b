"""Where the rows of a batch go: straight into a table by COPY, or by COPY into a temporary staging table, from which one
UPDATE a run of partitions takes them.

All statements name their columns: whatever a user adds to a table, and in which order its columns stand, neither changes
what is written nor where. Names come from the model, never from data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tickloom.core.model import ANALYTICS, FEEDS, Column, Side, Table
from tickloom.store.postgres import sql

_ANY_NUMBER = "LIMIT (SELECT 9223372036854775807)"
"""None, but the planner expects few rows: it then looks each of them up. Without statistics it takes the range of a whole
partition for half a percent of it, and might look through all staged rows for each row of the table."""


@dataclass(frozen=True, slots=True)
class Target:
    """One COPY stream of a batch: ``columns`` are those of ``table`` that it brings, in its order.

    ``staged``: the rows are there already, and change. ``values``: by average among the columns what it averages.
    """

    name: str
    table: Table
    columns: tuple[Column, ...]
    values: Mapping[str, str]
    staged: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    def definition(self, name: str, first: str = "") -> str:
        """``CREATE TEMP TABLE`` of a table that takes the stream; ``first``: further columns of it."""
        columns = ", ".join(f'"{column.name}" {column.sql}' for column in self.columns)
        return f"CREATE TEMP TABLE IF NOT EXISTS {name} ({first}{columns}) ON COMMIT DELETE ROWS"

    def write(self, rows: str) -> str:
        """The statement that brings the rows of a query into the table; of staged ones those in [$1, $2)."""
        names = ", ".join(f'"{name}"' for name in self.names)
        if not self.staged:
            return f"INSERT INTO {self.table.name} ({names}) SELECT {names} FROM ({rows}) r"
        rest = [f'"{name}" = r."{name}"' for name in self.names if name not in self.table.key]
        return sql("update").format(table=self.table.name, assignments=", ".join(rest), rows=rows)

    @property
    def update(self) -> str:
        """The statement that takes the staged rows of a run of partitions: $1, $2."""
        return self.write(
            f'SELECT * FROM pg_temp.{self.name} WHERE "timestamp" >= $1 AND "timestamp" < $2 {_ANY_NUMBER}'
        )


def _columns(table: Table, names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(column for column in table.columns if column.name in names)


def _of_side(side: Side) -> list[Target]:
    table, average = FEEDS[side].table, FEEDS[side].average
    values = {average: FEEDS[side].value}
    return [
        Target(table.name, table, table.columns, values),
        Target(f"corrected_{side}", table, table.columns, values, staged=True),
        Target(f"revised_{side}", table, _columns(table, (*table.key, average)), {}, staged=True),
    ]


_BOTH_VALUES = {feed.average: feed.value for feed in FEEDS.values()}
TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        *(target for side in Side for target in _of_side(side)),
        Target(ANALYTICS.name, ANALYTICS, ANALYTICS.columns, _BOTH_VALUES),
        Target("remet", ANALYTICS, ANALYTICS.columns, _BOTH_VALUES, staged=True),
    )
}
"""By name, in the order in which they are written, but that all COPY comes before the first UPDATE."""
