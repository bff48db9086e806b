"""Loads a batch of which Postgres refuses rows: the messages of these rows become dead letters, and all others are stored.

``trial`` finds the refused rows. A message caused each refusal: the row's own message, or, if Postgres refuses another row's
average or a joined row, the message that changed it. The writer joins the batch again without these messages, on tails that it
reads again from the tables, and loads it, until Postgres takes it.

*Which messages are rejected at once.* Postgres will always refuse a row that it refuses with any averages. Where only an
average is refused, another message of the batch may be its cause. Of these, only messages without a refused row among the W-1
rows before them are rejected; the next attempt decides about the others.

*Whether the table is at fault.* If Postgres refuses nearly all rows, the data is not the reason: see ``quality.RefusalWatch``.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

import polars as pl

from tickloom.core.decode import reject
from tickloom.core.encode import Encoded, Work, frames_of
from tickloom.core.engine import Engine
from tickloom.core.join import Joined
from tickloom.core.model import ANALYTICS, FEEDS, Batch, Reason, Reject, Side, Table
from tickloom.core.quality import RefusalWatch, Verdict
from tickloom.core.streams import STREAMS
from tickloom.core.timestamps import micros_of
from tickloom.errors import DataRefused, SchemaMismatch, StateSpoilt, TickloomError, TooManyRejects, TooWide, Undecided
from tickloom.store.history import History
from tickloom.store.inspection import quoted
from tickloom.store.loader import Loaded, Loader
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection
from tickloom.store.supplier import Supplier
from tickloom.store.trial import Refusal, refusals

Offload: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
Source: TypeAlias = tuple[Side, int, int]
"""Side, partition and offset of a message."""


@dataclass(frozen=True, slots=True)
class CarefulWriter:
    """A ``writers.Writer`` for batches that were not joined and have kept their messages.

    ``offload`` runs CPU work off the loop. ``budget``: partitions that a transaction may touch. ``patience_seconds``: how long
    the session waits for more messages if too few were refused to tell whether they or the table are at fault. ``patient``:
    whether it may still wait.
    """

    loader: Loader
    new_engine: Callable[[], Engine]
    history: History
    partitioner: Partitioner
    watch: RefusalWatch
    offload: Offload
    window_rows: int
    budget: int
    copy_seconds: float
    patience_seconds: float
    patient: bool

    async def write(self, connection: Connection, work: Work, now: datetime) -> tuple[Batch, Loaded]:
        """The batch committed, with the messages of refused rows among its dead letters.

        Raises as ``Loader.load``; ``DataRefused`` if no row is the reason; ``TooManyRejects`` if the table is at fault;
        ``Undecided`` if it may be, and more rows would show it; ``TooWide``.
        """
        return await _Sifting(work.batch, self).load(connection, now)

    def refusal(self, error: DataRefused) -> TickloomError:
        return SchemaMismatch(
            f"{error}; remove the constraint or trigger that was added to a table of the schema tickloom"
        )

    def check_still_needed(self, loaded: Loaded) -> None:
        if self.patience_seconds or not loaded.rejects[Reason.REFUSED]:
            raise StateSpoilt("the messages that Postgres refused are dead letters")


class _Sifting:
    """Loads one batch."""

    def __init__(self, batch: Batch, writer: CarefulWriter) -> None:
        self._batch = batch
        self._writer = writer
        self._rows: Mapping[Side, pl.DataFrame] = batch.rows
        self._refused: list[Reject] = []
        self._seen: tuple[Mapping[str, int], Mapping[str, int]] | None = (
            None  # rows tried and refused, in the first attempt
        )

    async def load(self, connection: Connection, now: datetime) -> tuple[Batch, Loaded]:
        """As ``CarefulWriter.write``."""
        writer = self._writer
        while True:
            joined, work, encoded = await self._join(connection, micros_of(now))
            if writer.partitioner.count(encoded.touched) > writer.budget and self._batch.messages > 1:
                raise TooWide(self._batch.messages)
            batch = self._without_refused()
            try:
                loaded = await writer.loader.load(connection, replace(work, batch=batch), now)
            except DataRefused:
                found = await refusals(connection, encoded, writer.copy_seconds)
                if not found:
                    raise
                self._judge(encoded, found)
                self._blame(joined, found)
            else:
                writer.watch.note(*(self._seen or (encoded.rows, {})))
                return batch, loaded

    async def _join(self, connection: Connection, now_micros: int) -> tuple[Joined, Work, Encoded]:
        """The rest of the batch, joined by itself, with its partitions made."""
        writer, engine = self._writer, self._writer.new_engine()
        some = replace(self._batch, rows=dict(self._rows))
        supplier = Supplier(lambda work: work(connection), writer.history, writer.partitioner)
        while (need := await writer.offload(lambda: engine.needs(some))) is not None:
            engine.supply(need, await supplier.fetch(need))
        joined = engine.joined(some)
        work: Work = await writer.offload(lambda: engine.work(some, now_micros))
        assert work.encoded is not None
        await writer.partitioner.ensure_for(connection, work.encoded.needed)
        return joined, work, work.encoded

    def _judge(self, encoded: Encoded, found: Sequence[Refusal]) -> None:
        """Raise if the table is at fault, or may be. Nothing of the batch is stored yet."""
        if self._seen is not None:
            return
        refused, tried = Counter(one.target for one in found), encoded.rows
        verdicts = {target: self._writer.watch.judge(target, tried[target], refused[target]) for target in refused}
        for target, verdict in verdicts.items():
            if verdict is Verdict.TABLE:
                table, last = STREAMS[target].table.name, [one for one in found if one.target == target][-1]
                raise TooManyRejects(
                    f"Postgres refused {refused[target]} of {tried[target]} rows of {table}, the last: {last.message}. That is too "
                    f"many for the data to be the reason; nothing of the batch was stored. {_fix(table, last)}; "
                    f"or set TICKLOOM_REJECT_LIMIT_RATIO=1 to make dead letters of any share"
                )
        if self._writer.patient and Verdict.UNCLEAR in verdicts.values():
            raise Undecided(
                f"Postgres refused nearly all of too few rows to tell whether they or the table are at fault: {found[-1].message}"
            )
        self._seen = tried, refused

    def _blame(self, joined: Joined, found: Sequence[Refusal]) -> None:
        """Make dead letters of the messages that certainly caused a refusal; of at least one."""
        written = _Written(joined)
        frames = frames_of(joined, 0)
        blamed: dict[Source, Refusal] = {}
        doubted: dict[Source, Refusal] = {}
        for one in found:  # those of the raw tables first
            code, ts = frames[one.target].row(one.index)[:2]
            table = STREAMS[one.target].table
            if table == ANALYTICS and any(half in blamed or half in doubted for half in written.halves(code, ts)):
                continue  # without that message there may be no joined row
            source = written.source_of(table, code, ts)
            (blamed if one.own else doubted).setdefault(source, one)
        if not blamed:
            blamed = {source: doubted[source] for source in written.roots(doubted, self._writer.window_rows)}
        self._refused += _letters(self._batch, {source: one.message for source, one in blamed.items()})
        schema = {"partition": pl.Int32, "offset": pl.Int64}
        gone = {side: [source[1:] for source in blamed if source[0] is side] for side in Side}
        self._rows = {
            side: self._rows[side].join(pl.DataFrame(gone[side], schema, orient="row"), on=list(schema), how="anti")
            for side in Side
        }

    def _without_refused(self) -> Batch:
        """The batch to load, with its dead letters."""
        progress = {at: replace(step) for at, step in self._batch.progress.items()}
        for letter in self._refused:
            progress[letter.source].dead += 1
        return replace(self._batch, rows={}, raw=[], rejects=[*self._batch.rejects, *self._refused], progress=progress)


class _Written:
    """The message that each row of a batch comes from."""

    def __init__(self, joined: Joined) -> None:
        self._times: dict[tuple[Side, int], list[int]] = {}  # by side and code, in order
        self._sources: dict[tuple[Side, int, int], Source] = {}
        self._keys: dict[Source, tuple[int, int]] = {}
        for side, rows in joined.sides.items():
            columns = ["code", "ts", "partition", "offset"]
            both = pl.concat([rows.new[columns], rows.corrected[columns]]).sort("code", "ts")
            for code, ts, partition, offset in both.iter_rows():
                source = (side, partition, offset)
                self._times.setdefault((side, code), []).append(ts)
                self._sources[side, code, ts] = source
                self._keys[source] = (code, ts)

    def halves(self, code: int, ts: int) -> list[Source]:
        """The messages of a key."""
        found = (self._sources.get((side, code, ts)) for side in Side)
        return [source for source in found if source is not None]

    def source_of(self, table: Table, code: int, ts: int) -> Source:
        """The message that caused a row of a table: the batch's message with its key, the volume before the price. If there is
        none, the newest message before the row, which changed its average.
        """
        sides = [side for side in Side if FEEDS[side].table == table] or [Side.VOLUMES, Side.PRICES]
        for side in sides:
            if (source := self._sources.get((side, code, ts))) is not None:
                return source
        time, side = max((self._before(side, code, ts), side) for side in sides)
        return self._sources[side, code, time]

    def roots(self, doubted: Mapping[Source, Refusal], window: int) -> Iterator[Source]:
        """The messages whose average no other one of these can have changed: none is among the ``window``-1 rows before."""
        last: dict[tuple[Side, int], int] = {}
        for source in sorted(doubted, key=lambda source: self._keys[source]):
            code, ts = self._keys[source]
            places = {side: bisect_right(self._times.get((side, code), ()), ts) for side in Side}
            if all(places[side] - last.get((side, code), -window) >= window for side in Side):
                yield source
            last[source[0], code] = places[source[0]]

    def _before(self, side: Side, code: int, ts: int) -> int:
        times = self._times.get((side, code), [])
        place = bisect_right(times, ts)
        return times[place - 1] if place else -(1 << 63)


def _letters(batch: Batch, details: Mapping[Source, str]) -> Iterator[Reject]:
    """The dead letters of these messages, with Postgres's messages."""
    for chunk in batch.raw:
        for index, (partition, offset) in enumerate(
            zip(chunk.partitions.tolist(), chunk.offsets.tolist(), strict=True)
        ):
            if (detail := details.get((chunk.side, partition, offset))) is not None:
                yield reject(chunk, index, Reason.REFUSED, detail)


def _fix(table: str, refusal: Refusal) -> str:
    alter, constraint = f"ALTER TABLE {table}", quoted(refusal.constraint)
    match refusal.state:
        case "23514" | "23503" if refusal.constraint:
            return f"{alter} DROP CONSTRAINT {constraint}"
        case "23505" | "23P01" if refusal.constraint:
            return f"drop the index or constraint that {constraint} belongs to"
        case "23502" if refusal.column:
            column = quoted(refusal.column)
            return f"{alter} ALTER COLUMN {column} DROP NOT NULL, or {alter} ALTER COLUMN {column} SET DEFAULT …"
        case _:
            return f"check its triggers and generated columns; {alter} DISABLE TRIGGER … turns one off"
