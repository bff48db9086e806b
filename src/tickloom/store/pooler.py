"""Whether a pooler gives one client several servers: session settings and staging tables would land on any of them."""

from tickloom.errors import SettingsError, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store.postgres import SESSION_MODE, Connection, connect


async def refuse_poolers(settings: Settings) -> None:
    """Raise ``SettingsError`` where a pooler in transaction or statement mode stands in between; ``StoreUnavailable``, ``Mistake``.

    A session keeps its server from one transaction to the next, whatever other sessions do. A pooler in another mode hands out
    the server that has been free for the longest or the shortest time: a client gets the one that another client has just
    released, or gets a different one than before.
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
                raise SettingsError(f"a pooler in statement mode stands in between: {error}; {SESSION_MODE}") from error
            raise
    if len(mine) > 1 or len(theirs) > 1 or mine & theirs:
        raise SettingsError(f"a pooler in transaction mode stands in between; {SESSION_MODE}")


async def _server(connection: Connection) -> bytes:
    """The process id of the server. Asked by COPY, which needs no prepared statement: a pooler may lose those."""
    return await connection.copy_out("SELECT pg_backend_pid()")
