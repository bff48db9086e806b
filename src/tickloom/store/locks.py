"""The server's table of locks, and how many partitions one of our transactions may touch.

A transaction locks each partition that it touches, and its index, in a table of locks that all sessions share. So none
of our transactions touches more partitions than ``lock_budget`` allows, however many there are.
"""

from dataclasses import dataclass

from tickloom.store.postgres import Connection

_LEAST_BUDGET, _MOST_BUDGET = 6, 256


@dataclass(frozen=True, slots=True)
class LockTable:
    """How large the server's table of locks is: the number of locks that it surely holds for all sessions together is
    ``slots`` (PostgreSQL documentation, ``max_locks_per_transaction``).
    """

    locks_a_session: int
    sessions: int

    @property
    def slots(self) -> int:
        return self.locks_a_session * self.sessions


async def lock_table(connection: Connection) -> LockTable:
    """The table of locks of this server. Raises ``StoreUnavailable``."""
    row = await connection.fetchrow(
        "SELECT current_setting('max_locks_per_transaction')::int AS locks, "
        "current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int AS sessions"
    )
    return LockTable(row["locks"], row["sessions"])


def budget_of(locks: LockTable) -> int:
    """How many table partitions one of our transactions may touch. Each takes two locks: its own and its index's.

    The locks come to a quarter of the table, because other replicas and other people's sessions need some too.
    """
    return max(_LEAST_BUDGET, min(locks.slots // 8, _MOST_BUDGET))


async def lock_budget(connection: Connection) -> int:
    """``budget_of`` this server. Raises ``StoreUnavailable``."""
    return budget_of(await lock_table(connection))
