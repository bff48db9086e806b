"""Whether a pooler gives one client several servers: then session settings and staging tables land anywhere."""

from tickloom.errors import SettingsError, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store.postgres import SESSION_MODE, Connection, connect


async def refuse_poolers(settings: Settings) -> None:
    """Raise ``SettingsError`` where a pooler in transaction or statement mode stands between; ``StoreUnavailable``, ``Mistake``.

    A session keeps its server from one transaction to the next, whatever others do. A pooler in another mode gives the
    server that is free longest, or shortest: what one client has just let go of, another gets, or the same client gets another.
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
                raise SettingsError(f"a pooler in statement mode stands between: {error}; {SESSION_MODE}") from error
            raise
    if len(mine) > 1 or len(theirs) > 1 or mine & theirs:
        raise SettingsError(f"a pooler in transaction mode stands between; {SESSION_MODE}")


async def _server(connection: Connection) -> bytes:
    """The number of the server's process. By COPY, which needs no prepared statement: a pooler may lose these."""
    return await connection.copy_out("SELECT pg_backend_pid()")
