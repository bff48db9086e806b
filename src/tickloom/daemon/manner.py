"""How a session works: carefully or fast, with small batches or large ones."""

from dataclasses import dataclass

from tickloom.core.gather import BatchLimits
from tickloom.core.tails import Tails
from tickloom.settings import Partitioning, Settings
from tickloom.store.outputs import tables

MOST_PATIENCE_SECONDS = 8.0
"""The longest wait for more rows, after waits of 4, 2 and 1 s: nothing is committed for twice this time at most."""
_HOUR_MICROSECONDS = 3_600_000_000
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Manner:
    """``careful``: each batch is searched for rows that Postgres refuses, as long as it has any. ``patience_seconds``: how long a
    batch waits for more messages, because too few rows were refused to tell whether they or the table are at fault.
    ``max_messages`` of a batch; None where none has touched too many partitions.
    """

    careful: bool = False
    patience_seconds: float = 0
    max_messages: int | None = None


def batch_limits(settings: Settings, manner: Manner, budget: int) -> BatchLimits:
    """When a batch closes. Its own rows may take half of ``budget`` (partitions), over all tables; the rows that it revises take
    the other half.
    """
    messages = min(settings.batch_max_messages, manner.max_messages or settings.batch_max_messages)
    widths = {settings.prices_partitioning, settings.volumes_partitioning, settings.analytics_partitioning}
    span = _HOUR_MICROSECONDS if Partitioning.HOURLY in widths else 24 * _HOUR_MICROSECONDS
    if widths == {Partitioning.NONE}:
        span = _NO_LIMIT
    age = max(settings.batch_max_age_seconds, manner.patience_seconds)
    return BatchLimits(messages, settings.batch_max_bytes, age, max(1, budget // 2 // len(tables())), span)


def new_tails(settings: Settings) -> Tails:
    """Empty tails, bounded as the settings say."""
    return Tails(settings.window_rows, settings.tail_rows, settings.cache_max_symbols, settings.cache_max_bytes)
