"""The streams in which a batch reaches the tables: per stream a table, the columns it brings, and whether its rows exist already.

New rows go straight into their table by COPY. Rows that replace or revise existing ones go by COPY into a temporary staging
table, from which one UPDATE per run of partitions takes them (``store/statements.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tickloom.core.model import ANALYTICS, FEEDS, Column, Feed, Table


@dataclass(frozen=True, slots=True)
class Stream:
    """One COPY stream of a batch. ``columns``: those of ``table`` that it brings, in the order of the stream.

    ``averages``: the averages among the columns, each with the column it averages. ``staged``: the rows exist, and change.
    """

    name: str
    table: Table
    columns: tuple[Column, ...]
    averages: Mapping[str, str]
    staged: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)


def _some(table: Table, names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(column for column in table.columns if column.name in names)


def _of_feed(feed: Feed) -> list[Stream]:
    table, averages = feed.table, {feed.average: feed.value}
    return [
        Stream(table.name, table, table.columns, averages),
        Stream(f"corrected_{feed.side}", table, table.columns, averages, staged=True),
        Stream(f"revised_{feed.side}", table, _some(table, (*table.key, feed.average)), {}, staged=True),
    ]


_BOTH_AVERAGES = {feed.average: feed.value for feed in FEEDS.values()}
STREAMS: Mapping[str, Stream] = {
    stream.name: stream
    for stream in (
        *(stream for feed in FEEDS.values() for stream in _of_feed(feed)),
        Stream(ANALYTICS.name, ANALYTICS, ANALYTICS.columns, _BOTH_AVERAGES),
        Stream("rejoined", ANALYTICS, ANALYTICS.columns, _BOTH_AVERAGES, staged=True),
    )
}
"""By name, in the order in which they are written, except that every COPY comes before the first UPDATE."""
