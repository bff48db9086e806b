"""The seam to asyncpg: connections, and whose turn it is when Postgres refuses. asyncpg is untyped: only here.

SQLSTATE classes (PostgreSQL documentation, appendix A): 22, 23, P0 and those that Postgres itself never uses (a user's
trigger raises them) are bad data; 08, 25, 40, 53, 55, 57, 58 and XX are bad days, waited out; the rest (no table, no
right, no such database) are mistakes that a person must cure.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any

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

_COPY_BLOCK_BYTES = 1 << 20

SESSION_MODE = (
    "give this database session mode (pgbouncer: pool_mode = session for it, or for the user), or point TICKLOOM_DATABASE_URL "
    "past the pooler"
)
_NOT_AMONG_OUR_BOOKS = """
    SELECT set_config('search_path', 'public', false)
    WHERE current_user = 'tickloom' AND current_setting('search_path') ~ '[$]user'
"""
"""A role named like our bookkeeping schema would have it first in "$user", public: the tables are not for there."""


def sql(name: str) -> str:
    """The statement in ``sql/<name>.sql``."""
    return (files("tickloom.store") / "sql" / f"{name}.sql").read_text()


class Connection:
    """A session with Postgres. Its methods raise the project's own errors: see ``classify``. One task uses it at a time."""

    def __init__(self, session: Any) -> None:
        """``session``: a connection of asyncpg."""
        self._session = session

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement, or several without ``args``; gives the command tag of the last."""
        with _translated():
            return await self._session.execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows of a query."""
        with _translated():
            return await self._session.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """The first row; None where there is none."""
        with _translated():
            return await self._session.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row; None where there is none."""
        with _translated():
            return await self._session.fetchval(query, *args)

    async def copy_out(self, query: str, *args: Any) -> bytes:
        """The rows of a query as a binary COPY stream."""
        parts: list[bytes] = []

        async def collect(data: bytes) -> None:
            parts.append(data)

        await self.copy_out_to(collect, query, *args)
        return b"".join(parts)

    async def copy_out_to(self, output: Any, query: str, *args: Any) -> int:
        """The same into ``output`` (a path, or a coroutine function that takes bytes); gives the number of rows."""
        with _translated():
            tag = await self._session.copy_from_query(query, *args, output=output, format="binary")
        return int(tag.rpartition(" ")[2])

    async def copy_in(
        self,
        table: tuple[str | None, str],
        columns: Sequence[str],
        stream: bytearray | AsyncIterator[bytes],
        seconds: float,
    ) -> int:
        """Send a binary COPY stream into ``table`` (schema, name) within ``seconds``; gives the number of rows taken."""
        schema, name = table
        source = _blocks(stream) if isinstance(stream, bytearray) else stream
        copying = self._session.copy_to_table(name, schema_name=schema, columns=columns, source=source, format="binary")
        return await self._copied(copying, seconds)

    async def copy_records_in(
        self,
        table: tuple[str | None, str],
        columns: Sequence[str] | None,
        records: Iterable[Sequence[Any]],
        seconds: float,
    ) -> int:
        """As ``copy_in``, from Python values, one record a row; ``columns`` None: all, in the table's order."""
        schema, name = table
        copying = self._session.copy_records_to_table(name, schema_name=schema, columns=columns, records=records)
        return await self._copied(copying, seconds)

    @asynccontextmanager
    async def transaction(
        self, *, readonly: bool = False, snapshot: str | None = None, rehearsal: bool = False
    ) -> AsyncGenerator[None]:
        """BEGIN … COMMIT around the block, at READ COMMITTED, which ``connect`` sets. With a ``snapshot`` (see
        ``exported_snapshot``) the block sees the database at the time of that export. A ``rehearsal`` is rolled back at its
        end. An error rolls back; where Postgres cannot be asked to, the connection is terminated.

        asyncpg's own transaction asks for the ROLLBACK whatever happened: on a connection that fell silent it waits without
        a limit, and its complaint about a closed connection replaces the error, even a cancellation.
        """
        begin = f"BEGIN{' ISOLATION LEVEL REPEATABLE READ' * (snapshot is not None)}{' READ ONLY' * readonly}"
        await self.execute(begin if snapshot is None else f"{begin}; SET TRANSACTION SNAPSHOT '{snapshot}'")
        async with self._rolled_back_on_error():
            yield
            if rehearsal:
                await self.execute("SET CONSTRAINTS ALL IMMEDIATE")  # checks what COMMIT would check
        await self.execute("ROLLBACK" if rehearsal else "COMMIT")

    @asynccontextmanager
    async def exported_snapshot(self) -> AsyncGenerator[str]:
        """A snapshot of the database for transactions of other sessions, valid inside the block. It holds no table lock.

        A transaction of this connection keeps it alive, idle: vacuum can remove nothing that is newer.
        """
        await self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        async with self._rolled_back_on_error():
            await self.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield await self.fetchval("SELECT pg_export_snapshot()")
        await self.execute("COMMIT")

    def is_closed(self) -> bool:
        return self._session.is_closed()

    def terminate(self) -> None:
        """Close at once, without a word to the server."""
        self._session.terminate()

    async def close(self) -> None:
        """Close politely within two seconds, else at once. Raises nothing but the cancellation of its caller."""
        if self.is_closed():
            return
        try:
            await self._session.close(timeout=2)
        except Exception:
            self.terminate()
        except asyncio.CancelledError:
            self.terminate()
            raise

    async def _copied(self, copying: Coroutine[Any, Any, str], seconds: float) -> int:
        """Run a COPY to the server to its end; gives the number of rows.

        asyncpg limits only the wait for the answer: a COPY that cannot be sent would wait for ever, and a cancelled one
        ends with whatever error comes first. Here the connection ends, and the cancellation stays a cancellation.
        """
        task = asyncio.ensure_future(copying)
        task.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # or asyncio reports it as never retrieved
        with _translated():
            try:
                await asyncio.wait({task}, timeout=seconds)
                if not task.done():
                    raise TimeoutError(f"a COPY was not done in {seconds:.0f} s")
            except BaseException:
                self.terminate()
                task.cancel()
                raise
            return int(task.result().rpartition(" ")[2])

    @asynccontextmanager
    async def _rolled_back_on_error(self) -> AsyncGenerator[None]:
        try:
            yield
        except TickloomError as error:
            answered = isinstance(error.__cause__, asyncpg.PostgresError)
            if self.is_closed() or (isinstance(error, StoreUnavailable) and not answered):
                self.terminate()
            else:
                await self.execute("ROLLBACK")
            raise
        except BaseException:
            self.terminate()
            raise


async def _blocks(stream: bytearray) -> AsyncIterator[memoryview]:
    view = memoryview(stream)
    for start in range(0, len(view), _COPY_BLOCK_BYTES):
        yield view[start : start + _COPY_BLOCK_BYTES]


async def connect(settings: Settings, name: str = "tickloom") -> Connection:
    """A new connection; ``name`` is its application_name.

    Raises ``StoreUnavailable``, or ``Mistake`` for what waiting does not cure.
    """
    with _translated():
        try:
            session = await asyncpg.connect(
                settings.database_dsn(),
                timeout=settings.database_connect_timeout_seconds,  # pyright: ignore[reportArgumentType]
                command_timeout=settings.database_command_timeout_seconds,
            )
        except asyncpg.PostgresError as error:
            raise classify(error, settings.database_source) from error
        except (ValueError, KeyError, asyncpg.exceptions.ClientConfigurationError) as error:
            raise SettingsError(
                f"the address from {settings.database_source} cannot be used: {type(error).__name__}; fix it there"
            ) from None
        try:
            _notice_a_dead_network(session)
            await session.execute(_set_up(settings, name), timeout=settings.database_connect_timeout_seconds)
        except BaseException:
            session.terminate()  # the caller has nothing to close yet
            raise
    return Connection(session)


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
        await connection.close()


@contextmanager
def _translated() -> Generator[None]:
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


def classify(error: Any, source: str = "TICKLOOM_DATABASE_URL") -> TickloomError:
    """Whose turn it is, from an asyncpg error's SQLSTATE. ``source``: where the database's address was found."""
    state = str(getattr(error, "sqlstate", None) or "XX000")
    message = f"{first_line(str(error))} (SQLSTATE {state})"
    if state == "23514" and not error.constraint_name and error.table_name:  # without a table: raised by a trigger
        return StoreUnavailable(
            f"{message}; the partition was dropped, or this session does not see it yet; it is made again"
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
        return SchemaMismatch(
            f"{message}; the column's type was changed: `tickloom check` prints the statement that fixes it"
        )
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
        return SettingsError(f"{message}; fix user and password in {source}")
    if state == "3D000":
        return SettingsError(f"{message}; create the database, or name another one in {source}")
    return SchemaMismatch(f"{message}; Postgres will not do this however often it is tried")
