"""Declarations of derived output tables: columns, sources, a bucket of time, and one query that computes the rows. Pure.

``stock_prices``, ``stock_volumes`` and ``stock_analytics_data`` come from ``join``. Every other output is derived from
them: an ``Output`` is all that the loader, ``migrate``, ``check`` and ``verify`` need to know about it.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta

from tickloom.core.arrays import Ints
from tickloom.core.model import KEY, TABLES, Column, Table
from tickloom.errors import SettingsError
from tickloom.settings import Partitioning

SOURCES = {table.name: table for table in TABLES}
"""The tables that an output may be derived from, by name."""
_DAY = timedelta(days=1)
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_STAGING = re.compile(r"(rejoined|corrected|revised|touched|tried)(_.*)?")
"""A session's temporary tables have these names and would hide an output of the same name."""


@dataclass(frozen=True, slots=True)
class Output:
    """A table with one row for each symbol and each bucket of time in which ``select`` finds one.

    Its columns are ``symbol``, ``timestamp`` (the start of the bucket, UTC), which together are its key, and ``columns``.

    ``select`` is a query over its ``sources`` (some of the three tables, by their names), which have one column more
    here: ``bucket``, the start of the bucket that holds the row's timestamp. It gives ``symbol``, ``"timestamp"`` and the
    columns, by name, usually with ``GROUP BY symbol, bucket``. A row must depend on nothing but the source rows of its own
    symbol and bucket, and on no clock: the loader runs the query for one key at a time, ``verify`` for many.

    ``bucket`` divides a day, from midnight UTC on. Raises ``SettingsError`` with the fix.
    """

    name: str
    columns: tuple[Column, ...]
    sources: tuple[str, ...]
    bucket: timedelta
    select: str
    partitioning: Partitioning = Partitioning.DAILY
    table: Table = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "select", self.select.strip().removesuffix(";").rstrip())
        object.__setattr__(self, "table", Table(self.name, (*KEY, *self.columns)))
        for fault in self._faults():
            raise SettingsError(f"output {self.name!r}: {fault}")

    @property
    def bucket_micros(self) -> int:
        """The bucket's width in µs."""
        return self.bucket // timedelta(microseconds=1)

    @property
    def definition(self) -> str:
        """Everything that determines its rows, as text: two outputs with the same definition have the same rows."""
        columns = ", ".join(f"{column.name} {column.sql}" for column in self.columns)
        return f"({columns}) every {self.bucket.total_seconds():g} s from {', '.join(self.sources)}: {' '.join(self.select.split())}"

    def starts(self, micros: Ints) -> Ints:
        """The starts of the buckets that hold these times, in µs since 1970."""
        return micros // self.bucket_micros * self.bucket_micros

    def _faults(self) -> list[str]:
        """The reasons why such a table cannot be maintained, each with its fix."""
        names = self.table.names
        found: list[str] = []
        if not _NAME.fullmatch(self.name) or self.name in SOURCES or _STAGING.fullmatch(self.name):
            found.append(
                "this name is taken or cannot be used; use up to 40 lower-case letters, digits and underscores, "
                "and none of the beginnings rejoined, corrected, revised, touched or tried"
            )
        if not self.columns or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
            found.append(
                "give it at least one column, each with a name of its own in lower case, without symbol and timestamp"
            )
        if not self.sources or not set(self.sources) <= set(SOURCES):
            found.append(f"its sources are {self.sources}; name one or more of {', '.join(SOURCES)}")
        if self.bucket < timedelta(seconds=1) or self.bucket % timedelta(seconds=1) or _DAY % self.bucket:
            found.append(f"a bucket of {self.bucket} does not divide a day; use whole seconds that do")
        elif self.partitioning is Partitioning.HOURLY and timedelta(hours=1) % self.bucket:
            found.append(f"a partition of an hour cannot hold a bucket of {self.bucket}; partition it daily")
        return found
