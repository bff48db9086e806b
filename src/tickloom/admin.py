"""What the commands beside ``run`` do: migrate and check. They connect, do one thing and end."""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tickloom.errors import TickloomError
from tickloom.settings import Partitioning, Settings, ignored
from tickloom.source.kafka import (
    Cluster,
    TopicIds,
    ask_group,
    check_options,
    describe_cluster,
    look_at_cleanup,
    peek_keys,
)
from tickloom.store import ledger, schema, source_claim
from tickloom.store.check import check_schema, check_widths
from tickloom.store.migrate import migrate as migrate_tables
from tickloom.store.partitions import LockTable, budget_of, lock_table
from tickloom.store.pooler import refuse_poolers
from tickloom.store.postgres import connected
from tickloom.store.rights import rehearse, rehearse_partitions

_CLOCK_LIMIT_SECONDS = 5.0
_LEAST_MONTHS = 1
_PARTITIONS_A_MONTH = {
    Partitioning.HOURLY: 730.5,
    Partitioning.DAILY: 30.4,
    Partitioning.MONTHLY: 1.0,
    Partitioning.NONE: 1e-9,
}


async def migrate(settings: Settings) -> list[str]:
    """Bring the tables up to date; gives what was done, a line each. Raises ``Mistake``, ``StoreUnavailable``."""
    async with connected(settings) as connection:
        done = await migrate_tables(connection, settings)
        await schema.partitioner(settings).ensure_ahead(connection, datetime.now(UTC))
    return done


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``check``."""

    what: str
    good: bool
    told: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def check(settings: Settings) -> list[Finding]:
    """Every check, each by itself: one that fails does not hide the next. Never raises a ``TickloomError``."""
    loop = asyncio.get_running_loop()
    cluster: list[Cluster] = []

    async def broker() -> str:
        cluster.append(await loop.run_in_executor(None, describe_cluster, settings))
        counts = ", ".join(f"{topic} {count}" for topic, count in cluster[0].partitions.items())
        return f"cluster {cluster[0].cluster_id}; partitions: {counts}"

    findings = [_settings(settings), await _find("broker", broker)]
    if cluster:
        findings.append(_replicas(cluster[0]))
        findings.append(await _find("group", lambda: loop.run_in_executor(None, ask_group, settings)))
        findings.append(await _find("cleanup", lambda: loop.run_in_executor(None, look_at_cleanup, settings)))
        findings.append(await _find("keys", lambda: loop.run_in_executor(None, peek_keys, settings)))
    findings.append(await _find("database", lambda: _database(settings)))
    if findings[-1].good:
        findings.append(await _find("pooler", lambda: _pooler(settings)))
        findings.append(await _find("schema", lambda: _schema(settings)))
        if cluster and findings[-1].good:
            findings.append(await _find("source", lambda: _source(settings, cluster[0])))
        findings.append(await _find("ledger", lambda: _ledger(settings)))
        findings.append(await _find("rights", lambda: _rights(settings)))
        findings.append(await _find("table partitions", lambda: _partitions(settings)))
        findings.append(await _find("locks", lambda: _locks(settings)))
        findings.append(await _find("clock", lambda: _clock(settings)))
    return findings


async def _find(what: str, look: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(what, True, await look())
    except TickloomError as error:
        return Finding(what, False, str(error))


def _settings(settings: Settings) -> Finding:
    """They could be read; what is left are names that nobody reads, and what librdkafka will not take."""
    faults = ignored(os.environ)
    try:
        check_options(settings)
    except TickloomError as error:
        faults.append(str(error))
    return Finding("settings", not faults, ". ".join(faults) or "read")


def _replicas(cluster: Cluster) -> Finding:
    counts = set(cluster.partitions.values())
    if len(counts) == 1:
        return Finding("partitions", True, f"up to {counts.pop()} replicas can share the topics, where keys allow")
    return Finding("partitions", True, "the counts differ: one replica only; give both topics the same count for more")


async def _database(settings: Settings) -> str:
    async with connected(settings) as connection:
        version = await connection.fetchval("SHOW server_version")
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            raise TickloomError("this is a read-only standby; point TICKLOOM_DATABASE_URL at the primary")
    return f"PostgreSQL {version}"


async def _schema(settings: Settings) -> str:
    async with connected(settings) as connection:
        await check_schema(connection, settings)
    return "tables, columns and partitioning are as needed"


async def _rights(settings: Settings) -> str:
    async with connected(settings) as connection:
        return await rehearse(connection, settings)


async def _partitions(settings: Settings) -> str:
    maker, now = schema.partitioner(settings), datetime.now(UTC)
    async with connected(settings) as connection:
        await check_widths(connection, maker, now)
        return await rehearse_partitions(connection, maker, now)


async def _ledger(settings: Settings) -> str:
    async with connected(settings) as connection:
        expected = await ledger.all_positions(connection)
        await ledger.refuse_beyond(connection, expected)
    return f"{len(expected)} partitions; nothing is there of offsets that they have not come to"


async def _source(settings: Settings, cluster: Cluster) -> str:
    """Whether the tables were made from these topics, or nobody has yet noted from which."""
    ids = await asyncio.get_running_loop().run_in_executor(None, TopicIds(settings).read)
    async with connected(settings) as connection:
        noted = await connection.fetchrow("SELECT * FROM tickloom.source")
    if noted is None:
        return "nothing is loaded yet"
    source_claim.refuse_other_source(noted, source_claim.source_of(settings, cluster.cluster_id))
    source_claim.refuse_other_topics(noted, settings, ids)
    source_claim.refuse_other_group(noted, settings)
    return "the tables were made from these topics, by this group"


async def _locks(settings: Settings) -> str:
    async with connected(settings) as connection:
        table_of_locks = await lock_table(connection)
        partitioner = schema.partitioner(settings)
        counts = {table: len((await partitioner.layout(connection, table)).names) for table in partitioner.widths}
    return judge_locks(table_of_locks, counts, partitioner.widths)


def judge_locks(locks: LockTable, counts: Mapping[str, int], widths: Mapping[str, Partitioning]) -> str:
    """How long queries over a whole table will still find locks enough. Pure. Raises ``TickloomError`` where not for a month.

    Our own transactions need a bounded number; whoever asks for rows without a range of time needs two for each partition.
    """
    room = locks.slots // 2
    months = {table: (room - counts[table]) / _PARTITIONS_A_MONTH[width] for table, width in widths.items()}
    table = min(months, key=months.__getitem__)
    told = (
        f"{table} has {counts[table]:,} partitions; a query over all of it takes two locks for each, of "
        f"{locks.slots:,} that the server has"
    )
    if months[table] >= _LEAST_MONTHS:
        return f"{told}: enough for {min(months[table], 1200):,.0f} months more. Tickloom itself takes at most {2 * budget_of(locks):,}"
    year = 2 * (counts[table] + 12 * _PARTITIONS_A_MONTH[widths[table]])
    raise TickloomError(
        f"{told}: {'too few by now' if months[table] < 0 else 'too few within a month'}, unless the query has a range of "
        f"time. For a year more set max_locks_per_transaction = {math.ceil(year / locks.sessions / 64) * 64} in "
        f"postgresql.conf and restart the server; or drop old partitions; or make the table anew by the day "
        f"(TICKLOOM_…_PARTITIONING=daily)"
    )


async def _pooler(settings: Settings) -> str:
    await refuse_poolers(settings)
    return "a session keeps its server"


async def _clock(settings: Settings) -> str:
    async with connected(settings) as connection:
        theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    apart = abs((theirs - datetime.now(UTC)).total_seconds())
    if apart > _CLOCK_LIMIT_SECONDS:
        raise TickloomError(f"{apart:.1f} s from the database's; run a time service on both")
    return f"{apart:.1f} s from the database's"
