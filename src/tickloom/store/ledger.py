"""The one home of offsets: when an offset is done, and which session may move it.

An offset is done when the transaction that holds its row (or dead letter) has moved ``tickloom.offsets`` past it.

1. *Take over*: a new owner raises the epoch of its partitions. From then on their old owner can commit nothing. The
   new one waits for a transaction of the old one that is in flight, but not for ever: the old one may sleep, or its
   network may be dead. After ``PATIENCE_SECONDS`` it ends the session that holds the row, which rolls back that batch.
2. *Compare and set, first*: each batch's transaction begins by moving its rows ``WHERE epoch = mine AND
   next_offset = expected``. Fewer rows than partitions: fenced, roll back.
3. ``already_done`` distinguishes a fence from a COMMIT whose answer was lost: after such a COMMIT the ledger stands, under
   our own epoch, exactly where the batch leads.

Kafka's committed offsets are a courtesy to lag monitors; nothing here reads them.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tickloom.core.encode import Counts
from tickloom.core.model import Progress, TopicPartition
from tickloom.core.timestamps import micros_of, moment
from tickloom.errors import Fenced, LedgerLost, LockHeld, StateSpoilt
from tickloom.logs import Logger
from tickloom.store.outputs import tables
from tickloom.store.postgres import Connection, sql

PATIENCE_SECONDS = 2.0
"""A replica hands its partitions over only when nothing of its own is in flight. So a replica that still
holds a row after this time is not healthy, or its group has given it up."""

_TAKE_OVER = sql("take_over")
_COMPARE_AND_SET = sql("compare_and_set")
_END_SESSIONS = sql("end_sessions")
_BEYOND_LEDGER = sql("beyond_ledger")
_END_SLEEPERS = sql("end_sleepers")
_REPAIRS = "SELECT repairs FROM tickloom.source"
_log = Logger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """The outcome of a take-over: the offset from which to go on, and the new epoch. ``logged``: the latest record timestamp before
    that offset, in µs.
    """

    next_offset: int
    epoch: int
    logged: int = 0


@asynccontextmanager
async def taking_over(
    connection: Connection, sources: Sequence[TopicPartition], lock: str | None = None
) -> AsyncGenerator[Any]:
    """A transaction in which to ``claim`` some of ``sources``. ``lock`` is a query that locks one row first; the block gets that row.

    Raises ``StoreUnavailable`` (``LockHeld`` after the holder's session was ended: try again), ``Mistake``.
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
    """Raise ``LedgerLost`` if dead letters or gaps exist from the ``expected`` offsets on.

    The ledger moves past them in the transaction that writes them, so somebody has deleted the ledger's rows, or set them
    back. Messages that are read again would collide with them for ever. Raises ``StoreUnavailable``.
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
            f"{row['table']} holds offset {row['offset']} of {at.topic} partition {at.partition}, but tickloom.offsets "
            f"stands at {expected[at]}: its rows were deleted or set back by hand; put them back (a backup has them), or "
            f"read the topics again from their start: TRUNCATE tickloom.offsets, tickloom.dead_letters, tickloom.gaps, "
            f"tickloom.symbols, {', '.join(table.name for table in tables())}"
        )


async def claim(
    connection: Connection, first_offsets: Mapping[TopicPartition, int], owner: str
) -> dict[TopicPartition, Claim]:
    """Become the owner of the partitions, within ``taking_over``; partitions that are new to the ledger begin at
    ``first_offsets``. Waits for a transaction in flight. Raises ``LedgerLost``: see ``refuse_beyond``.
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


def session_name(owner: str) -> str:
    """The application_name of the sessions in which ``owner`` writes the ledger. Postgres cuts names at 63 bytes."""
    return f"tickloom {owner[-48:]}"


async def _end_owners(connection: Connection, sources: Sequence[TopicPartition]) -> None:
    """End the sessions of the owners of these partitions."""
    owners = await connection.fetch(
        "SELECT DISTINCT owner FROM tickloom.offsets JOIN unnest($1::text[], $2::int[]) AS w (topic, partition) "
        "USING (topic, partition)",
        [source.topic for source in sources],
        [source.partition for source in sources],
    )
    await end_idle_sessions(connection, [row["owner"] for row in owners])


async def _end_sleepers(connection: Connection) -> None:
    """End the sessions of replicas that fell asleep in the middle of a take-over."""
    ended = await connection.fetchval(_END_SLEEPERS, PATIENCE_SECONDS)
    if ended:
        _log.warning("ended database sessions that slept in a take-over", sessions=ended)


async def end_sessions(connection: Connection, owners: Sequence[str]) -> int:
    """End all other sessions in which these owners write the ledger, and give their number.

    Raises ``StoreUnavailable``, ``Mistake``.
    """
    async with connection.transaction():
        # As the role that logged in: the sessions belong to it, also if SET ROLE has chosen another role.
        await connection.execute("SET LOCAL ROLE NONE")
        return await connection.fetchval(_END_SESSIONS, [session_name(owner) for owner in owners])


async def end_idle_sessions(connection: Connection, owners: Sequence[str]) -> None:
    """``end_sessions`` of owners that sleep, or whose network is dead; logs it. Raises ``StoreUnavailable``, ``Mistake``."""
    if ended := await end_sessions(connection, owners):
        _log.warning("ended database sessions that no longer moved", owners=owners, sessions=ended)


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
        raise Fenced(
            "another replica has taken over; this batch was not written, and this replica joins the group again"
        )


async def already_done(
    connection: Connection, progress: Mapping[TopicPartition, Progress], epochs: Mapping[TopicPartition, int]
) -> bool:
    """Whether this very batch was committed though its answer was lost. Raises ``StoreUnavailable``."""
    found = await _rows(connection, list(progress))
    return all(found.get(source) == (step.next_offset, epochs[source]) for source, step in progress.items())


async def repairs(connection: Connection) -> int | None:
    """The number of repairs so far, for ``refuse_repaired``. Raises ``StoreUnavailable``."""
    return await connection.fetchval(_REPAIRS)


async def refuse_repaired(connection: Connection, seen: int | None) -> None:
    """Raise ``StateSpoilt`` if a repair has committed since ``seen``, because averages that were read before it may be wrong.

    Call it after ``compare_and_set``, which waits for a running repair; the next repair then waits for this transaction.
    """
    if await connection.fetchval(_REPAIRS) != seen:
        raise StateSpoilt("a repair has changed rows that this batch had read")


async def all_positions(connection: Connection) -> dict[TopicPartition, int]:
    """The next offset of each partition in the ledger; 0 for a partition that only has dead letters. Raises
    ``StoreUnavailable``.
    """
    rows = await connection.fetch(
        "SELECT topic, partition, max(next_offset) AS next_offset FROM (SELECT topic, partition, next_offset "
        "FROM tickloom.offsets UNION ALL SELECT DISTINCT topic, partition, 0 FROM tickloom.dead_letters) known "
        "GROUP BY topic, partition"
    )
    return {TopicPartition(row["topic"], row["partition"]): row["next_offset"] for row in rows}


async def positions(connection: Connection, sources: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """The next offset of each of these partitions that is in the ledger. Raises ``StoreUnavailable``."""
    return {source: next_offset for source, (next_offset, _) in (await _rows(connection, sources)).items()}


async def _rows(connection: Connection, sources: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    rows = await connection.fetch(
        "SELECT topic, partition, next_offset, epoch FROM tickloom.offsets WHERE (topic, partition) IN "
        "(SELECT * FROM unnest($1::text[], $2::int[]))",
        [source.topic for source in sources],
        [source.partition for source in sources],
    )
    return {TopicPartition(row["topic"], row["partition"]): (row["next_offset"], row["epoch"]) for row in rows}
