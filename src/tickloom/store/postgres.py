"""The seam to asyncpg: connections, and whose turn it is when Postgres refuses. asyncpg is untyped: only here.

SQLSTATE classes (PostgreSQL documentation, appendix A): 22, 23, P0 and those that Postgres itself never uses (a user's
trigger raises them) are bad data; 08, 25, 40, 53, 55, 57, 58 and XX are bad days, waited out; the rest (no table, no
right, no such database) are mistakes that a person must cure.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any, Protocol, cast

import asyncpg

from tickloom.errors import (
    DataRefused,
    Garbled,
    LockHeld,
    LocksExhausted,
    NotAllowed,
    SchemaMismatch,
    SettingsError,
    StoreUnavailable,
    TickloomError,
)
from tickloom.settings import Settings

_BAD_DAY = ("08", "25", "40", "53", "55", "57", "58", "XX")
_OTHERS = (
    *("00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "24", "26", "27", "28", "2B"),
    *("2D", "2F", "34", "38", "39", "3B", "3D", "3F", "42", "44", "54", "F0", "HV"),
)
_NOT_OUR_COLUMNS = ("22P03", "22P04")
"""The bytes of a COPY are right for the columns that we know of."""
NO_REFUSALS = (*_BAD_DAY, *_OTHERS, *_NOT_OUR_COLUMNS)
"""SQLSTATEs, or classes of them, that say nothing of a row."""
_AS_WE_NEED_IT = """
    SET default_transaction_isolation = 'read committed'; SET plan_cache_mode = force_custom_plan;
    SET idle_in_transaction_session_timeout = '60s'; SET tcp_user_timeout = '30s';
    SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET lock_timeout = 0;
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')
"""
"""What is read after a lock was waited for must be the newest, whatever the database's default, or replicas misjudge each
other. Bounds of partitions are read as text. Limits of the role's are for people. A plan that knows the parameters plans for, and locks, no partition outside of their range. And a daemon that
vanished, or sleeps, must not hold the ledger's row locks against its successor's take-over. By SET, for poolers refuse
these as start-up parameters."""
LOOKUPS_ONLY = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
"""For a transaction that looks rows up by key, from lists or staging tables without statistics: one look-up a row is
always right, and what the planner must take."""

SESSION_MODE = (
    "give this database session mode (pgbouncer: pool_mode = session for it, or for the user), or point TICKLOOM_DATABASE_URL "
    "past the pooler"
)
_NOT_AMONG_OUR_BOOKS = """
    SELECT set_config('search_path', 'public', false)
    WHERE current_user = 'tickloom' AND current_setting('search_path') ~ '[$]user'
"""
"""A role named like our bookkeeping schema would have it first in "$user", public: the tables are not for there."""


class Connection(Protocol):
    """What the project uses of an asyncpg connection."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str: ...
    async def executemany(self, command: str, args: Sequence[Sequence[Any]]) -> None: ...
    async def fetch(self, query: str, *args: Any) -> list[Any]: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetchval(self, query: str, *args: Any) -> Any: ...
    def copy_to_table(self, table_name: str, **options: Any) -> Coroutine[Any, Any, str]: ...
    def copy_records_to_table(self, table_name: str, **options: Any) -> Coroutine[Any, Any, str]: ...
    async def copy_from_query(self, query: str, *args: Any, **options: Any) -> str: ...
    def is_closed(self) -> bool: ...
    async def close(self, *, timeout: float | None = None) -> None: ...
    def terminate(self) -> None: ...


def sql(name: str) -> str:
    """The statement in ``sql/<name>.sql``."""
    return (files("tickloom.store") / "sql" / f"{name}.sql").read_text()


async def connect(settings: Settings, name: str = "tickloom") -> Connection:
    """A new connection; ``name`` is its application_name.

    Raises ``StoreUnavailable``, or ``Mistake`` for what no waiting cures.
    """
    with told():
        try:
            connection = await asyncpg.connect(
                settings.database_dsn(),
                timeout=settings.database_connect_timeout_seconds,  # pyright: ignore[reportArgumentType]
                command_timeout=settings.database_command_timeout_seconds,
            )
        except (ValueError, asyncpg.exceptions.ClientConfigurationError) as error:
            raise SettingsError(
                f"the address from {settings.database_source} cannot be used: {type(error).__name__}; fix it there"
            ) from None
        try:
            _notice_a_dead_network(connection)
            await connection.execute(_set_up(settings, name), timeout=settings.database_connect_timeout_seconds)
        except BaseException:
            connection.terminate()  # the caller has nothing to close yet
            raise
    return cast(Connection, connection)


def _set_up(settings: Settings, name: str) -> str:
    """All that a new session is told, in one round trip: so without parameters."""
    application_name = name.replace("\\", "\\\\").replace("'", "''")
    return f"""
        {_AS_WE_NEED_IT};
        SET statement_timeout = {round(settings.database_command_timeout_seconds * 1000)};
        SET application_name = E'{application_name}';
        {_NOT_AMONG_OUR_BOOKS}
    """


def _notice_a_dead_network(connection: Any) -> None:
    """Our side of ``_AS_WE_NEED_IT``: without it a half-open connection is silent until the command timeout."""
    channel = connection._transport.get_extra_info("socket")  # asyncpg has no public way to its socket
    if channel.family == socket.AF_UNIX or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        channel.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncGenerator[Connection]:
    """A connection for one piece of work, closed after it."""
    connection = await connect(settings)
    try:
        yield connection
    finally:
        await close(connection)


async def close(connection: Connection | None) -> None:
    """Close politely within two seconds, else at once. Raises nothing but the cancellation of its caller."""
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=2)
    except Exception:
        connection.terminate()
    except asyncio.CancelledError:
        connection.terminate()
        raise


@asynccontextmanager
async def transaction(
    connection: Connection, *, readonly: bool = False, snapshot: str | None = None, rehearsal: bool = False
) -> AsyncGenerator[None]:
    """BEGIN … COMMIT around the block, READ COMMITTED as ``connect`` has set it. With a ``snapshot`` (see ``exported``) the
    database is as it was when that was exported. A ``rehearsal`` is undone at its end. ROLLBACK where Postgres can still be
    asked for it, else the connection ends.

    asyncpg's own asks for the ROLLBACK whatever happened: on a connection that fell silent it waits without a limit,
    and its complaint about a closed one takes the place of the error, even of a cancellation.
    """
    begin = f"BEGIN{' ISOLATION LEVEL REPEATABLE READ' * (snapshot is not None)}{' READ ONLY' * readonly}"
    await connection.execute(begin if snapshot is None else f"{begin}; SET TRANSACTION SNAPSHOT '{snapshot}'")
    async with _undone_by(connection, "ROLLBACK"):
        yield
        if rehearsal:
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what would be checked at the COMMIT
    await connection.execute("ROLLBACK" if rehearsal else "COMMIT")


@asynccontextmanager
async def exported(connection: Connection) -> AsyncGenerator[str]:
    """A snapshot of the database for the transactions of other sessions, while inside. It holds no lock of a table.

    A transaction of its own keeps it alive, idle: vacuum can remove nothing that is newer.
    """
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    async with _undone_by(connection, "ROLLBACK"):
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield await connection.fetchval("SELECT pg_export_snapshot()")
    await connection.execute("COMMIT")


async def send(connection: Connection, copying: Coroutine[Any, Any, str], seconds: float) -> str:
    """Run a COPY to the server to its end, within ``seconds``; gives its command tag.

    asyncpg limits only the wait for the answer: a COPY that cannot be sent any further would wait for ever, and one that
    is cancelled then ends with whatever error comes first. Here the connection ends, and the cancellation stays one.
    """
    task = asyncio.ensure_future(copying)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio says that nobody looked
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeoutError(f"a COPY was not done in {seconds:.0f} s")
    except BaseException:
        connection.terminate()
        task.cancel()
        raise
    return task.result()


@asynccontextmanager
async def _undone_by(connection: Connection, statement: str) -> AsyncGenerator[None]:
    try:
        yield
    except (asyncpg.PostgresError, TickloomError) as error:
        if isinstance(error, StoreUnavailable):
            connection.terminate()
        else:
            await connection.execute(statement)
        raise
    except BaseException:
        connection.terminate()
        raise


@contextmanager
def told() -> Generator[None]:
    """Errors of asyncpg and of the network inside come out as the project's own."""
    try:
        yield
    except TickloomError:
        raise
    except asyncpg.PostgresError as error:
        raise classify(error) from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # The last one: a COPY whose connection broke under it. The connection is not used again in any case.
        raise StoreUnavailable(f"Postgres cannot be reached: {str(error) or type(error).__name__}") from error


def first_line(words: str) -> str:
    """Of what Postgres, or a user's trigger, says; it may be nothing."""
    return next(iter(words.splitlines()), "")


def classify(error: Any) -> TickloomError:
    """Whose turn it is, from an asyncpg error's SQLSTATE."""
    state = str(getattr(error, "sqlstate", None) or "XX000")
    message = f"{first_line(str(error))} (SQLSTATE {state})"
    if state == "23514" and not error.constraint_name and error.table_name:  # without a table: raised by a trigger
        return StoreUnavailable(
            f"{message}; the partition was dropped, or this session does not see it yet; it is made anew"
        )
    if state in {"08P01", "XX000"}:
        return Garbled(message)
    if state == "55P03":
        return LockHeld(message)
    if state == "53200" and "max_locks_per_transaction" in str(getattr(error, "hint", "")):
        return LocksExhausted(
            f"{message}: the server's table of locks is full; raise max_locks_per_transaction in postgresql.conf and restart "
            f"the server, or keep fewer partitions: `tickloom check` says how many there is room for"
        )
    if state in _NOT_OUR_COLUMNS:
        return SchemaMismatch(f"{message}; the column's type was changed: `tickloom check` says how to mend it")
    if not state.startswith(NO_REFUSALS):
        return DataRefused(message)
    if state == "25006":
        return StoreUnavailable(
            f"{message}: this is a standby, or default_transaction_read_only is on for the role or the database "
            f"(ALTER ROLE … or ALTER DATABASE … RESET default_transaction_read_only)"
        )
    if state.startswith(_BAD_DAY):
        return StoreUnavailable(message)
    if state in {"26000", "42P05"}:  # a statement that was prepared elsewhere, or by somebody else
        return SettingsError(f"{message}: a pooler in transaction mode stands between; {SESSION_MODE}")
    if state in {"42P01", "42703", "3F000", "42883", "42804"}:
        return SchemaMismatch(f"{message}; run `tickloom migrate`")
    if state == "42501":
        return NotAllowed(f"{message}; grant the role its rights: `tickloom check` prints what to type")
    if state.startswith("28"):
        return SettingsError(f"{message}; mend user and password in TICKLOOM_DATABASE_URL")
    if state == "3D000":
        return SettingsError(f"{message}; create the database or mend TICKLOOM_DATABASE_URL")
    return SchemaMismatch(f"{message}; Postgres will not do this however often it is tried")
