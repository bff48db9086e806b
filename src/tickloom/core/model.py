"""The words of the domain: sides, columns, rows, rejects, batches. Columns are declared here, once.

A polars frame of rows always has the columns of ``rows_schema(side)``; times are int64 microseconds since
1970 UTC, so that no library's idea of a time zone or precision can touch them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import numpy as np
import polars as pl

from tickloom.core.arrays import Ints
from tickloom.core.timestamps import LATEST
from tickloom.settings import Settings

_TIME_BITS = 48
"""Enough for any time that a row may have, in ms since 1970."""


class Side(StrEnum):
    """The two halves of the join."""

    PRICES = "prices"
    VOLUMES = "volumes"

    @property
    def other(self) -> "Side":
        return Side.VOLUMES if self is Side.PRICES else Side.PRICES


class Reason(StrEnum):
    """Why a message is a dead letter. If several reasons apply, the first in this order counts.

    ``EXPIRED``: the partition of its row was detached. ``REFUSED``: Postgres refused its row.
    """

    EMPTY = "empty"
    NOT_JSON = "not_json"
    SCHEMA = "schema"
    BAD_SYMBOL = "bad_symbol"
    BAD_NUMBER = "bad_number"
    BAD_TIMESTAMP = "bad_timestamp"
    OUT_OF_BOUNDS = "out_of_bounds"
    INCONSISTENT = "inconsistent"
    EXPIRED = "expired"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. ``sql``: its type, with the collation and NOT NULL if it has them."""

    name: str
    sql: str

    @property
    def type(self) -> str:
        """The type and the collation, without NOT NULL."""
        return self.sql.removesuffix(" NOT NULL")

    @property
    def not_null(self) -> bool:
        return self.type != self.sql


@dataclass(frozen=True, slots=True)
class Table:
    """An output table; its primary key is (symbol, "timestamp")."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ("symbol", "timestamp")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


KEY = (Column("symbol", 'text COLLATE "C" NOT NULL'), Column("timestamp", "timestamptz NOT NULL"))
_SOURCE = (
    Column("source_partition", "int NOT NULL"),
    Column("source_offset", "bigint NOT NULL"),
    Column("source_timestamp", "timestamptz"),
)


def _floats(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "float8") for name in names)


PRICES = Table(
    "stock_prices",
    (*KEY, *_floats("price", "open_price", "high_price", "low_price", "price_moving_avg"), *_SOURCE),
)
VOLUMES = Table("stock_volumes", (*KEY, *_floats("volume", "trading_volume_moving_avg"), *_SOURCE))
ANALYTICS = Table(
    "stock_analytics_data",
    (
        *KEY,
        *_floats("price", "volume", "price_moving_avg", "trading_volume_moving_avg", "price_volume_ratio"),
        Column("processed_at", "timestamptz NOT NULL"),
    ),
)
TABLES = (PRICES, VOLUMES, ANALYTICS)


@dataclass(frozen=True, slots=True)
class Feed:
    """One side of the input: the table of its rows, the columns of value and moving average, and its optional numbers.

    ``not_negative``: the numbers that may not be below 0. ``ordered``: pairs of which the first may not be below the second.
    """

    side: Side
    table: Table
    value: str
    average: str
    optional: tuple[str, ...] = ()
    not_negative: tuple[str, ...] = ()
    ordered: tuple[tuple[str, str], ...] = ()

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of all its numbers in a message, the value first."""
        return (self.value, *self.optional)


FEEDS: Mapping[Side, Feed] = {
    feed.side: feed
    for feed in (
        Feed(
            Side.PRICES,
            PRICES,
            "price",
            "price_moving_avg",
            optional=("open_price", "high_price", "low_price"),
            ordered=(("high_price", "low_price"),),
        ),
        Feed(Side.VOLUMES, VOLUMES, "volume", "trading_volume_moving_avg", not_negative=("volume",)),
    )
}


def side_of(settings: Settings) -> dict[str, Side]:
    """Topic name to side."""
    return {settings.prices_topic: Side.PRICES, settings.volumes_topic: Side.VOLUMES}


def rows_schema(side: Side) -> dict[str, pl.DataType]:
    """Columns of a frame of decoded rows: symbol, ts (µs), value, the side's optional numbers, partition, offset, logged (µs)."""
    numbers = ("value", *FEEDS[side].optional)
    return {
        "symbol": pl.String(),
        "ts": pl.Int64(),
        **{name: pl.Float64() for name in numbers},
        "partition": pl.Int32(),
        "offset": pl.Int64(),
        "logged": pl.Int64(),
    }


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """A partition of one of the two topics."""

    topic: str
    partition: int


class RawMessage(Protocol):
    """The methods of a Kafka message that later stages may call. Everything else is in the columns of its chunk."""

    def key(self) -> Any: ...
    def headers(self) -> Any: ...
    def set_headers(self, headers: Any, /) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Raw messages of one topic as read, in order within each partition; the columns run in parallel.

    The three columns of numbers may be any sequences, and become int64. ``value_bytes``: the size of all values.
    ``logged``: per message, in µs, the latest record timestamp of its partition in this chunk up to the message.
    """

    side: Side
    topic: str
    messages: Sequence[RawMessage]
    values: Sequence[bytes | None]
    partitions: Ints
    offsets: Ints
    timestamps_ms: Ints
    value_bytes: int = field(init=False)
    logged: Ints = field(init=False)

    def __post_init__(self) -> None:
        for name in ("partitions", "offsets", "timestamps_ms"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        object.__setattr__(self, "value_bytes", sum(map(len, filter(None, self.values))))
        object.__setattr__(self, "logged", _latest_so_far(self.partitions, self.timestamps_ms) * 1_000)

    def part(self, start: int, end: int) -> "Chunk":
        """The messages [``start``, ``end``)."""
        of = slice(start, end)
        return Chunk(
            side=self.side,
            topic=self.topic,
            messages=self.messages[of],
            values=self.values[of],
            partitions=self.partitions[of],
            offsets=self.offsets[of],
            timestamps_ms=self.timestamps_ms[of],
        )

    def last_by_partition(self) -> list[tuple[int, int, int]]:
        """For each partition, in order: its number, how many of its messages the chunk holds, and the index of the last one."""
        numbers, counts = np.unique(self.partitions, return_counts=True)
        ends = np.argsort(self.partitions, kind="stable")[np.cumsum(counts) - 1]
        return list(zip(numbers.tolist(), counts.tolist(), ends.tolist(), strict=True))


def _latest_so_far(partitions: Ints, timestamps_ms: Ints) -> Ints:
    """For each message the latest timestamp of its partition up to it. A time out of all bounds counts as the nearer bound."""
    order = np.argsort(partitions, kind="stable")
    rank = np.cumsum(np.diff(partitions[order], prepend=partitions[order[:1]]) != 0)  # a partition's number, from 0
    times = np.clip(timestamps_ms[order], 0, LATEST // 1_000)
    latest = np.empty(len(order), dtype=np.int64)
    latest[order] = np.maximum.accumulate(times + (rank << _TIME_BITS)) & ((1 << _TIME_BITS) - 1)
    return latest


@dataclass(frozen=True, slots=True)
class EndOfPartition:
    """Everything before ``offset`` was read or holds no record (transaction markers, compaction)."""

    source: TopicPartition
    offset: int


@dataclass(frozen=True, slots=True)
class Gap:
    """The offsets [``from_offset``, ``to_offset``) are lost to retention, and the policy is to go on."""

    source: TopicPartition
    from_offset: int
    to_offset: int


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """The thread that reads has ended with ``error``; nothing comes after it."""

    error: BaseException


ReadEvent: TypeAlias = Chunk | EndOfPartition | Gap | ReadFailed


@dataclass(frozen=True, slots=True)
class Reject:
    """A message that becomes no row, with its bytes unchanged."""

    source: TopicPartition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """One chunk after decode: every message is in ``rows`` or in ``rejects``."""

    chunk: Chunk
    rows: pl.DataFrame
    rejects: list[Reject]


@dataclass(slots=True)
class Progress:
    """How far a batch moves one partition's row of the ledger. Only the gatherer changes it, until the batch is closed.

    ``logged``: the latest record timestamp of all its messages so far, in µs.
    """

    expected: int
    next_offset: int
    logged: int = 0
    messages: int = 0
    dead: int = 0
    skipped: int = 0
    missing: int = 0


@dataclass(slots=True)
class Batch:
    """A closed micro-batch: rows by side, rejects, and the offsets that they come from.

    ``events``: its first and last event time, in µs; ``hours``: valid messages by hour of event time since 1970.
    """

    rows: dict[Side, pl.DataFrame]
    raw: list[Chunk]
    rejects: list[Reject]
    gaps: list[Gap]
    progress: dict[TopicPartition, Progress]
    messages: int
    opened_at: float
    newest_ms: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    oldest_ms: int | None = None
    events: tuple[int, int] | None = None
    hours: Counter[int] = field(default_factory=Counter[int])
