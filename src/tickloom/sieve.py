"""Finds the messages whose rows Postgres refuses, when it has refused a batch: by trying parts of it, which are undone.

A part is joined as if it were a batch of its own, on tails that are read anew, and written in a transaction that ends
with a ROLLBACK. What is refused is tried by halves, until each offender is alone. Where all parts are accepted and the
whole is not (two rows that contradict each other), the offender is the last row of the shortest beginning that is refused.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import polars as pl

from tickloom.errors import DataRefused, TooManyRejects
from tickloom.history import History
from tickloom.model import ANALYTICS, Batch, Reason, Reject, Side
from tickloom.partitions import Partitioner
from tickloom.postgres import Connection
from tickloom.stages.decode import reject
from tickloom.stages.gather import RejectLimits
from tickloom.stages.join import Joined, begin, finish, symbols_of
from tickloom.stages.load import Encoded, Loader, Work, prepare, without_expired
from tickloom.tails import Tails

Rows: TypeAlias = Mapping[Side, pl.DataFrame]
Offload: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


class Sieve:
    """For one batch. ``offload`` runs CPU work off the event loop; ``batch`` must have kept its raw messages."""

    def __init__(
        self,
        batch: Batch,
        loader: Loader,
        history: History,
        partitioner: Partitioner,
        new_tails: Callable[[], Tails],
        limits: RejectLimits,
        offload: Offload,
    ) -> None:
        self._batch = batch
        self._loader = loader
        self._history = history
        self._partitioner = partitioner
        self._new_tails = new_tails
        self._limits = limits
        self._offload = offload
        self._refused: list[Reject] = []

    async def sift(self, connection: Connection, now_micros: int) -> Work:
        """The batch with what Postgres refuses among its rejects, and the rest joined.

        Raises ``TooManyRejects`` when it refuses most of a large batch: then the tables are not ours. Raises
        ``StoreUnavailable``, ``Mistake``.
        """
        batch = self._batch
        self._refused.clear()
        rows: Rows = batch.rows
        while True:
            encoded = await self._encode(connection, rows, now_micros)
            detail = await self._objection(connection, encoded)
            if detail is None:
                break
            before = len(self._refused)
            await self._find(connection, rows, detail, now_micros)
            if len(self._refused) == before:
                await self._find_contradiction(connection, rows, now_micros)
            rows = self._without_refused(rows)
        progress = {at: replace(step) for at, step in batch.progress.items()}
        for letter in self._refused:
            progress[letter.source].dead += 1
        sifted = replace(batch, rows={}, raw=[], rejects=[*batch.rejects, *self._refused], progress=progress)
        return Work(sifted, encoded)

    async def _find(self, connection: Connection, rows: Rows, detail: str, now_micros: int) -> None:
        """Note who of ``rows``, which are refused with these words, is refused even alone."""
        count = _count(rows)
        if count == 1:
            self._note(rows, detail)
            return
        for half in (_slice(rows, 0, count // 2), _slice(rows, count // 2, count)):
            found = await self._objection(connection, await self._encode(connection, half, now_micros))
            if found is not None:
                await self._find(connection, half, found, now_micros)

    async def _find_contradiction(self, connection: Connection, rows: Rows, now_micros: int) -> None:
        """Note the last row of the shortest beginning of ``rows`` that is refused."""
        good, bad, detail = 0, _count(rows), ""
        while bad - good > 1:
            middle = (good + bad) // 2
            encoded = await self._encode(connection, _slice(rows, 0, middle), now_micros)
            found = await self._objection(connection, encoded)
            if found is None:
                good = middle
            else:
                bad, detail = middle, found
        self._note(_slice(rows, bad - 1, bad), detail or "refused beside other rows")

    async def _objection(self, connection: Connection, encoded: Encoded) -> str | None:
        """Postgres's words where it refuses these rows, None where it takes them."""
        try:
            await self._loader.attempt(connection, encoded)
        except DataRefused as error:
            return str(error)
        return None

    async def _encode(self, connection: Connection, rows: Rows, now_micros: int) -> Encoded:
        some = Batch(dict(rows), [], [], [], {}, 0, 0.0)
        symbols = symbols_of(some)
        names = symbols.to_list()
        tails = self._new_tails()
        tails.insert(names, await self._history.newest(connection, names, tails.reserve(len(names))))
        begun = begin(some, symbols, tails, 1)
        around = await self._history.around(connection, names, begun.deep, begun.since) if begun.needs_tables else None

        joined: Joined = await self._offload(lambda: finish(begun, tails, around))
        met = joined.met["ts"].to_numpy()
        await self._partitioner.ensure_kept(connection, ANALYTICS.name, met)
        joined = without_expired(joined, self._partitioner.expired(ANALYTICS.name, met))
        encoded: Encoded = await self._offload(lambda: prepare(joined, now_micros, self._partitioner.widths))
        await self._partitioner.ensure_for(connection, encoded.needed)
        return encoded

    def _note(self, rows: Rows, detail: str) -> None:
        side = next(side for side in Side if len(rows[side]))
        partition, offset = rows[side].select("partition", "offset").row(0)
        self._refused.append(_letter(self._batch, side, partition, offset, detail))
        messages, limits = self._batch.messages, self._limits
        if len(self._refused) > max(limits.ratio * messages, limits.min_messages):
            raise TooManyRejects(
                f"Postgres refused {len(self._refused)} of {messages} messages, the last: {detail}; "
                f"see what was added to the tables (a constraint, a column, a trigger)"
            )

    def _without_refused(self, rows: Rows) -> Rows:
        kept: dict[Side, pl.DataFrame] = {}
        for side in Side:
            gone = [
                (letter.source.partition, letter.offset)
                for letter, of in zip(self._refused, self._sides, strict=True)
                if of is side
            ]
            schema = {"partition": pl.Int32, "offset": pl.Int64}
            kept[side] = rows[side].join(pl.DataFrame(gone, schema, orient="row"), on=list(schema), how="anti")
        return kept

    @property
    def _sides(self) -> list[Side]:
        side_of = {chunk.topic: chunk.side for chunk in self._batch.raw}
        return [side_of[letter.source.topic] for letter in self._refused]


def _count(rows: Rows) -> int:
    return sum(len(frame) for frame in rows.values())


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    """Some rows, counted over both sides, prices first."""
    prices = len(rows[Side.PRICES])
    return {
        Side.PRICES: rows[Side.PRICES][min(start, prices) : min(stop, prices)],
        Side.VOLUMES: rows[Side.VOLUMES][max(start - prices, 0) : max(stop - prices, 0)],
    }


def _letter(batch: Batch, side: Side, partition: int, offset: int, detail: str) -> Reject:
    for chunk in batch.raw:
        if chunk.side is side:
            for index, at in enumerate(zip(chunk.partitions.tolist(), chunk.offsets.tolist(), strict=True)):
                if at == (partition, offset):
                    return reject(chunk, index, Reason.REFUSED, detail)
    raise LookupError(f"no raw message for {side} partition {partition} offset {offset}: raw messages were not kept")
