"""All that the bench does with Postgres: databases of its own, history, the rows out and in by COPY, waiting for rows."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from pydantic import SecretStr

from tickloom.core.model import TABLES
from tickloom.errors import Mistake, TickloomError
from tickloom.settings import Settings
from tickloom.store import schema
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection, connected, sql
from tickloom.store.provision import provision

_BLOCK_BYTES = 1 << 20
_HISTORY_HOURS = 24
_LOOKUPS_ONLY = """
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET jit = off;
    SET plan_cache_mode = force_custom_plan
"""
"""A generic plan would know no bounds, and open every partition there is."""
_MINUTE_OF_PAIRS = timedelta(minutes=30)


class Databases:
    """Makes databases named with ``prefix`` on the server of the settings, and drops them."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._made = 0

    async def check(self) -> str:
        """The server's version. Raises ``Mistake`` where the role may not make a database, ``StoreUnavailable``."""
        async with connected(self._settings) as connection:
            may = await connection.fetchval("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
            if not may:
                role = await connection.fetchval("SELECT current_user")
                raise Mistake(
                    f"role {role} may not make databases, and the bench touches none that is there; "
                    f"ALTER ROLE {role} CREATEDB, or give a role that may in TICKLOOM_DATABASE_URL"
                )
            return str(await connection.fetchval("SHOW server_version"))

    @asynccontextmanager
    async def fresh(self, template: Settings | None = None) -> AsyncGenerator[Settings]:
        """The settings of a database of our own while inside: a copy of ``template``, or with new, empty tables.

        Making and dropping one also writes a checkpoint, so that measurements do not pay for what was before.
        """
        self._made += 1
        name = f"{self._prefix}_{self._made}"
        copied = f" TEMPLATE {database_of(template)}" if template else ""
        try:
            await self._create(name, copied)
            settings = at_database(self._settings, name)
            if template is None:
                await provision(settings)
            yield settings
        finally:
            async with connected(self._settings) as connection:
                await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _create(self, name: str, copied: str) -> None:
        async with connected(self._settings) as connection:
            if copied and await connection.fetchval("SELECT current_setting('server_version_num')::int >= 150000"):
                copied += " STRATEGY file_copy"  # else all of the history goes through the WAL
            await connection.execute(f"CREATE DATABASE {name}{copied}")


def at_database(settings: Settings, name: str) -> Settings:
    """The settings, with another database of the same server."""
    parts = urlsplit(settings.database_dsn())
    query = f"?{parts.query}" if parts.query else ""
    # not urlunsplit: it drops the slashes of postgresql:///name
    url = f"{parts.scheme}://{parts.netloc}/{name}{query}"
    return settings.model_copy(update={"database_url": SecretStr(url), "database_password": None})


def database_of(settings: Settings) -> str:
    """The database's name in the settings' URL."""
    return urlsplit(settings.database_dsn()).path.removeprefix("/")


async def fill_history(
    settings: Settings, symbols: Sequence[str], days: int, end: datetime, progress: Callable[[int], None]
) -> int:
    """One pair an hour and symbol for the ``days`` before ``end`` (a whole hour); returns the rows of all tables.

    ``progress`` hears after each day how many are done.
    """
    start = end - timedelta(days=days)
    async with connected(settings) as connection:
        await make_partitions(connection, settings, start, end - _MINUTE_OF_PAIRS)
        for day in range(days):
            first = start + timedelta(days=day) + _MINUTE_OF_PAIRS
            await connection.execute(sql("bench_history"), first, _HISTORY_HOURS, list(symbols))
            progress(day + 1)
        for table in TABLES:
            await connection.execute(f"ANALYZE {table.name}")
    return len(symbols) * days * _HISTORY_HOURS * len(TABLES)


async def make_partitions(connection: Connection, settings: Settings, first: datetime, last: datetime) -> None:
    """The partitions of all tables from that of ``first`` to that of ``last``."""
    hours = int((last - first).total_seconds() // 3600) + 1
    micros = np.array([int((first + timedelta(hours=hour)).timestamp()) for hour in range(hours)] + [last.timestamp()])
    times = (micros * 1_000_000).astype(np.int64)
    widths = {table.name: schema.partitioning(settings, table) for table in TABLES}
    await Partitioner(widths, 0).ensure_for(connection, {table.name: times for table in TABLES})


async def partitions_of(connection: Connection) -> int:
    """How many partitions the three tables have in all."""
    names = [table.name for table in TABLES]
    return int(
        await connection.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent::regclass::text = ANY($1)", names)
    )


async def check_ledger(settings: Settings, messages: int, bad: int, superseded: int) -> None:
    """Whether the whole log is in the tables, each message as what it must become: else a rate is no rate.

    ``bad`` of the messages are to be dead letters, and ``superseded`` meet the key of another one. Raises
    ``TickloomError``.
    """
    async with connected(settings) as connection:
        row = await connection.fetchrow(
            "SELECT coalesce(sum(stored), 0)::bigint AS stored, coalesce(sum(superseded), 0)::bigint AS superseded, "
            "coalesce(sum(dead), 0)::bigint AS dead FROM tickloom.offsets"
        )
    wanted = {"stored": messages - bad - superseded, "superseded": superseded, "dead": bad}
    if dict(row) != wanted:
        raise TickloomError(
            f"of {messages} messages the daemon stored {row['stored']} and rejected {row['dead']}, where {wanted['stored']} "
            f"are to be stored and {bad} are bad, so there is no rate to tell; leave TICKLOOM_EVENT_MAX_AGE_SECONDS above "
            f"six hours for the bench, and report this if it is"
        )


async def copy_out(settings: Settings, since: datetime, folder: Path) -> int:
    """The rows from ``since`` on as COPY files in ``folder``, in the order of the key; how many there are."""
    rows = 0
    async with connected(settings) as connection:
        for table in TABLES:
            columns = ", ".join(f'"{name}"' for name in table.names)
            rows += await connection.copy_out_to(
                folder / table.name,
                f'SELECT {columns} FROM {table.name} WHERE "timestamp" >= $1 ORDER BY symbol, "timestamp"',
                since,
            )
    return rows


async def copy_in(settings: Settings, first: datetime, last: datetime, folder: Path) -> float:
    """Seconds to write the files of ``copy_out`` into partitions that are there, in one transaction."""
    async with connected(settings) as connection:
        await make_partitions(connection, settings, first, last)
        started = time.perf_counter()
        async with connection.transaction():
            for table in TABLES:
                source, seconds = _blocks(folder / table.name), settings.database_command_timeout_seconds
                await connection.copy_in((None, table.name), table.names, source, seconds)
        return time.perf_counter() - started


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb", buffering=0) as file:  # in the page cache: it was just written
        while block := file.read(_BLOCK_BYTES):
            yield block


@asynccontextmanager
async def watcher(settings: Settings) -> AsyncGenerator[Connection]:
    """A session of its own that looks rows up by key, and never scans."""
    async with connected(settings) as connection:
        await connection.execute(_LOOKUPS_ONLY)
        yield connection


async def visible(connection: Connection, table: str, keys: Sequence[tuple[str, datetime]]) -> list[int]:
    """Which of ``keys`` (symbol, timestamp) have a row in ``table`` by now: their indexes."""
    if not keys:
        return []
    moments = [moment for _, moment in keys]
    rows = await connection.fetch(_VISIBLE[table], [symbol for symbol, _ in keys], moments, min(moments), max(moments))
    return [row["place"] - 1 for row in rows]


_VISIBLE: Mapping[str, str] = {table.name: sql("bench_visible").format(table=table.name) for table in TABLES}


async def rows_at(connection: Connection, moment: datetime) -> int:
    """How many rows of stock_analytics_data have this very timestamp."""
    return int(await connection.fetchval('SELECT count(*) FROM stock_analytics_data WHERE "timestamp" = $1', moment))
