"""Everything that the bench does in Postgres: databases of its own, history, COPY out and COPY in, waiting for rows."""

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
"""A generic plan does not know the bounds of the times, and would open every partition."""
_MINUTE_OF_PAIRS = timedelta(minutes=30)


class Databases:
    """Creates databases whose names begin with ``prefix`` on the server in the settings, and drops them."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._count = 0

    async def check(self) -> str:
        """The server's version. Raises ``Mistake`` if the role may not create databases, ``StoreUnavailable``."""
        async with connected(self._settings) as connection:
            may = await connection.fetchval("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
            if not may:
                role = await connection.fetchval("SELECT current_user")
                raise Mistake(
                    f"role {role} may not create databases, and the bench uses only databases of its own; "
                    f"run ALTER ROLE {role} CREATEDB, or name another role in TICKLOOM_DATABASE_URL"
                )
            return str(await connection.fetchval("SHOW server_version"))

    @asynccontextmanager
    async def fresh(self, template: Settings | None = None) -> AsyncGenerator[Settings]:
        """Yields the settings of a new database, and drops it at the end of the block. It is a copy of ``template``, or has
        empty tables.

        Creating and dropping a database also writes a checkpoint, so that no measurement pays for the writes before it.
        """
        self._count += 1
        name = f"{self._prefix}_{self._count}"
        options = f" TEMPLATE {database_of(template)}" if template else ""
        try:
            await self._create(name, options)
            settings = at_database(self._settings, name)
            if template is None:
                await provision(settings)
            yield settings
        finally:
            async with connected(self._settings) as connection:
                await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _create(self, name: str, options: str) -> None:
        async with connected(self._settings) as connection:
            if options and await connection.fetchval("SELECT current_setting('server_version_num')::int >= 150000"):
                options += " STRATEGY file_copy"  # otherwise the whole history goes through the WAL
            await connection.execute(f"CREATE DATABASE {name}{options}")


def at_database(settings: Settings, name: str) -> Settings:
    """The same settings with another database on the same server."""
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
    """Write one pair per hour and symbol for the ``days`` before ``end`` (a whole hour); returns the number of rows in all
    tables. Calls ``progress`` after each day with the number of days done.
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
    """Create the partitions of all tables for the times from ``first`` to ``last``."""
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
    """Check that the daemon handled every message of the log correctly; without that, its rate means nothing.

    ``bad`` messages must have become dead letters, and ``superseded`` ones must have met the key of another message.
    Raises ``TickloomError``.
    """
    async with connected(settings) as connection:
        row = await connection.fetchrow(
            "SELECT coalesce(sum(stored), 0)::bigint AS stored, coalesce(sum(superseded), 0)::bigint AS superseded, "
            "coalesce(sum(dead), 0)::bigint AS dead FROM tickloom.offsets"
        )
    wanted = {"stored": messages - bad - superseded, "superseded": superseded, "dead": bad}
    if dict(row) != wanted:
        raise TickloomError(
            f"the daemon stored {row['stored']} of {messages} messages and rejected {row['dead']}, but it should have stored "
            f"{wanted['stored']} and rejected {bad}, so its rate means nothing; set TICKLOOM_EVENT_MAX_AGE_SECONDS to more "
            f"than six hours for the bench, or report this if it is"
        )


async def copy_out(settings: Settings, since: datetime, folder: Path) -> int:
    """Write the rows from ``since`` on to COPY files in ``folder``, in key order; returns their number."""
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
    """Seconds to load the files of ``copy_out`` in one transaction, into partitions that exist beforehand."""
    async with connected(settings) as connection:
        await make_partitions(connection, settings, first, last)
        started = time.perf_counter()
        async with connection.transaction():
            for table in TABLES:
                source, seconds = _blocks(folder / table.name), settings.database_command_timeout_seconds
                await connection.copy_in((None, table.name), table.names, source, seconds)
        return time.perf_counter() - started


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb", buffering=0) as file:  # the file was just written, so it is in the page cache
        while block := file.read(_BLOCK_BYTES):
            yield block


@asynccontextmanager
async def watcher(settings: Settings) -> AsyncGenerator[Connection]:
    """A connection that looks rows up by key and never scans a table."""
    async with connected(settings) as connection:
        await connection.execute(_LOOKUPS_ONLY)
        yield connection


async def visible(connection: Connection, table: str, keys: Sequence[tuple[str, datetime]]) -> list[int]:
    """The indexes of those ``keys`` (symbol, timestamp) that have a row in ``table`` by now."""
    if not keys:
        return []
    moments = [moment for _, moment in keys]
    rows = await connection.fetch(_VISIBLE[table], [symbol for symbol, _ in keys], moments, min(moments), max(moments))
    return [row["place"] - 1 for row in rows]


_VISIBLE: Mapping[str, str] = {table.name: sql("bench_visible").format(table=table.name) for table in TABLES}


async def rows_at(connection: Connection, moment: datetime) -> int:
    """The number of rows of stock_analytics_data with exactly this timestamp."""
    return int(await connection.fetchval('SELECT count(*) FROM stock_analytics_data WHERE "timestamp" = $1', moment))
