"""``migrate``: bring a database's tables to the version that this tickloom needs. Forward only; data stay.

**Numbered migrations** are the SQL files in ``migrations/``. Each runs in a transaction of its own, together with its row in
``tickloom.migrations``: a migration that fails changes nothing. They make the schema ``tickloom`` with its functions. A change of
a function is a new migration with ``CREATE OR REPLACE``. A database from before numbered migrations is at version 0; the first
migrations adopt it.

**Output tables** are created after the migrations, from their declarations, with the partitioning of the settings: each run creates
the declared tables that are missing. So a new output table needs no migration. A new column of one of the three tables does need one:
only its author knows its value in existing rows, and a column that somebody dropped or renamed must not come back empty.
Migrations run before the tables exist in a new database, so such a migration skips a missing table, as
``0002_source_timestamp.sql`` does.

**Beside a running daemon.** A daemon compares versions only when it starts: a running one goes on during a migration, and replicas can be
replaced one by one. Therefore the previous release must be able to work with the migrated tables. A migration may add tables, functions, and
columns that take NULL or have a default; it may replace a function that keeps its signature and its meaning; it removes only what
the previous release no longer uses. Any other change takes two releases.

**Locks.** An advisory lock keeps replicas that migrate at once apart. A migration waits no longer than two seconds for the lock of a table,
because all other sessions queue behind it. It then tries again, for about half a minute in all, and at last fails with a message that
names the sessions that hold the lock.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from tickloom.errors import LockHeld, NotAllowed, SchemaMismatch, StoreUnavailable, TickloomError
from tickloom.settings import Settings
from tickloom.store.check import check_encoding, check_schema
from tickloom.store.outputs import register, tables
from tickloom.store.postgres import Connection, sql
from tickloom.store.schema import partitioning, table_ddl
from tickloom.store.versions import Migration, applied_migrations, known_migrations, refuse_newer

LOCK_PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""The pauses between attempts to get the locks that a migration needs."""
_LONGEST_SECONDS = 86_400.0
"""The time limit of one migration, which may rewrite a large table."""
_KEY = "hashtext('tickloom.migrate')"
_LIMITS = "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0"
_STATE = """
    SELECT offsets IS NOT NULL AS filled, offsets IS NOT NULL AND to_regclass('tickloom.symbols') IS NULL AS too_old,
        (
            SELECT relowner::regrole::text FROM pg_class
            WHERE oid = coalesce(to_regclass('tickloom.migrations'), offsets) AND NOT pg_has_role(relowner, 'USAGE')
        ) AS other_owner
    FROM to_regclass('tickloom.offsets') AS offsets
"""


async def migrate(
    connection: Connection, settings: Settings, migrations: Sequence[Migration] | None = None
) -> list[str]:
    """Apply the ``migrations`` that the database lacks (by default all of this tickloom's), and create missing output tables.

    Returns what it did, a line each; the last line names the version of the tables. Safe to repeat, and safe for several at once.
    Raises ``SchemaMismatch`` (``NotAllowed`` among them); ``LockHeld`` and ``StoreUnavailable``, where a later run may succeed.
    """
    migrations = known_migrations() if migrations is None else migrations
    await check_encoding(connection)
    async with _migration_lock(connection):
        done = await _migrate(connection, settings, migrations)
    await check_schema(connection, settings)
    return [*done, f"the tables are at version {migrations[-1].version}"]


@asynccontextmanager
async def _migration_lock(connection: Connection) -> AsyncGenerator[None]:
    """Hold the lock that lets only one session migrate the database.

    It is taken before the transactions: one that waited for it would see the tables as they were when it began to wait.
    """
    await connection.execute(f"SELECT pg_advisory_lock({_KEY})")
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute(f"SELECT pg_advisory_unlock({_KEY})")


async def _migrate(connection: Connection, settings: Settings, migrations: Sequence[Migration]) -> list[str]:
    applied = await applied_migrations(connection)
    refuse_newer(applied, migrations)
    state = await connection.fetchrow(_STATE)
    if state["too_old"] and not applied:
        raise SchemaMismatch(
            "the tables were filled by a program older than the first release, which had no tickloom.symbols; "
            "load the topics into an empty database"
        )
    if owner := state["other_owner"]:
        raise NotAllowed(
            f"the tables belong to {owner}, and only that role can migrate; run `tickloom migrate` as {owner}"
        )
    done = ["adopted the tables from before numbered migrations"] if state["filled"] and not applied else []
    for migration in migrations:
        if migration.version not in applied:
            await _apply_patiently(connection, migration)
            done.append(f"version {migration.version}: {migration.name.replace('_', ' ')}")
    try:
        return done + await _create_output_tables(connection, settings)
    except NotAllowed as error:
        reason = str(error).partition("; ")[0]
        raise NotAllowed(f"{reason}; run `tickloom migrate` as a role that may create tables there") from error


async def _apply_patiently(connection: Connection, migration: Migration) -> None:
    """Apply ``migration``; after a pause, again, if a lock is held. Raises the errors of ``migrate`` with the name of the file."""
    for pause in (*LOCK_PAUSES_SECONDS, None):
        try:
            return await _apply(connection, migration)
        except LockHeld as error:
            if pause is None:
                holders = await connection.fetchval(sql("lock_holders"), [table.name for table in tables()])
                raise LockHeld(
                    f"{_failed(migration)}: {error}; the locks are held by {holders or 'sessions that have just ended'}: wait until they "
                    f"are done, or SELECT pg_terminate_backend(…), then run `tickloom migrate` again"
                ) from error
            await asyncio.sleep(pause)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{_failed(migration)}: {error}; run `tickloom migrate` again") from error
        except NotAllowed as error:
            reason = str(error).partition("; ")[0]
            raise NotAllowed(f"{_failed(migration)}: {reason}; run `tickloom migrate` as a role that may") from error
        except TickloomError as error:
            reason = str(error).partition("; ")[0]
            raise SchemaMismatch(
                f"{_failed(migration)}: {reason}; fix that, then run `tickloom migrate` again"
            ) from error
    raise AssertionError("the last attempt raises")


def _failed(migration: Migration) -> str:
    return f"migration {migration.file} failed and was rolled back"


async def _apply(connection: Connection, migration: Migration) -> None:
    """Apply ``migration`` in a transaction of its own."""
    async with connection.transaction():
        await connection.execute(_LIMITS)
        await connection.execute(migration.statements, timeout=_LONGEST_SECONDS)
        await connection.execute(
            "INSERT INTO tickloom.migrations (version, name) VALUES ($1, $2)", migration.version, migration.name
        )


async def _create_output_tables(connection: Connection, settings: Settings) -> list[str]:
    """Create the declared output tables that are missing, and let ``make_partitions`` serve them. Returns what it did."""
    done: list[str] = []
    async with connection.transaction():
        for table in tables():
            if await connection.fetchval("SELECT to_regclass($1) IS NULL", table.name):
                width = partitioning(settings, table)
                await connection.execute(table_ddl(table, width))
                done.append(f"created {table.name}, partitioning {width.value}")
        await _serve_output_tables(connection)
        await connection.execute(sql("owner"))
        done += await register(connection)
    return done


async def _serve_output_tables(connection: Connection) -> None:
    """Let ``make_partitions`` serve all declared tables, and those that another tickloom declares."""
    served = set(await connection.fetchval("SELECT tickloom.output_tables()"))
    declared = {table.name for table in tables()}
    if not declared <= served:
        names = ",".join(sorted(served | declared))
        await connection.execute(
            "CREATE OR REPLACE FUNCTION tickloom.output_tables() RETURNS text[] "
            f"LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$SELECT '{{{names}}}'::text[]$$"
        )
