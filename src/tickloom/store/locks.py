"""The server's table of locks: how many partitions one of our transactions may touch, and how long the locks will last.

A transaction locks each partition that it touches, and its index, in a table of locks that all sessions share. So none
of our transactions touches more partitions than ``lock_budget`` allows, no matter how many exist.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tickloom.errors import TickloomError
from tickloom.settings import Partitioning
from tickloom.store.postgres import Connection

_LEAST_BUDGET, _MOST_BUDGET = 6, 256
_LOCKS_PER_PARTITION = 2
"""The partition's own, and that of its index."""
_LEAST_MONTHS = 1
_MOST_MONTHS = 1_200
_PARTITIONS_A_MONTH = {
    Partitioning.HOURLY: 730.5,
    Partitioning.DAILY: 30.4,
    Partitioning.MONTHLY: 1.0,
    Partitioning.NONE: 1e-9,
}


@dataclass(frozen=True, slots=True)
class LockTable:
    """The size of the server's table of locks. It holds at least ``slots`` locks for all sessions together (PostgreSQL
    documentation, ``max_locks_per_transaction``).
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

    They may take a quarter of the table, because other replicas and other programs need locks, too.
    """
    return max(_LEAST_BUDGET, min(locks.slots // 8, _MOST_BUDGET))


async def lock_budget(connection: Connection) -> int:
    """How many table partitions one of our transactions may touch on this server. Raises ``StoreUnavailable``."""
    return budget_of(await lock_table(connection))


def judge_locks(locks: LockTable, counts: Mapping[str, int], widths: Mapping[str, Partitioning]) -> str:
    """How long a query over a whole table will still find enough locks. Pure. ``counts``: partitions by table.

    Tickloom's own transactions need a bounded number. A query without a range of time needs two for each partition.
    Raises ``TickloomError``, with the number to set, where the locks last for less than a month.
    """
    capacity = locks.slots // _LOCKS_PER_PARTITION
    months = {table: (capacity - counts[table]) / _PARTITIONS_A_MONTH[width] for table, width in widths.items()}
    table = min(months, key=months.__getitem__)
    state = (
        f"{table} has {counts[table]:,} partitions; a query over all of it takes two locks for each, of "
        f"{locks.slots:,} that the server has"
    )
    if months[table] >= _LEAST_MONTHS:
        return (
            f"{state}: enough for {min(months[table], _MOST_MONTHS):,.0f} more months. "
            f"Tickloom itself takes at most {_LOCKS_PER_PARTITION * budget_of(locks):,}"
        )
    year = _LOCKS_PER_PARTITION * (counts[table] + 12 * _PARTITIONS_A_MONTH[widths[table]])
    raise TickloomError(
        f"{state}: {'too few already' if months[table] < 0 else 'too few within a month'}, unless the query has a range of "
        f"time. For another year set max_locks_per_transaction = {math.ceil(year / locks.sessions / 64) * 64} in "
        f"postgresql.conf and restart the server; or drop old partitions; or recreate the table with daily partitions "
        f"(TICKLOOM_…_PARTITIONING=daily)"
    )
