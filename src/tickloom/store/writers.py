"""How a session writes its batches: ``FastWriter``, or, after Postgres has refused a row, ``careful.CarefulWriter``."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from tickloom.core.encode import Work
from tickloom.core.model import Batch
from tickloom.core.quality import RefusalWatch
from tickloom.errors import DataRefused, RowsRefused, TickloomError
from tickloom.store.loader import Loaded, Loader
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection


class Writer(Protocol):
    """Writes one batch at a time."""

    async def write(self, connection: Connection, work: Work, now: datetime) -> tuple[Batch, Loaded]:
        """Commit a batch. Returns it with all its dead letters. Raises as ``Loader.load``; may be called again after an outage."""
        ...

    def refusal(self, error: DataRefused) -> TickloomError:
        """The error to raise after ``write`` has raised ``error``."""
        ...

    def check_still_needed(self, loaded: Loaded) -> None:
        """After a commit: raise ``StateSpoilt`` if batches need no longer be written in this way."""
        ...


class FastWriter:
    """Writes what the engine has joined; a refused row ends the session."""

    def __init__(
        self, loader: Loader, partitioner: Partitioner, watch: RefusalWatch, made: Callable[[int], None]
    ) -> None:
        """``watch`` counts the rows that Postgres takes; ``made`` gets the number of partitions that were made."""
        self._loader = loader
        self._partitioner = partitioner
        self._watch = watch
        self._made = made

    async def write(self, connection: Connection, work: Work, now: datetime) -> tuple[Batch, Loaded]:
        assert work.encoded is not None
        # They existed when the engine asked about them, but somebody may have dropped one since.
        self._made(await self._partitioner.ensure_for(connection, work.encoded.needed))
        loaded = await self._loader.load(connection, work, now)
        self._watch.note(work.encoded.rows, {})
        return work.batch, loaded

    def refusal(self, error: DataRefused) -> TickloomError:
        return RowsRefused(str(error))

    def check_still_needed(self, loaded: Loaded) -> None:
        pass
