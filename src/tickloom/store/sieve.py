"""Loads a batch of which Postgres refuses rows: who is refused becomes a dead letter, and all others are stored.

``trial`` names the rows that are refused. Each comes of a message: its own row; or, where another row's average or the
joined row is refused, the message that brought that about. Without the messages that are to blame the rest is joined
anew, on tails that are read anew, and loaded; until Postgres takes it.

*Whom to blame at once.* A row that is refused whatever its averages are will be so in any company. Where only its average
is the reason, that may be another one's fault: of these only those go that have no refused row among the W-1 before them,
and the next turn tells of the others.

*Whether it is the table's fault.* What refuses nearly all rows is no judge of data: see ``gather.RefusalWatch``.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

import polars as pl

from tickloom.core.decode import reject
from tickloom.core.gather import RefusalWatch, Verdict
from tickloom.core.join import Joined, begin, finish, symbols_of
from tickloom.core.model import ANALYTICS, FEEDS, Batch, Reason, Reject, Side, Table
from tickloom.core.tails import Tails
from tickloom.core.timestamps import micros_of
from tickloom.errors import DataRefused, TooManyRejects, TooWide, Undecided
from tickloom.store import ledger
from tickloom.store.history import History
from tickloom.store.inspection import quoted
from tickloom.store.loader import Encoded, Loaded, Loader, Work, frames_of, prepare, without_expired
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection
from tickloom.store.targets import TARGETS
from tickloom.store.trial import Refusal, refusals

Offload: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
Source: TypeAlias = tuple[Side, int, int]
"""Side, partition and offset of a message."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a sieve works with. ``budget``: partitions that a transaction may touch; ``offload`` runs CPU work off the loop.

    ``patient``: whether more messages may be waited for, where too few were refused to tell whose fault it is.
    """

    loader: Loader
    history: History
    partitioner: Partitioner
    new_tails: Callable[[], Tails]
    watch: RefusalWatch
    offload: Offload
    window_rows: int
    budget: int
    copy_seconds: float
    patient: bool


class Sieve:
    """For one batch, which must have kept its raw messages."""

    def __init__(self, batch: Batch, means: Means) -> None:
        self._batch = batch
        self._means = means
        self._rows: Mapping[Side, pl.DataFrame] = batch.rows
        self._refused: list[Reject] = []
        self._seen: tuple[Mapping[str, int], Mapping[str, int]] | None = None  # rows tried and refused, at first

    async def load(self, connection: Connection, now: datetime) -> tuple[Batch, Loaded]:
        """The batch committed, with what Postgres refuses among its rejects.

        Raises as ``Loader.load``, ``DataRefused`` where no row is to blame; ``TooManyRejects`` where the table is;
        ``Undecided`` where that cannot be told yet; ``TooWide``.
        """
        means = self._means
        while True:
            repairs = await ledger.repairs(connection)
            joined, encoded = await self._join(connection, micros_of(now))
            if means.partitioner.count(encoded.touched) > means.budget and self._batch.messages > 1:
                raise TooWide(self._batch.messages)
            batch = self._without_refused()
            try:
                loaded = await means.loader.load(connection, Work(batch, encoded, True, repairs), now)
            except DataRefused:
                found = await refusals(connection, encoded, means.copy_seconds)
                if not found:
                    raise
                self._judge(encoded, found)
                self._blame(joined, found)
            else:
                means.watch.note(*(self._seen or (encoded.rows, {})))
                return batch, loaded

    async def _join(self, connection: Connection, now_micros: int) -> tuple[Joined, Encoded]:
        """What is left of the batch, joined by itself, with its partitions made."""
        means = self._means
        some = replace(self._batch, rows=dict(self._rows))
        symbols = symbols_of(some)
        names = symbols.to_list()
        tails = means.new_tails()
        tails.insert(names, await means.history.newest(connection, names, tails.reserve(len(names))))
        begun = begin(some, symbols, tails, 1)
        around = await means.history.around(connection, names, begun.deep, begun.since) if begun.needs_tables else None

        joined: Joined = await means.offload(lambda: finish(begun, tails, around))
        met = joined.met["ts"].to_numpy()
        await means.partitioner.ensure_kept(connection, ANALYTICS.name, met)
        joined = without_expired(joined, means.partitioner.expired(ANALYTICS.name, met))
        encoded: Encoded = await means.offload(lambda: prepare(joined, now_micros, means.partitioner.widths))
        await means.partitioner.ensure_for(connection, encoded.needed)
        return joined, encoded

    def _judge(self, encoded: Encoded, found: Sequence[Refusal]) -> None:
        """Raise where it is the table's fault, or may be; nothing of the batch is there yet."""
        if self._seen is not None:
            return
        refused, tried = Counter(one.target for one in found), encoded.rows
        verdicts = {target: self._means.watch.judge(target, tried[target], refused[target]) for target in refused}
        for target, verdict in verdicts.items():
            if verdict is Verdict.TABLE:
                table, last = TARGETS[target].table.name, [one for one in found if one.target == target][-1]
                raise TooManyRejects(
                    f"Postgres refused {refused[target]} of {tried[target]} rows of {table}, the last: {last.words}. What "
                    f"refuses so many is the table, not the data, and nothing of it was stored: {_mend(table, last)}; or let "
                    f"TICKLOOM_REJECT_LIMIT_RATIO=1 make dead letters of any share"
                )
        if self._means.patient and Verdict.UNCLEAR in verdicts.values():
            raise Undecided(f"too few rows to tell whose fault it is: {found[-1].words}")
        self._seen = tried, refused

    def _blame(self, joined: Joined, found: Sequence[Refusal]) -> None:
        """Make dead letters of the messages that are surely the reason; at least one."""
        written = _Written(joined)
        frames = frames_of(joined, 0)
        blamed: dict[Source, Refusal] = {}
        doubted: dict[Source, Refusal] = {}
        for one in found:  # the raw tables' first
            code, ts = frames[one.target].row(one.index)[:2]
            table = TARGETS[one.target].table
            if table == ANALYTICS and any(half in blamed or half in doubted for half in written.halves(code, ts)):
                continue  # without that there may be no joined row
            source = written.source_of(table, code, ts)
            (blamed if one.own else doubted).setdefault(source, one)
        if not blamed:
            blamed = {source: doubted[source] for source in written.roots(doubted, self._means.window_rows)}
        self._refused += _letters(self._batch, {source: one.words for source, one in blamed.items()})
        schema = {"partition": pl.Int32, "offset": pl.Int64}
        gone = {side: [source[1:] for source in blamed if source[0] is side] for side in Side}
        self._rows = {
            side: self._rows[side].join(pl.DataFrame(gone[side], schema, orient="row"), on=list(schema), how="anti")
            for side in Side
        }

    def _without_refused(self) -> Batch:
        """The batch as it is loaded, with its dead letters."""
        progress = {at: replace(step) for at, step in self._batch.progress.items()}
        for letter in self._refused:
            progress[letter.source].dead += 1
        return replace(self._batch, rows={}, raw=[], rejects=[*self._batch.rejects, *self._refused], progress=progress)


class _Written:
    """Which message each row of a batch comes of."""

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
        """The message that a row of a table comes of: that of its key, the volume before the price; or, where the batch has
        none of it, the newest one before, by which its average has changed."""
        sides = [side for side in Side if FEEDS[side].table == table] or [Side.VOLUMES, Side.PRICES]
        for side in sides:
            if (source := self._sources.get((side, code, ts))) is not None:
                return source
        time, side = max((self._before(side, code, ts), side) for side in sides)
        return self._sources[side, code, time]

    def roots(self, doubted: Mapping[Source, Refusal], window: int) -> Iterator[Source]:
        """Those whose average no other one of them can have changed: none is among the ``window``-1 rows before."""
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


def _letters(batch: Batch, words: Mapping[Source, str]) -> Iterator[Reject]:
    """The dead letters of these messages, with Postgres's words."""
    for chunk in batch.raw:
        for index, (partition, offset) in enumerate(
            zip(chunk.partitions.tolist(), chunk.offsets.tolist(), strict=True)
        ):
            if (told_of := words.get((chunk.side, partition, offset))) is not None:
                yield reject(chunk, index, Reason.REFUSED, told_of)


def _mend(table: str, refusal: Refusal) -> str:
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
            return f"look at its triggers and generated columns; {alter} DISABLE TRIGGER … lets one rest"
