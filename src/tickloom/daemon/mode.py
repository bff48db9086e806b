"""The mode of a session: careful or fast, with small batches or large ones."""

from dataclasses import dataclass

from tickloom.core.gather import HOUR_MICROS, BatchLimits
from tickloom.core.tails import Tails
from tickloom.settings import Partitioning, Settings
from tickloom.store.outputs import tables

MAX_PATIENCE_SECONDS = 8.0
"""The longest wait for more rows, after waits of 1, 2 and 4 s. So the time without a commit is at most twice as long."""
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Mode:
    """``careful``: the session searches each batch for rows that Postgres refuses, for as long as it finds any.

    ``patience_seconds``: how long a batch waits for more messages; it does so while too few rows are known to decide whether
    the rows or the table are at fault. ``max_messages``: the limit of a batch; None unless a batch touched too many
    partitions.
    """

    careful: bool = False
    patience_seconds: float = 0
    max_messages: int | None = None


def batch_limits(settings: Settings, mode: Mode, budget: int) -> BatchLimits:
    """When a batch closes. In all tables together its own rows may touch half of ``budget`` (table partitions); the other
    half is for the rows that they revise.
    """
    messages = min(settings.batch_max_messages, mode.max_messages or settings.batch_max_messages)
    widths = {settings.prices_partitioning, settings.volumes_partitioning, settings.analytics_partitioning}
    span = HOUR_MICROS if Partitioning.HOURLY in widths else 24 * HOUR_MICROS
    if widths == {Partitioning.NONE}:
        span = _NO_LIMIT
    age = max(settings.batch_max_age_seconds, mode.patience_seconds)
    return BatchLimits(messages, settings.batch_max_bytes, age, max(1, budget // 2 // len(tables())), span)


def new_tails(settings: Settings) -> Tails:
    """Empty tails with the limits in the settings."""
    return Tails(settings.window_rows, settings.tail_rows, settings.cache_max_symbols, settings.cache_max_bytes)
