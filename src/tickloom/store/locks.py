"""How long the server's table of locks is large enough for queries over a whole table. Pure."""

import math
from collections.abc import Mapping

from tickloom.errors import TickloomError
from tickloom.settings import Partitioning
from tickloom.store.partitions import LockTable, budget_of

_LOCKS_PER_PARTITION = 2
"""Its own, and that of its index."""
_LEAST_MONTHS = 1
_MOST_MONTHS = 1_200
_PARTITIONS_A_MONTH = {
    Partitioning.HOURLY: 730.5,
    Partitioning.DAILY: 30.4,
    Partitioning.MONTHLY: 1.0,
    Partitioning.NONE: 1e-9,
}


def judge_locks(locks: LockTable, counts: Mapping[str, int], widths: Mapping[str, Partitioning]) -> str:
    """How long a query over a whole table will still find enough locks; ``counts`` are partitions by table.

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
            f"{state}: enough for {min(months[table], _MOST_MONTHS):,.0f} months more. "
            f"Tickloom itself takes at most {_LOCKS_PER_PARTITION * budget_of(locks):,}"
        )
    year = _LOCKS_PER_PARTITION * (counts[table] + 12 * _PARTITIONS_A_MONTH[widths[table]])
    raise TickloomError(
        f"{state}: {'too few already' if months[table] < 0 else 'too few within a month'}, unless the query has a range of "
        f"time. For another year set max_locks_per_transaction = {math.ceil(year / locks.sessions / 64) * 64} in "
        f"postgresql.conf and restart the server; or drop old partitions; or recreate the table with daily partitions "
        f"(TICKLOOM_…_PARTITIONING=daily)"
    )
