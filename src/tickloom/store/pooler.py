"""Refuses poolers that give one client several servers: its settings and staging tables would land on any of them."""

from tickloom.errors import SettingsError, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store.postgres import Connection, connect
from tickloom.store.sqlstates import SESSION_MODE


async def refuse_poolers(settings: Settings) -> None:
    """Raise ``SettingsError`` if a pooler in transaction or statement mode stands in between; ``StoreUnavailable``, ``Mistake``.

    In session mode a client keeps its server from one transaction to the next, while other clients work. In another mode the
    pooler hands out the server that has been free for the longest or the shortest time: a client then gets the server that
    another client has just released, or a different one than before.
    """
    first = await connect(settings)
    try:
        second = await connect(settings)
        try:
            await _compare(first, second)
        finally:
            await second.close()
    finally:
        await first.close()


async def _compare(first: Connection, second: Connection) -> None:
    mine, theirs = {await _server(first)}, set[bytes]()
    for _ in range(3):
        mine |= {await _server(first), await _server(first)}
        try:
            async with second.transaction():
                theirs.add(await _server(second))
                mine.add(await _server(first))
        except StoreUnavailable as error:
            if "statement pooling" in str(error):
                raise SettingsError(
                    f"a pooler in statement mode stands in front of the database: {error}; {SESSION_MODE}"
                ) from error
            raise
    if len(mine) > 1 or len(theirs) > 1 or mine & theirs:
        raise SettingsError(f"a pooler in transaction mode stands in front of the database; {SESSION_MODE}")


async def _server(connection: Connection) -> bytes:
    """The process id of the server. COPY asks for it without a prepared statement, which a pooler may lose."""
    return await connection.copy_out("SELECT pg_backend_pid()")
