"""The seam to asyncpg, which is untyped: connections and transactions. Errors come out as the project's own (``sqlstates``)."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any

import asyncpg

from tickloom.errors import SettingsError, StoreUnavailable, TickloomError
from tickloom.settings import Settings
from tickloom.store.sqlstates import classify

_SESSION_SETTINGS = """
    SET default_transaction_isolation = 'read committed'; SET plan_cache_mode = force_custom_plan;
    SET idle_in_transaction_session_timeout = '60s'; SET tcp_user_timeout = '30s';
    SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET lock_timeout = 0;
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')
"""
"""After waiting for a lock a statement must read the newest rows, or replicas misjudge each other. A plan for the actual
parameters locks no partition outside of their range. A daemon that vanished, or sleeps, must not hold the ledger's row locks
against its successor. Bounds of partitions are read as text. The time limits of a role are meant for people. They are set
by SET, because poolers refuse them as start-up parameters."""
LOOKUPS_ONLY = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
"""For a transaction that looks rows up by key, from lists or staging tables without statistics: a look-up for each row is
always right, so the planner must choose it."""

_COPY_BLOCK_BYTES = 1 << 20

_OUTSIDE_OF_BOOKKEEPING = """
    SELECT set_config('search_path', 'public', false)
    WHERE current_user = 'tickloom' AND current_setting('search_path') ~ '[$]user'
"""
"""A role with the name of our bookkeeping schema has that schema first in "$user", public; the tables do not belong there."""


def sql(name: str) -> str:
    """The statement in ``sql/<name>.sql``."""
    return (files("tickloom.store") / "sql" / f"{name}.sql").read_text()


class Connection:
    """A session with Postgres. Its methods raise the project's own errors: see ``sqlstates``. One task uses it at a time."""

    def __init__(self, session: Any) -> None:
        """``session``: a connection of asyncpg."""
        self._session = session

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement, or several without ``args``. Returns the command tag of the last one."""
        with _translated():
            return await self._session.execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """All rows of a query."""
        with _translated():
            return await self._session.fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """The first row; None if there is none."""
        with _translated():
            return await self._session.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row; None if there is none."""
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
        """The same into ``output`` (a path, or a coroutine function that takes bytes). Returns the number of rows."""
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
        """Send a binary COPY stream into ``table`` (schema, name) within ``seconds``. Returns the number of rows taken."""
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
        end. An error rolls back, or terminates the connection if Postgres cannot be asked to.

        asyncpg's own transaction always asks for the ROLLBACK: on a silent connection it waits without a limit, and its error
        about a closed connection replaces the first error, even a cancellation.
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
        """Close at once, without notice to the server."""
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
        """Run a COPY to the server to its end. Returns the number of rows.

        asyncpg limits only the wait for the answer: a COPY that cannot be sent would wait for ever, and a cancelled one
        ends with the first error that comes. Here the connection ends, and the cancellation stays a cancellation.
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

    Raises ``StoreUnavailable``, or ``Mistake`` if waiting cannot help.
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
    """The statements that set up a new session. They have no parameters, so that one round trip is enough."""
    application_name = name.replace("\\", "\\\\").replace("'", "''")
    return f"""
        {_SESSION_SETTINGS};
        SET statement_timeout = {round(settings.database_command_timeout_seconds * 1000)};
        SET application_name = E'{application_name}';
        {_OUTSIDE_OF_BOOKKEEPING}
    """


def _notice_a_dead_network(connection: Any) -> None:
    """Our side of ``_SESSION_SETTINGS``: without it a half-open connection is silent until the command timeout."""
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
    """Turns errors of asyncpg and of the network into the project's own."""
    try:
        yield
    except TickloomError:
        raise
    except asyncpg.PostgresError as error:
        raise classify(error) from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # The last one: a COPY whose connection broke under it. The connection is not used again in any case.
        raise StoreUnavailable(f"Postgres cannot be reached: {str(error) or type(error).__name__}") from error
