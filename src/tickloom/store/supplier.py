"""Fetches what an ``Engine`` needs from Postgres."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, assert_never

from tickloom.core.arrays import Bools, Ints
from tickloom.core.engine import Expiry, NewestRows, RowsAround, Stored
from tickloom.core.partitioning import FarLimit
from tickloom.store import ledger
from tickloom.store.history import History
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection

Run: TypeAlias = Callable[[Callable[[Connection], Awaitable[Any]]], Awaitable[Any]]
"""Runs work on a connection, and may wait out outages."""


class Supplier:
    """Reads committed rows, and keeps the partitions that rows need. One task uses it at a time."""

    def __init__(
        self, run: Run, history: History, partitioner: Partitioner, made: Callable[[int], None] = lambda _: None
    ) -> None:
        """``made`` gets the number of partitions that were made."""
        self._run = run
        self._history = history
        self._partitioner = partitioner
        self._made = made

    async def fetch(self, need: NewestRows | RowsAround | Expiry) -> Any:
        """The answer to ``need``, as ``Engine.supply`` takes it. Raises ``StateSpoilt``, ``Mistake``, and what ``run`` raises."""
        match need:
            case NewestRows(symbols, most):
                return await self._run(partial(self._history.newest, symbols=symbols, most=most))
            case RowsAround(symbols, points, since):
                repairs = await self._run(ledger.repairs)
                around = await self._run(partial(self._history.around, symbols=symbols, points=points, since=since))
                return Stored(around, repairs)
            case Expiry(table, micros):
                return await self.expired(table, micros)
            case _:
                assert_never(need)

    async def expired(self, table: str, micros: Ints, far: FarLimit | None = None) -> Bools:
        """Which of these times have lost their partition. The others have one from now on, unless ``far`` forbids it."""

        async def ensure(connection: Connection) -> Bools:
            self._made(await self._partitioner.ensure_kept(connection, table, micros, far))
            return self._partitioner.expired(table, micros)

        return await self._run(ensure)
