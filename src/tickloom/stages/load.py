"""load: one Postgres transaction: offset ledger, rows (binary COPY), dead letters.

The ledger's compare-and-set is the first statement (see ``ledger``). New keys go straight into the partitioned
tables by COPY: the tails have proved that they are new. What replaces or revises rows goes through temporary
staging tables; what the tails could not answer is computed by set-based SQL, last, when all raw rows are there.
"""

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.copy_binary import POSTGRES_EPOCH_MICROSECONDS, SymbolBytes, encode
from tickloom.errors import DataRefused, Fenced, NotCopartitioned, TooManyRejects
from tickloom.ledger import Counts, add_counts, already_done, compare_and_set, torn_symbol
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
from tickloom.postgres import Connection, savepoint, send, sql, told, transaction
from tickloom.stages.decode import reject
from tickloom.stages.gather import RejectLimits
from tickloom.stages.join import Joined, join_by_sql, symbols_of
from tickloom.timestamps import EARLIEST, LATEST

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COPY_BLOCK_BYTES = 1 << 20
_TAIL_ROW = np.dtype(
    [("columns", ">i2")]
    + [
        field
        for name, wire in (("code", ">i4"), ("ts", ">i8"), ("value", ">f8"), ("partition", ">i4"), ("offset", ">i8"))
        for field in ((f"{name} length", ">i4"), (name, wire))
    ]
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A joined batch as COPY streams, ready to send.

    ``copies``: target table to bytes; ``needed``: output table to the event times whose partitions must exist;
    ``counts``: by side and partition, apart from late rows, whose counts only SQL can tell.
    ``newcomers``: symbols that may be new to a side, ordered: symbol, prices_partition, volumes_partition (null where a
    side is not here), first (neither side may have it).
    """

    copies: Mapping[str, bytearray]
    needed: Mapping[str, NDArray[np.int64]]
    counts: Mapping[tuple[Side, int], Counts]
    newcomers: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Work:
    """A joined batch on its way into the tables; only ``load_carefully`` asks for the batch's rows."""

    batch: Batch
    encoded: Encoded


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a transaction did, for the metrics: rows by table and kind."""

    stored: int
    superseded: int
    rejects: Counter[Reason]


def prepare(joined: Joined, now_micros: int) -> Encoded:
    """Encode a joined batch; ``now_micros`` becomes ``processed_at``. Pure, CPU only."""
    symbols = SymbolBytes.of(joined.symbols)
    frames: dict[str, pl.DataFrame] = {}
    needed: dict[str, list[pl.Series]] = {ANALYTICS.name: [joined.met["ts"], joined.unanswered["ts"]]}
    for side, rows in joined.sides.items():
        table, columns = RAW_TABLE[side].name, _table_order(side)
        unknown = rows.unknown.hstack([pl.Series("average", [None] * len(rows.unknown), pl.Float64)])
        frames[table] = rows.new[columns]
        frames[f"pg_temp.corrected_{side}"] = rows.corrected[columns]
        frames[f"pg_temp.revised_{side}"] = rows.revised
        frames[f"pg_temp.late_{side}"] = unknown[columns]
        frames[f"pg_temp.seeds_{side}"] = rows.seeds
        needed[table] = [rows.new["ts"], rows.unknown["ts"]]
        needed[ANALYTICS.name].append(rows.seeds["ts"])
    frames[ANALYTICS.name] = _stamped(joined.met, now_micros)
    frames["pg_temp.remet"] = _stamped(joined.remet, now_micros)
    frames["pg_temp.keys"] = joined.unanswered
    return Encoded(
        copies={target: encode(frame, symbols) for target, frame in frames.items() if len(frame)},
        needed={table: pl.concat(times).to_numpy() for table, times in needed.items()},
        counts={
            (side, partition): Counts(rows.stored.get(partition, 0), rows.superseded.get(partition, 0))
            for side, rows in joined.sides.items()
            for partition in rows.stored.keys() | rows.superseded.keys()
        },
        newcomers=_newcomers(joined),
    )


def _newcomers(joined: Joined) -> pl.DataFrame:
    prices, volumes = (joined.sides[side].newcomers.rename({"partition": f"{side}_partition"}) for side in Side)
    both = prices.join(volumes, on=["code", "first"], how="full", coalesce=True).sort("code")
    symbol = joined.symbols.gather(both["code"]).alias("symbol")
    return both.select(symbol, "prices_partition", "volumes_partition", "first")


def _table_order(side: Side) -> list[str]:
    return ["code", "ts", "value", *OPTIONAL_COLUMNS[side], "average", "partition", "offset"]


def _stamped(met: pl.DataFrame, now_micros: int) -> pl.DataFrame:
    return met.hstack([pl.Series("processed_at", np.full(len(met), now_micros))])


class Loader:
    """Writes batches over one connection at a time; ``epochs`` are those of its take-over."""

    def __init__(
        self,
        topics: Mapping[Side, str],
        epochs: Mapping[TopicPartition, int],
        window_rows: int,
        limits: RejectLimits,
        copy_seconds: float = 300,
        owns_everything: bool = True,
    ) -> None:
        """``copy_seconds``: the limit of one COPY. Who owns not everything may not see both halves of a symbol."""
        self._copy_seconds = copy_seconds
        self._owns_everything = owns_everything
        self._topics = topics
        self._epochs = epochs
        self._window = window_rows
        self._limits = limits

    async def load(self, connection: Connection, work: Work, now: datetime) -> Loaded:
        """Write a batch in one transaction. Partitions must exist, and ``stage`` must have run on the connection.

        Raises ``Fenced``; ``DataRefused`` (nothing is left of it; go on with ``load_carefully``);
        ``StoreUnavailable`` (try the same again: a commit whose answer was lost is noticed); ``NotCopartitioned``, where
        this replica has but one half of a symbol; ``Mistake``.
        """
        batch, counts = work.batch, self._by_source(work.encoded)
        with told():
            await self._introduce(connection, work.encoded.newcomers)
            async with transaction(connection):
                try:
                    await compare_and_set(connection, batch.progress, self._epochs, counts)
                except Fenced:
                    if await already_done(connection, batch.progress, self._epochs):
                        return _loaded(counts, batch.rejects)
                    raise
                await _note(connection, batch, batch.rejects, now, self._copy_seconds)
                late = await self._write(connection, work.encoded, now)
                if late:
                    await add_counts(connection, late)
        return _loaded(_sum(counts, late), batch.rejects)

    async def load_carefully(self, connection: Connection, batch: Batch, now: datetime) -> Loaded:
        """As ``load``, by SQL alone, bisecting under savepoints: what Postgres refuses becomes a dead letter.

        Raises ``TooManyRejects`` when it refuses most of a large batch: then the tables are not ours.
        """
        refused: list[Reject] = []
        with told():
            async with transaction(connection):
                try:
                    await compare_and_set(connection, batch.progress, self._epochs, {})
                except Fenced:
                    if await already_done(connection, batch.progress, self._epochs):
                        return _loaded({}, batch.rejects)
                    raise
                counts = await self._bisect(connection, batch, batch.rows, refused, now)
                if len(refused) > max(self._limits.ratio * batch.messages, self._limits.min_messages):
                    raise TooManyRejects(
                        f"Postgres refused {len(refused)} of {batch.messages} messages, the last: {refused[-1].detail}; "
                        f"see what was added to the tables (a constraint, a column, a trigger)"
                    )
                await _note(connection, batch, [*batch.rejects, *refused], now, self._copy_seconds)
                await add_counts(connection, counts)
                await _add_dead(connection, refused)
        return _loaded(counts, [*batch.rejects, *refused])

    async def _bisect(
        self,
        connection: Connection,
        batch: Batch,
        rows: Mapping[Side, pl.DataFrame],
        refused: list[Reject],
        now: datetime,
    ) -> dict[TopicPartition, Counts]:
        some = Batch(dict(rows), [], [], [], {}, 0, 0.0)
        encoded = prepare(join_by_sql(some, symbols_of(some)), _micros(now))
        try:
            with told():
                async with savepoint(connection):
                    await self._introduce(connection, encoded.newcomers)
                    late = await self._write(connection, encoded, now)
                    await connection.execute(_EMPTY_STAGING)
                    return _sum(self._by_source(encoded), late)
        except DataRefused as error:
            halves = _halves(rows)
            if halves is None:
                refused.append(_refused(batch, rows, str(error)))
                return {}
        first = await self._bisect(connection, batch, halves[0], refused, now)
        return _sum(first, await self._bisect(connection, batch, halves[1], refused, now))

    async def _write(self, connection: Connection, encoded: Encoded, now: datetime) -> dict[TopicPartition, Counts]:
        """All rows of a batch; returns the counts of its late rows, which only SQL can tell."""
        copies = encoded.copies
        for target, stream in copies.items():
            schema, _, name = target.rpartition(".")
            copying = connection.copy_to_table(
                name, schema_name=schema or None, columns=_COLUMNS.get(target), source=_blocks(stream), format="binary"
            )
            await send(connection, copying, self._copy_seconds)
        if all(not target.startswith("pg_temp.") for target in copies):
            return {}
        # The staging tables have no statistics: one lookup a row is always right, and what the planner must take.
        await connection.execute(_LOOKUPS_ONLY)
        counts: dict[TopicPartition, Counts] = {}
        for side in Side:
            for kind in ("corrected", "revised"):
                if f"pg_temp.{kind}_{side}" in copies:
                    await connection.execute(_STATEMENTS[kind][side])
            if f"pg_temp.late_{side}" in copies:
                counts |= await self._write_late(connection, side)
        if "pg_temp.remet" in copies:
            await connection.execute(_REMEET)
        seeded = [side for side in Side if f"pg_temp.seeds_{side}" in copies]
        for side in seeded:
            await connection.execute(_STATEMENTS["recompute"][side], self._window)
        if seeded or "pg_temp.keys" in copies:
            await connection.execute(_MEET, now)
        return counts

    async def _introduce(self, connection: Connection, newcomers: pl.DataFrame) -> None:
        """Note the symbols that have rows from now on. A replica claims its halves of them, and looks whether somebody has
        claimed the other half of one.

        Before the transaction of the rows, for the claim must stay when that fails; but where values are refused each
        by itself, under their savepoint.
        """
        symbol, prices, volumes, first = newcomers.get_columns()
        if self._owns_everything:
            symbol, prices, volumes = symbol.filter(first), None, None
        if len(symbol):
            columns = [None if column is None else column.to_list() for column in (symbol, prices, volumes)]
            await connection.execute(_INTRODUCE, *columns)
        if not self._owns_everything and (torn := await torn_symbol(connection)) is not None:
            raise NotCopartitioned.torn(torn)

    async def _write_late(self, connection: Connection, side: Side) -> dict[TopicPartition, Counts]:
        totals = await connection.fetch(
            f"SELECT source_partition, count(*) AS total FROM pg_temp.late_{side} GROUP BY source_partition"
        )
        new = await connection.fetch(_STATEMENTS["count_new"][side])
        stored = {row["source_partition"]: row["stored"] for row in new}
        await connection.execute(_STATEMENTS["upsert_late"][side])
        counts: dict[TopicPartition, Counts] = {}
        for row in totals:
            partition, fresh = row["source_partition"], stored.get(row["source_partition"], 0)
            counts[TopicPartition(self._topics[side], partition)] = Counts(fresh, row["total"] - fresh)
        return counts

    def _by_source(self, encoded: Encoded) -> dict[TopicPartition, Counts]:
        return {
            TopicPartition(self._topics[side], partition): count for (side, partition), count in encoded.counts.items()
        }


async def stage(connection: Connection) -> None:
    """Make the connection's staging tables. Raises ``StoreUnavailable``, ``Mistake``."""
    with told():
        for side in Side:
            await connection.execute(_for_side("staging", side))


async def load_tails(connection: Connection, symbols: Sequence[str], rows: int) -> dict[Side, pl.DataFrame]:
    """The newest ``rows`` rows of each symbol, per side: code (index into ``symbols``), ts, value, partition, offset.

    Sees committed rows only. Raises ``StoreUnavailable``, ``Mistake``.
    """
    with told():
        async with transaction(connection, readonly=True):
            await connection.execute(_LOOKUPS_ONLY)
            known = [row["code"] for row in await connection.fetch(_KNOWN, list(symbols))]
            return {side: await _load_tail(connection, side, symbols, known, rows) for side in Side}


async def _load_tail(
    connection: Connection, side: Side, symbols: Sequence[str], known: Sequence[int], rows: int
) -> pl.DataFrame:
    parts: list[bytes] = []

    async def collect(data: bytes) -> None:
        parts.append(data)

    if known:
        wanted = [symbols[code] for code in known]
        await connection.copy_from_query(_for_side("tails", side), wanted, known, rows, output=collect, format="binary")
    found = np.frombuffer(b"".join(parts)[19:-2], dtype=_TAIL_ROW)
    return pl.DataFrame(
        {
            "code": found["code"].astype(np.uint32),
            "ts": found["ts"].astype(np.int64) + POSTGRES_EPOCH_MICROSECONDS,
            "value": found["value"].astype(np.float64),
            "partition": found["partition"].astype(np.int32),
            "offset": found["offset"].astype(np.int64),
        }
    )


async def _blocks(stream: bytearray) -> AsyncIterator[memoryview]:
    view = memoryview(stream)
    for start in range(0, len(view), _COPY_BLOCK_BYTES):
        yield view[start : start + _COPY_BLOCK_BYTES]


async def _note(
    connection: Connection, batch: Batch, rejects: Sequence[Reject], now: datetime, copy_seconds: float
) -> None:
    """Dead letters and gaps of a batch."""
    if rejects:
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
            records=[_dead_letter(letter, now) for letter in rejects],
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
        _moment(letter.timestamp_ms),
        letter.reason.value,
        letter.detail.encode(errors="replace").decode().replace("\x00", "\\0"),
        now,
    )


def _header(name: str, value: bytes | None) -> dict[str, str | None]:
    encoded = None if value is None else base64.b64encode(value).decode()
    return {"name": name.replace("\x00", "\\0"), "base64": encoded}


def _moment(timestamp_ms: int) -> datetime | None:
    if timestamp_ms == -1 or not EARLIEST <= timestamp_ms * 1_000 < LATEST:  # none given, or beyond ``datetime``
        return None
    return _EPOCH + timedelta(milliseconds=timestamp_ms)


def _micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


async def _add_dead(connection: Connection, refused: Sequence[Reject]) -> None:
    dead = Counter(letter.source for letter in refused)
    await connection.executemany(
        "UPDATE tickloom.offsets SET dead = dead + $1 WHERE topic = $2 AND partition = $3",
        [(count, source.topic, source.partition) for source, count in dead.items()],
    )


def _halves(rows: Mapping[Side, pl.DataFrame]) -> tuple[dict[Side, pl.DataFrame], dict[Side, pl.DataFrame]] | None:
    """The rows cut in two; None where there is but one."""
    count = sum(len(frame) for frame in rows.values())
    if count <= 1:
        return None
    middle = {Side.PRICES: min(count // 2, len(rows[Side.PRICES]))}
    middle[Side.VOLUMES] = count // 2 - middle[Side.PRICES]
    return (
        {side: frame[: middle[side]] for side, frame in rows.items()},
        {side: frame[middle[side] :] for side, frame in rows.items()},
    )


def _refused(batch: Batch, rows: Mapping[Side, pl.DataFrame], detail: str) -> Reject:
    side = next(side for side in Side if len(rows[side]))
    partition, offset = rows[side].row(0, named=True)["partition"], rows[side].row(0, named=True)["offset"]
    for chunk in batch.raw:
        if chunk.side is side:
            for index, at in enumerate(zip(chunk.partitions.tolist(), chunk.offsets.tolist(), strict=True)):
                if at == (partition, offset):
                    return reject(chunk, index, Reason.REFUSED, detail)
    raise LookupError(f"no raw message for {side} partition {partition} offset {offset}: raw messages were not kept")


def _sum(
    first: Mapping[TopicPartition, Counts], second: Mapping[TopicPartition, Counts]
) -> dict[TopicPartition, Counts]:
    nothing = Counts()
    return {
        source: Counts(
            first.get(source, nothing).stored + second.get(source, nothing).stored,
            first.get(source, nothing).superseded + second.get(source, nothing).superseded,
        )
        for source in first.keys() | second.keys()
    }


def _loaded(counts: Mapping[TopicPartition, Counts], rejects: Sequence[Reject]) -> Loaded:
    return Loaded(
        stored=sum(count.stored for count in counts.values()),
        superseded=sum(count.superseded for count in counts.values()),
        rejects=Counter(letter.reason for letter in rejects),
    )


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


_STATEMENTS = {
    name: {side: _for_side(file, side) for side in Side}
    for name, file in (
        ("corrected", "correct"),
        ("revised", "revise"),
        ("count_new", "count_new"),
        ("upsert_late", "upsert_late"),
        ("recompute", "recompute"),
    )
}
_COLUMNS = {table.name: table.names for table in TABLES}
_KNOWN = (
    "SELECT (s.number - 1)::int AS code FROM unnest($1::text[]) WITH ORDINALITY AS s (symbol, number) "
    "JOIN tickloom.symbols USING (symbol) ORDER BY s.number"
)
_MEET, _REMEET, _INTRODUCE = sql("meet"), sql("remeet"), sql("introduce")
_LOOKUPS_ONLY = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
_STAGING = [f"{kind}_{side}" for kind in ("late", "corrected", "revised", "seeds") for side in Side]
_EMPTY_STAGING = "; ".join(f"DELETE FROM pg_temp.{name}" for name in (*_STAGING, "remet", "keys"))
