"""load: one Postgres transaction: offset ledger, rows (binary COPY), dead letters.

The ledger's compare-and-set is the first statement (see ``ledger``). New keys go straight into the partitioned tables by
COPY: ``join`` has proved that they are new. Rows that replace or revise others go through temporary staging tables, one
UPDATE per run of neighbouring partitions: a statement locks every partition that it may look into, so each is limited to the
range of the rows that it writes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tickloom.core.encode import Counts, Encoded, Work
from tickloom.core.model import ANALYTICS, Reason, Side, TopicPartition
from tickloom.core.streams import STREAMS, Stream
from tickloom.core.timestamps import moment
from tickloom.errors import DataRefused, Fenced, RowsVanished
from tickloom.store import dead_letters, derived
from tickloom.store.ledger import already_done, compare_and_set, refuse_repaired
from tickloom.store.postgres import LOOKUPS_ONLY, Connection, sql
from tickloom.store.statements import staging_table, update

KEPT_OUT = "kept out by a trigger of"
_INTRODUCE = sql("introduce")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The outcome of a transaction: how many messages it stored or superseded, and the rejects by reason."""

    stored: int
    superseded: int
    collapsed: int
    rejects: Counter[Reason]


class Loader:
    """Writes batches, one at a time, over one connection at a time."""

    def __init__(
        self, topics: Mapping[Side, str], epochs: Mapping[TopicPartition, int], copy_seconds: float = 300
    ) -> None:
        """``epochs``: those of the take-over. ``copy_seconds``: the time limit of one COPY."""
        self._topics = topics
        self._epochs = epochs
        self._copy_seconds = copy_seconds

    async def load(self, connection: Connection, work: Work, now: datetime) -> Loaded:
        """Write a batch in one transaction. Its partitions must exist, and ``stage`` must have run on the connection.

        Raises ``Fenced``; ``RowsVanished``; ``DataRefused`` (nothing of the batch is stored); ``StoreUnavailable`` (try the same
        again: it recognises a commit whose answer was lost); ``StateSpoilt`` if a repair has changed rows that the batch read;
        ``Mistake``.
        """
        batch, encoded = work.batch, work.encoded
        assert encoded is not None, "the careful writer must join it first"
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
                await dead_letters.note(connection, batch, now, self._copy_seconds)
                await self._write(connection, encoded)
                await derived.write(connection, encoded.derived, self._copy_seconds)
        return Loaded(
            stored=sum(count.stored for count in counts.values()),
            superseded=sum(count.superseded for count in counts.values()),
            collapsed=encoded.collapsed,
            rejects=Counter(letter.reason for letter in batch.rejects),
        )

    async def _write(self, connection: Connection, encoded: Encoded) -> None:
        for name, copy in encoded.copies.items():
            stream = STREAMS[name]
            place = ("pg_temp" if stream.staged else None, name)
            copied = await connection.copy_in(place, stream.names, copy, self._copy_seconds)
            if copied < encoded.rows[name]:
                raise DataRefused(f"{encoded.rows[name] - copied} rows were {KEPT_OUT} {name}")
        staged = [STREAMS[name] for name in encoded.updates]
        if staged:
            await connection.execute(LOOKUPS_ONLY)
        for stream in staged:
            await self._update(connection, stream, encoded)

    async def _update(self, connection: Connection, stream: Stream, encoded: Encoded) -> None:
        found, statement = 0, update(stream)
        for run in encoded.updates[stream.name]:
            status = await connection.execute(statement, moment(run.start), moment(run.stop))
            found += int(status.rpartition(" ")[2])
        # A joined row may have gone with its partition, but the raw rows, from which it follows, still exist.
        if found < encoded.rows[stream.name] and stream.table != ANALYTICS:
            raise RowsVanished(
                f"{encoded.rows[stream.name] - found} existing rows of {stream.table.name} could not be changed: their "
                f"partition was dropped or detached, or somebody has deleted them"
            )

    def _by_source(self, encoded: Encoded) -> dict[TopicPartition, Counts]:
        return {
            TopicPartition(self._topics[side], partition): count for (side, partition), count in encoded.counts.items()
        }


async def stage(connection: Connection) -> None:
    """Make the connection's staging tables. Raises ``StoreUnavailable``, ``Mistake``."""
    for stream in STREAMS.values():
        if stream.staged:
            await connection.execute(staging_table(stream, stream.name))
    await derived.stage(connection)


async def _introduce(connection: Connection, symbols: Sequence[str], since: Sequence[int]) -> None:
    """Note the symbols that get their first rows, or rows older than all before. A failed batch may leave such notes."""
    if symbols:
        await connection.execute(_INTRODUCE, symbols, [moment(micros) for micros in since])
