"""load: one Postgres transaction: offset ledger, rows (binary COPY), dead letters.

The ledger's compare-and-set is the first statement (see ``ledger``). New keys go straight into the partitioned
tables by COPY: ``join`` has proved that they are new. What replaces or revises rows goes through temporary staging
tables, and is written by one statement for each run of neighbouring partitions: a statement locks all that it may
look into, so none looks further than the rows that it writes.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.copy_binary import SymbolBytes, encode
from tickloom.core.join import Joined
from tickloom.core.model import ANALYTICS, FEEDS, TABLES, Batch, Reason, Reject, Side, TopicPartition
from tickloom.core.timestamps import EARLIEST, LATEST, moment
from tickloom.errors import DataRefused, Fenced, RowsVanished
from tickloom.settings import Partitioning
from tickloom.store.ledger import Counts, already_done, compare_and_set, refuse_repaired
from tickloom.store.partitions import Range, ranges_of, runs_of
from tickloom.store.postgres import LOOKUPS_ONLY, Connection, sql
from tickloom.store.targets import TARGETS, Target

_DEAD_LETTER_COLUMNS = (
    *("topic", "partition", "offset", "key", "value", "headers"),
    *("record_timestamp", "reason", "detail", "rejected_at"),
)
KEPT_OUT = "kept out by a trigger of"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A joined batch as COPY streams, ready to send. By name of ``TARGETS``, where there are rows for one:

    ``copies``: the bytes; ``rows``: how many; ``updates``: of a staged one the runs of partitions in which its keys lie.
    ``needed``: output table to the event times whose partitions must exist; ``touched``: output table to the ranges of
    all its rows; ``counts``: by side and partition; ``collapsed``: superseded rows of another value.
    ``older``: symbols that have no row as old as the batch's, ordered, and the ts of that, in µs.
    """

    copies: Mapping[str, bytearray]
    rows: Mapping[str, int]
    updates: Mapping[str, Sequence[Range]]
    needed: Mapping[str, NDArray[np.int64]]
    touched: Mapping[str, Sequence[Range]]
    counts: Mapping[tuple[Side, int], Counts]
    collapsed: int
    older: tuple[list[str], list[int]]


@dataclass(frozen=True, slots=True)
class Work:
    """A joined batch on its way into the tables; ``encoded`` is None where it must be sifted first (see ``sieve``).

    ``averages_read``: whether it holds averages from the tables, as they were after ``repairs`` repairs.
    """

    batch: Batch
    encoded: Encoded | None
    averages_read: bool = False
    repairs: int | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a transaction did, for the metrics: rows by table and kind."""

    stored: int
    superseded: int
    collapsed: int
    rejects: Counter[Reason]


def prepare(joined: Joined, now_micros: int, widths: Mapping[str, Partitioning]) -> Encoded:
    """Encode a joined batch; ``now_micros`` becomes ``processed_at``; ``widths`` are the tables'. Pure, CPU only."""
    symbols = SymbolBytes.of(joined.symbols)
    frames = frames_of(joined, now_micros)
    updates: dict[str, list[Range]] = {}
    touched: dict[str, set[Range]] = {table.name: set() for table in TABLES}
    for name, frame in frames.items():
        target = TARGETS[name]
        ranges = ranges_of(frame["ts"].to_numpy(), widths[target.table.name])
        touched[target.table.name].update(ranges)
        if target.staged:
            updates[name] = runs_of(ranges)
    return Encoded(
        copies={name: encode(frame, symbols) for name, frame in frames.items()},
        rows={name: len(frame) for name, frame in frames.items()},
        updates=updates,
        needed={name: frame["ts"].to_numpy() for name, frame in frames.items() if not TARGETS[name].staged},
        touched={table: sorted(ranges) for table, ranges in touched.items()},
        counts={
            (side, partition): Counts(rows.stored.get(partition, 0), rows.superseded.get(partition, 0))
            for side, rows in joined.sides.items()
            for partition in rows.stored.keys() | rows.superseded.keys()
        },
        collapsed=sum(rows.collapsed for rows in joined.sides.values()),
        older=(joined.symbols.gather(joined.older["code"]).to_list(), joined.older["ts"].to_list()),
    )


def without_expired(joined: Joined, expired: NDArray[np.bool_]) -> Joined:
    """Without those of the joined rows that are new (``met``) which have lost their partition."""
    return replace(joined, met=joined.met.filter(~expired)) if expired.any() else joined


def frames_of(joined: Joined, now_micros: int) -> dict[str, pl.DataFrame]:
    """The rows of each target (see ``TARGETS``) that has any, with its columns in order: code, ts and the rest."""
    frames = {
        ANALYTICS.name: _stamped(joined.met, now_micros),
        "remet": _stamped(joined.remet, now_micros),
    }
    for side, rows in joined.sides.items():
        table = FEEDS[side].table
        columns = [_FRAME_COLUMN.get(name, name) for name in table.names]
        frames[table.name] = rows.new[columns]
        frames[f"corrected_{side}"] = rows.corrected[columns]
        frames[f"revised_{side}"] = rows.revised
    return {name: frames[name] for name in TARGETS if len(frames[name])}


def _stamped(met: pl.DataFrame, now_micros: int) -> pl.DataFrame:
    return met.hstack([pl.Series("processed_at", np.full(len(met), now_micros))])


class Loader:
    """Writes batches over one connection at a time; ``epochs`` are those of its take-over."""

    def __init__(
        self,
        topics: Mapping[Side, str],
        epochs: Mapping[TopicPartition, int],
        copy_seconds: float = 300,
    ) -> None:
        """``copy_seconds``: the limit of one COPY."""
        self._copy_seconds = copy_seconds
        self._topics = topics
        self._epochs = epochs

    async def load(self, connection: Connection, work: Work, now: datetime) -> Loaded:
        """Write a batch in one transaction. Partitions must exist, and ``stage`` must have run on the connection.

        Raises ``Fenced``; ``RowsVanished``; ``DataRefused`` (nothing is left of it); ``StoreUnavailable`` (try the same again:
        a commit whose answer was lost is noticed); ``StateSpoilt`` where a repair has come between; ``Mistake``.
        """
        batch, encoded = work.batch, work.encoded
        assert encoded is not None, "it must be sifted first"
        counts = self._by_source(encoded)
        await _introduce(connection, *encoded.older)
        async with connection.transaction():
            try:
                await compare_and_set(connection, batch.progress, self._epochs, counts)
            except Fenced:
                if not await already_done(connection, batch.progress, self._epochs):
                    raise
            else:
                if work.averages_read:
                    await refuse_repaired(connection, work.repairs)
                await _note(connection, batch, now, self._copy_seconds)
                await self._write(connection, encoded)
        return Loaded(
            stored=sum(count.stored for count in counts.values()),
            superseded=sum(count.superseded for count in counts.values()),
            collapsed=encoded.collapsed,
            rejects=Counter(letter.reason for letter in batch.rejects),
        )

    async def _write(self, connection: Connection, encoded: Encoded) -> None:
        for name, stream in encoded.copies.items():
            target = TARGETS[name]
            place = ("pg_temp" if target.staged else None, name)
            copied = await copy(connection, target, place, stream, self._copy_seconds)
            if copied < encoded.rows[name]:
                raise DataRefused(f"{encoded.rows[name] - copied} rows were {KEPT_OUT} {name}")
        staged = [TARGETS[name] for name in encoded.updates]
        if staged:
            await connection.execute(LOOKUPS_ONLY)
        for target in staged:
            found = 0
            for run in encoded.updates[target.name]:
                status = await connection.execute(target.update, moment(run.start), moment(run.stop))
                found += int(status.rpartition(" ")[2])
            # A joined row may be gone with its partition: the raw ones, which tell what it was, are not.
            if found < encoded.rows[target.name] and target.table != ANALYTICS:
                raise RowsVanished(
                    f"{encoded.rows[target.name] - found} rows of {target.table.name} that were there could not be changed: "
                    f"their partition was dropped or detached, or somebody has deleted them"
                )

    def _by_source(self, encoded: Encoded) -> dict[TopicPartition, Counts]:
        return {
            TopicPartition(self._topics[side], partition): count for (side, partition), count in encoded.counts.items()
        }


async def _introduce(connection: Connection, symbols: Sequence[str], since: Sequence[int]) -> None:
    """Note the symbols that have rows from now on, or older ones than they had. A batch that fails may leave that behind."""
    if symbols:
        await connection.execute(_INTRODUCE, symbols, [moment(micros) for micros in since])


async def stage(connection: Connection) -> None:
    """Make the connection's staging tables. Raises ``StoreUnavailable``, ``Mistake``."""
    for target in TARGETS.values():
        if target.staged:
            await connection.execute(target.definition(target.name))


async def copy(
    connection: Connection, target: Target, place: tuple[str | None, str], stream: bytearray, seconds: float
) -> int:
    """Send a target's rows, within ``seconds``, into the table at ``place`` (schema, name); how many it has taken."""
    return await connection.copy_in(place, target.names, stream, seconds)


async def _note(connection: Connection, batch: Batch, now: datetime, copy_seconds: float) -> None:
    """Dead letters and gaps of a batch."""
    if batch.rejects:
        records = [_dead_letter(letter, now) for letter in batch.rejects]
        await connection.copy_records_in(("tickloom", "dead_letters"), _DEAD_LETTER_COLUMNS, records, copy_seconds)
    for gap in batch.gaps:
        await connection.execute(
            "INSERT INTO tickloom.gaps (topic, partition, from_offset, to_offset, noticed_at, policy) "
            "VALUES ($1, $2, $3, $4, $5, 'continue')",
            *(gap.source.topic, gap.source.partition, gap.from_offset, gap.to_offset, now),
        )


def _dead_letter(letter: Reject, now: datetime) -> tuple[object, ...]:
    return (
        letter.source.topic,
        letter.source.partition,
        letter.offset,
        letter.key,
        letter.value,
        json.dumps([_header(name, value) for name, value in letter.headers]),
        _record_time(letter.timestamp_ms),
        letter.reason.value,
        letter.detail.encode(errors="replace").decode().replace("\x00", "\\0"),
        now,
    )


def _header(name: str, value: bytes | None) -> dict[str, str | None]:
    encoded = None if value is None else base64.b64encode(value).decode()
    return {"name": name.replace("\x00", "\\0"), "base64": encoded}


def _record_time(timestamp_ms: int) -> datetime | None:
    if timestamp_ms == -1 or not EARLIEST <= timestamp_ms * 1_000 < LATEST:  # none given, or beyond ``datetime``
        return None
    return moment(timestamp_ms * 1_000)


_FRAME_COLUMN = {
    "symbol": "code",
    "timestamp": "ts",
    **{feed.value: "value" for feed in FEEDS.values()},
    **{feed.average: "average" for feed in FEEDS.values()},
    "source_partition": "partition",
    "source_offset": "offset",
    "source_timestamp": "logged",
}
"""By column of a raw table what it is called in the frames of ``join``, where that is something else."""
_INTRODUCE = sql("introduce")
