"""A take-over of partitions in the ledger, for tests that need an owner."""

from collections.abc import Mapping

from tickloom.core.model import TopicPartition
from tickloom.store import ledger
from tickloom.store.postgres import Connection


async def take_over(
    connection: Connection, first_offsets: Mapping[TopicPartition, int], owner: str
) -> dict[TopicPartition, ledger.Claim]:
    """Make ``owner`` the owner of the partitions, in a transaction of its own. Raises as ``ledger.taking_over``."""
    async with ledger.taking_over(connection, list(first_offsets)):
        return await ledger.claim(connection, first_offsets, owner)
