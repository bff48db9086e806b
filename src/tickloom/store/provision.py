"""A database made ready for the daemon: tables, bookkeeping and the partitions that come next."""

from datetime import UTC, datetime

from tickloom.settings import Settings
from tickloom.store import schema
from tickloom.store.postgres import connected


async def provision(settings: Settings) -> int:
    """Create what is missing; returns how many partitions were created. Safe to repeat, never drops anything.

    Raises ``Mistake``, ``StoreUnavailable``.
    """
    async with connected(settings) as connection:
        await schema.migrate(connection, settings)
        return await schema.partitioner(settings).ensure_ahead(connection, datetime.now(UTC))
