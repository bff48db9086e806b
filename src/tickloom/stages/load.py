"""load: one Postgres transaction: offset ledger, rows (binary COPY), dead letters.

The ledger's compare-and-set is the first statement (see ``ledger``). New keys go straight into the partitioned
tables by COPY: ``join`` has proved that they are new. What replaces or revises rows goes through temporary staging
tables, and is written by one statement for each run of neighbouring partitions: a statement locks all that it may
look into, so none looks further than the rows that it writes.
"""

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.copy_binary import SymbolBytes, encode
from tickloom.errors import Fenced, RowsVanished
from tickloom.ledger import Counts, already_done, compare_and_set, refuse_repaired
from tickloom.model import (
    ANALYTICS,
    AVERAGE_COLUMN,
    OPTIONAL_COLUMNS,
    RAW_TABLE,
    TABLES,
    VALUE_COLUMN,
    Batch,
    Reason,
    Reject,
    Side,
    TopicPartition,
)
from tickloom.partitions import Range, ranges_of, runs_of
from tickloom.postgres import LOOKUPS_ONLY, Connection, send, sql, told, transaction
from tickloom.settings import Partitioning
from tickloom.stages.join import Joined
from tickloom.timestamps import EARLIEST, LATEST, moment

_COPY_BLOCK_BYTES = 1 << 20
_REMET = "pg_temp.remet"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A joined batch as COPY streams, ready to send.

    ``copies``: target table to bytes; ``needed``: output table to the event times whose partitions must exist;
    ``updates``: staging table to the runs of partitions in which its rows' keys lie; ``staged``: how many rows it has;
    ``touched``: output table to the ranges of all its rows; ``counts``: by side and partition; ``collapsed``: superseded
    rows of another value. ``older``: symbols that have no row as old as the batch's, ordered, and the ts of that, in µs.
    """

    copies: Mapping[str, bytearray]
    needed: Mapping[str, NDArray[np.int64]]
    updates: Mapping[str, Sequence[Range]]
    staged: Mapping[str, int]
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
    frames: dict[str, pl.DataFrame] = {ANALYTICS.name: _stamped(joined.met, now_micros)}
    staged: dict[str, pl.DataFrame] = {_REMET: _stamped(joined.remet, now_micros)}
    for side, rows in joined.sides.items():
        columns = ["code", "ts", "value", *OPTIONAL_COLUMNS[side], "average", "partition", "offset", "logged"]
        frames[RAW_TABLE[side].name] = rows.new[columns]
        staged[f"pg_temp.corrected_{side}"] = rows.corrected[columns]
        staged[f"pg_temp.revised_{side}"] = rows.revised
    updates: dict[str, list[Range]] = {}
    touched: dict[str, set[Range]] = {table: set() for table in frames}
    for target, frame in (frames | staged).items():
        table = _UPDATED.get(target, target)
        ranges = ranges_of(frame["ts"].to_numpy(), widths[table])
        touched[table].update(ranges)
        if target in staged:
            updates[target] = runs_of(ranges)
    return Encoded(
        copies={target: encode(frame, symbols) for target, frame in (frames | staged).items() if len(frame)},
        needed={table: frame["ts"].to_numpy() for table, frame in frames.items()},
        updates=updates,
        staged={target: len(frame) for target, frame in staged.items()},
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
        with told():
            await _introduce(connection, *encoded.older)
            async with transaction(connection):
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

    async def attempt(self, connection: Connection, encoded: Encoded) -> None:
        """Write the rows as ``load`` does, and undo it. Raises ``DataRefused``, ``StoreUnavailable``, ``Mistake``."""
        with told():
            async with transaction(connection, rehearsal=True):
                await _introduce(connection, *encoded.older)
                await self._write(connection, encoded)

    async def _write(self, connection: Connection, encoded: Encoded) -> None:
        for target, stream in encoded.copies.items():
            schema, _, name = target.rpartition(".")
            copying = connection.copy_to_table(
                name, schema_name=schema or None, columns=_COLUMNS.get(target), source=_blocks(stream), format="binary"
            )
            await send(connection, copying, self._copy_seconds)
        staged = [target for target in _UPDATES if target in encoded.copies]
        if staged:
            await connection.execute(LOOKUPS_ONLY)
        for target in staged:
            found = 0
            for run in encoded.updates[target]:
                status = await connection.execute(_UPDATES[target], moment(run.start), moment(run.stop))
                found += int(status.rpartition(" ")[2])
            # A joined row may be gone with its partition: the raw ones, which tell what it was, are not.
            if found < encoded.staged[target] and target != _REMET:
                raise RowsVanished(
                    f"{encoded.staged[target] - found} rows of {_UPDATED[target]} that were there could not be changed: "
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
    with told():
        for side in Side:
            await connection.execute(_for_side("staging", side))


async def _blocks(stream: bytearray) -> AsyncIterator[memoryview]:
    view = memoryview(stream)
    for start in range(0, len(view), _COPY_BLOCK_BYTES):
        yield view[start : start + _COPY_BLOCK_BYTES]


async def _note(connection: Connection, batch: Batch, now: datetime, copy_seconds: float) -> None:
    """Dead letters and gaps of a batch."""
    if batch.rejects:
        copying = connection.copy_records_to_table(
            "dead_letters",
            schema_name="tickloom",
            columns=(
                [
                    "topic",
                    "partition",
                    "offset",
                    "key",
                    "value",
                    "headers",
                    "record_timestamp",
                    "reason",
                    "detail",
                    "rejected_at",
                ]
            ),
            records=[_dead_letter(letter, now) for letter in batch.rejects],
        )
        await send(connection, copying, copy_seconds)
    for gap in batch.gaps:
        await connection.execute(
            "INSERT INTO tickloom.gaps VALUES ($1, $2, $3, $4, $5, 'continue')",
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


def _for_side(name: str, side: Side) -> str:
    """A statement of ``sql/`` for one side; its names come from the model, never from data."""
    table = RAW_TABLE[side]
    rest = [column for column in table.names if column not in ("symbol", "timestamp")]
    return sql(name).format(
        side=side,
        table=table.name,
        value=VALUE_COLUMN[side],
        average=AVERAGE_COLUMN[side],
        columns=", ".join(f'"{column}"' for column in table.names),
        assignments=", ".join(f"{column} = excluded.{column}" for column in rest),
    )


_UPDATED = {
    _REMET: ANALYTICS.name,
    **{f"pg_temp.{kind}_{side}": RAW_TABLE[side].name for kind in ("corrected", "revised") for side in Side},
}
_UPDATES = {
    **{f"pg_temp.corrected_{side}": _for_side("correct", side) for side in Side},
    **{f"pg_temp.revised_{side}": _for_side("revise", side) for side in Side},
    _REMET: sql("remeet"),
}
_COLUMNS = {table.name: table.names for table in TABLES}
_INTRODUCE = sql("introduce")
