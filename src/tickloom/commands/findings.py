"""The checks of ``tickloom check``; each gives one finding."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tickloom.errors import TickloomError
from tickloom.settings import Settings, ignored
from tickloom.source.clients import check_options
from tickloom.source.cluster import Cluster, ask_group, check_cleanup, describe_cluster, peek_keys
from tickloom.store import ledger, schema, source_claim
from tickloom.store.check import check_schema, check_widths
from tickloom.store.locks import judge_locks, lock_table
from tickloom.store.pooler import refuse_poolers
from tickloom.store.postgres import connected
from tickloom.store.rights import rehearse, rehearse_partitions

_CLOCK_LIMIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``check``."""

    what: str
    good: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def find_all(settings: Settings) -> list[Finding]:
    """Run every check. A failed check does not hide the next one, unless that depends on it. Raises no ``TickloomError``."""
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
        findings.append(await _find("cleanup", lambda: loop.run_in_executor(None, check_cleanup, settings)))
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


async def _find(what: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(what, True, await check())
    except TickloomError as error:
        return Finding(what, False, str(error))


def _settings(settings: Settings) -> Finding:
    """The settings could be read; they may still have unknown names, or properties that librdkafka refuses."""
    faults = ignored(os.environ)
    try:
        check_options(settings)
    except TickloomError as error:
        faults.append(str(error))
    return Finding("settings", not faults, ". ".join(faults) or "read")


def _replicas(cluster: Cluster) -> Finding:
    counts = set(cluster.partitions.values())
    if len(counts) == 1:
        return Finding("partitions", True, f"up to {counts.pop()} replicas can share the topics if messages have keys")
    return Finding(
        "partitions",
        True,
        "the counts differ, so only one replica can run; give both topics the same count to run more",
    )


async def _database(settings: Settings) -> str:
    """Report the server's version, the database, the role, and the source of the address."""
    source = settings.database_source
    try:
        async with connected(settings) as connection:
            version = await connection.fetchval("SHOW server_version")
            database = await connection.fetchval("SELECT current_database()")
            role = await connection.fetchval("SELECT current_user")
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                raise TickloomError("this is a read-only standby; use the address of the primary")
    except TickloomError as error:
        named = source in str(error)
        raise TickloomError(str(error) if named else f"{error}; the address comes from {source}") from error
    return f"PostgreSQL {version}, database {database} as {role}; the address comes from {source}"


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
    return f"{len(expected)} partitions; nothing is stored beyond their offsets"


async def _source(settings: Settings, cluster: Cluster) -> str:
    """Check that the tables were made from these topics; before the first load, no topics are noted."""
    async with connected(settings) as connection:
        noted = await connection.fetchrow("SELECT * FROM tickloom.source")
    if noted is None:
        return "nothing is loaded yet"
    source_claim.compare(noted, settings, cluster.cluster_id, cluster.topic_ids)
    return "the tables were made from these topics, by this group"


async def _locks(settings: Settings) -> str:
    async with connected(settings) as connection:
        locks = await lock_table(connection)
        partitioner = schema.partitioner(settings)
        counts = {table: len((await partitioner.layout(connection, table)).names) for table in partitioner.widths}
    return judge_locks(locks, counts, partitioner.widths)


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
