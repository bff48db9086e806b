"""The one home of offsets: when one is done, and who may say so.

An offset is done when the transaction that holds its row (or dead letter) has moved ``tickloom.offsets`` past it.

1. *Take over*: a new owner raises the epoch of its partitions. Whoever held them before can commit no more. It
   waits for a transaction of theirs that is in flight, but not for one whose owner sleeps or whose network is dead:
   past ``PATIENCE_SECONDS`` the session that holds the row is ended, which rolls its batch back.
2. *Compare and set, first*: each batch's transaction begins by moving its rows ``WHERE epoch = mine AND
   next_offset = expected``. Fewer rows than partitions: fenced, roll back.
3. A COMMIT whose answer was lost is told from a fence by ``already_done``: the ledger then stands, under our own
   epoch, exactly where the batch leads.

Kafka's committed offsets are a courtesy to lag monitors; nothing here reads them.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tickloom.core.encode import Counts
from tickloom.core.model import TABLES, Progress, TopicPartition
from tickloom.core.timestamps import micros_of, moment
from tickloom.errors import Fenced, LedgerLost, LockHeld, StateSpoilt
from tickloom.logs import Logger
from tickloom.store.postgres import Connection, sql

PATIENCE_SECONDS = 2.0
"""A replica hands its partitions over only when nothing of its own is in flight: whoever still holds a row then is not
healthy, or was given up."""

_TAKE_OVER = sql("take_over")
_COMPARE_AND_SET = sql("compare_and_set")
_END_SESSIONS = sql("end_sessions")
_BEYOND_LEDGER = sql("beyond_ledger")
_FROM_THE_START = (
    "put them back (a backup has them), or read the topics again from their start: TRUNCATE tickloom.offsets, "
    f"tickloom.dead_letters, tickloom.gaps, tickloom.symbols, {', '.join(table.name for table in TABLES)}"
)
_END_SLEEPERS = sql("end_sleepers")
_REPAIRS = "SELECT repairs FROM tickloom.source"
_log = Logger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a take-over gave: from which offset to go on, under which epoch; ``logged``: the latest record timestamp before
    it, in µs.
    """

    next_offset: int
    epoch: int
    logged: int = 0


@asynccontextmanager
async def taking_over(
    connection: Connection, sources: Sequence[TopicPartition], lock: str | None = None
) -> AsyncGenerator[Any]:
    """A transaction to ``claim`` some of ``sources`` in; ``lock`` is a query that locks one row before, which is given.

    Raises ``StoreUnavailable`` (``LockHeld`` once the holder was told to end: try again), ``Mistake``.
    """
    locked = False
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {round(PATIENCE_SECONDS * 1_000)}")
            row = None if lock is None else await connection.fetchrow(lock)
            locked = True
            yield row
    except LockHeld:
        if locked:
            await _end_owners(connection, sources)
        else:
            await _end_sleepers(connection)
        raise


async def refuse_beyond(connection: Connection, expected: Mapping[TopicPartition, int]) -> None:
    """Raise ``LedgerLost`` where there are dead letters or gaps of offsets from the ``expected`` ones on.

    They come with the ledger's step past them, so somebody has deleted its rows, or set them back: what is read again would
    meet them for ever. Raises ``StoreUnavailable``.
    """
    if not expected:
        return
    columns = [
        list(column) for column in zip(*((at.topic, at.partition, n) for at, n in expected.items()), strict=True)
    ]
    row = await connection.fetchrow(_BEYOND_LEDGER, *columns)
    if row is not None:
        at = TopicPartition(row["topic"], row["partition"])
        raise LedgerLost(
            f"{row['table']} holds offset {row['offset']} of {at.topic} partition {at.partition}, and tickloom.offsets "
            f"has not come further than {expected[at]}: its rows were deleted or set back by hand; {_FROM_THE_START}"
        )


async def claim(
    connection: Connection, first_offsets: Mapping[TopicPartition, int], owner: str
) -> dict[TopicPartition, Claim]:
    """Become the owner of the partitions, within ``taking_over``; new ones begin at ``first_offsets``. Waits for a transaction
    in flight. Raises ``LedgerLost``: see ``refuse_beyond``.
    """
    sources = sorted(first_offsets)
    rows = await connection.fetch(
        _TAKE_OVER,
        [source.topic for source in sources],
        [source.partition for source in sources],
        [first_offsets[source] for source in sources],
        owner,
    )
    claims = {
        TopicPartition(row["topic"], row["partition"]): Claim(
            row["next_offset"], row["epoch"], micros_of(row["newest_timestamp"]) if row["newest_timestamp"] else 0
        )
        for row in rows
    }
    await refuse_beyond(connection, {at: claimed.next_offset for at, claimed in claims.items()})
    return claims


async def take_over(
    connection: Connection, first_offsets: Mapping[TopicPartition, int], owner: str
) -> dict[TopicPartition, Claim]:
    """``claim`` in a transaction of its own. Raises as ``taking_over``."""
    async with taking_over(connection, list(first_offsets)):
        return await claim(connection, first_offsets, owner)


def session_name(owner: str) -> str:
    """The application_name of the sessions in which ``owner`` writes the ledger (Postgres cuts names at 63 bytes)."""
    return f"tickloom {owner[-48:]}"


async def _end_owners(connection: Connection, sources: Sequence[TopicPartition]) -> None:
    """End the sessions of who is noted as the owner of these."""
    owners = await connection.fetch(
        "SELECT DISTINCT owner FROM tickloom.offsets JOIN unnest($1::text[], $2::int[]) AS w (topic, partition) "
        "USING (topic, partition)",
        [source.topic for source in sources],
        [source.partition for source in sources],
    )
    await end_sessions(connection, [row["owner"] for row in owners])


async def _end_sleepers(connection: Connection) -> None:
    """End the sessions of replicas that fell asleep in the midst of a take-over."""
    ended = await connection.fetchval(_END_SLEEPERS, PATIENCE_SECONDS)
    if ended:
        _log.warning("ended database sessions that slept in a take-over", sessions=ended)


async def end_sessions(connection: Connection, owners: Sequence[str]) -> None:
    """End all other sessions in which these owners write the ledger: they sleep, or their network is dead.

    Raises ``StoreUnavailable``, ``Mistake``.
    """
    async with connection.transaction():
        # As the role that has logged in: sessions belong to it, whatever role it is SET to.
        await connection.execute("SET LOCAL ROLE NONE")
        ended = await connection.fetchval(_END_SESSIONS, [session_name(owner) for owner in owners])
    if ended:
        _log.warning("ended database sessions that did not move any more", owners=owners, sessions=ended)


async def compare_and_set(
    connection: Connection,
    progress: Mapping[TopicPartition, Progress],
    epochs: Mapping[TopicPartition, int],
    counts: Mapping[TopicPartition, Counts],
) -> None:
    """Move the ledger, as the first statement of the batch's transaction. Raises ``Fenced``."""
    rows: list[tuple[Any, ...]] = []
    for source in sorted(progress):
        step, count = progress[source], counts.get(source, Counts())
        ledger = (source.topic, source.partition, epochs[source], step.expected, step.next_offset, moment(step.logged))
        rows.append((*ledger, count.stored, count.superseded, step.dead, step.skipped, step.missing))
    status = await connection.execute(_COMPARE_AND_SET, *([list(column) for column in zip(*rows, strict=True)]))
    if int(status.rpartition(" ")[2]) != len(rows):
        raise Fenced("another replica has taken over; this batch was not written and the group is joined anew")


async def already_done(
    connection: Connection, progress: Mapping[TopicPartition, Progress], epochs: Mapping[TopicPartition, int]
) -> bool:
    """Whether this very batch was committed though its answer was lost. Raises ``StoreUnavailable``."""
    found = await _rows(connection, list(progress))
    return all(found.get(source) == (step.next_offset, epochs[source]) for source, step in progress.items())


async def repairs(connection: Connection) -> int | None:
    """How many repairs the tables have seen, as ``refuse_repaired`` wants it. Raises ``StoreUnavailable``."""
    return await connection.fetchval(_REPAIRS)


async def refuse_repaired(connection: Connection, seen: int | None) -> None:
    """Raise ``StateSpoilt`` where a repair has committed since ``seen``: averages that were read then may be wrong.

    After ``compare_and_set``, which waits for a repair under way, and which the next one waits for.
    """
    if await connection.fetchval(_REPAIRS) != seen:
        raise StateSpoilt("a repair has changed rows that this batch had read")


async def all_positions(connection: Connection) -> dict[TopicPartition, int]:
    """The next offset of each partition that the ledger, or a dead letter, knows: 0 for the latter's. Raises
    ``StoreUnavailable``.
    """
    rows = await connection.fetch(
        "SELECT topic, partition, max(next_offset) AS next_offset FROM (SELECT topic, partition, next_offset "
        "FROM tickloom.offsets UNION ALL SELECT DISTINCT topic, partition, 0 FROM tickloom.dead_letters) known "
        "GROUP BY topic, partition"
    )
    return {TopicPartition(row["topic"], row["partition"]): row["next_offset"] for row in rows}


async def positions(connection: Connection, sources: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """The next offset of each partition that the ledger knows. Raises ``StoreUnavailable``."""
    return {source: next_offset for source, (next_offset, _) in (await _rows(connection, sources)).items()}


async def _rows(connection: Connection, sources: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    rows = await connection.fetch(
        "SELECT topic, partition, next_offset, epoch FROM tickloom.offsets WHERE (topic, partition) IN "
        "(SELECT * FROM unnest($1::text[], $2::int[]))",
        [source.topic for source in sources],
        [source.partition for source in sources],
    )
    return {TopicPartition(row["topic"], row["partition"]): (row["next_offset"], row["epoch"]) for row in rows}
