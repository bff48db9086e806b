"""Makes a database ready for the daemon: tables, bookkeeping and the next partitions."""

from datetime import UTC, datetime

from tickloom.settings import Settings
from tickloom.store import schema
from tickloom.store.migrate import migrate
from tickloom.store.postgres import connected


async def provision(settings: Settings) -> tuple[list[str], int]:
    """Bring the tables to the newest version. Returns what ``migrate`` did, and how many partitions were created.

    Safe to repeat; data stay. Raises ``Mistake``, ``StoreUnavailable``.
    """
    async with connected(settings) as connection:
        done = await migrate(connection, settings)
        return done, await schema.partitioner(settings).ensure_ahead(connection, datetime.now(UTC))
