"""The integration's queries. Each query of a table has a range of event times, so it locks only the partitions of that range.

All are short. Each opens a connection of its own, in a thread of its own (see ``run_apart``). They block, and raise
``StoreUnavailable`` or ``Mistake``.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tickloom.core.model import ANALYTICS, PRICES, TABLES, VOLUMES, Table
from tickloom.daemon.drain import run_apart
from tickloom.errors import SettingsError
from tickloom.observe.outcome import HOUR
from tickloom.settings import Settings
from tickloom.store.postgres import Connection, connected
from tickloom.store.slices import Span
from tickloom.store.verdict import Report
from tickloom.store.verify import verify

PREVIEW_ROWS = 10
T = TypeVar("T")
_INSIDE = '"timestamp" >= $1 AND "timestamp" < $2'


def ask(settings: Settings, question: Callable[[Connection], Awaitable[T]]) -> T:
    """The answer to ``question`` on a fresh connection."""

    async def work() -> T:
        async with connected(settings) as connection:
            return await question(connection)

    return run_apart(work)


def spans_of(hours: Sequence[datetime], most: int) -> list[Span]:
    """The newest ``most`` of these hours as spans, oldest first. Adjacent hours make one span. Pure."""
    spans: list[Span] = []
    for hour in sorted(hours)[-most:]:
        if spans and spans[-1].stop == hour:
            spans[-1] = Span(spans[-1].start, hour + HOUR)
        else:
            spans.append(Span(hour, hour + HOUR))
    return spans


# --- the tables -------------------------------------------------------------------------------------------------


def rows_by_table(settings: Settings, spans: Sequence[Span]) -> dict[str, int]:
    """The number of rows of each table with event times in ``spans``."""

    async def question(connection: Connection) -> dict[str, int]:
        return {table.name: sum([await _count(connection, table, span) for span in spans]) for table in TABLES}

    return ask(settings, question)


async def _count(connection: Connection, table: Table, span: Span) -> int:
    return await connection.fetchval(f"SELECT count(*) FROM {table.name} WHERE {_INSIDE}", span.start, span.stop)


@dataclass(frozen=True, slots=True)
class Preview:
    """The newest rows of a table, and the number of its rows in each minute of the hour before the newest event."""

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    minutes: Mapping[datetime, int]


def preview(settings: Settings, table: Table, newest: datetime) -> Preview:
    """The preview of the hour that ends with ``newest``."""
    span = (newest - HOUR, newest + timedelta(microseconds=1))

    async def question(connection: Connection) -> Preview:
        names = ", ".join(f'"{name}"' for name in table.names)
        rows = await connection.fetch(
            f'SELECT {names} FROM {table.name} WHERE {_INSIDE} ORDER BY "timestamp" DESC, symbol LIMIT {PREVIEW_ROWS}',
            *span,
        )
        minutes = await connection.fetch(
            f"""SELECT date_bin('1 minute', "timestamp", 'epoch'::timestamptz) AS minute, count(*) AS rows
            FROM {table.name} WHERE {_INSIDE} GROUP BY 1 ORDER BY 1""",
            *span,
        )
        return Preview(table.names, [tuple(row) for row in rows], {row["minute"]: row["rows"] for row in minutes})

    return ask(settings, question)


def is_fresh(settings: Settings, since: datetime) -> bool:
    """Whether a joined row has an event time at or after ``since``."""
    ahead = datetime.now(UTC) + timedelta(seconds=settings.event_max_ahead_seconds)

    async def question(connection: Connection) -> bool:
        return await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {ANALYTICS.name} WHERE {_INSIDE})", since, max(since, ahead)
        )

    return ask(settings, question)


@dataclass(frozen=True, slots=True)
class Sides:
    """The number of keys in both raw tables, and of keys in only one of them."""

    both: int = 0
    prices_only: int = 0
    volumes_only: int = 0

    @property
    def share(self) -> float:
        """The share of keys on one side only; 0 without any key."""
        one_sided = self.prices_only + self.volumes_only
        return one_sided / (self.both + one_sided) if one_sided else 0.0


def sides_of(settings: Settings, spans: Sequence[Span]) -> Sides:
    """Count the keys with event times in ``spans``, one hour per query."""
    statement = f"""
        SELECT count(*) FILTER (WHERE v.symbol IS NOT NULL AND p.symbol IS NOT NULL) AS both,
            count(*) FILTER (WHERE v.symbol IS NULL) AS prices_only, count(*) FILTER (WHERE p.symbol IS NULL) AS volumes_only
        FROM (SELECT symbol, "timestamp" FROM {PRICES.name} WHERE {_INSIDE}) p
        FULL JOIN (SELECT symbol, "timestamp" FROM {VOLUMES.name} WHERE {_INSIDE}) v
        ON p.symbol = v.symbol AND p."timestamp" = v."timestamp"
    """

    async def question(connection: Connection) -> Sides:
        total = Sides()
        for span in spans:
            for hour in hours_of(span):
                row = await connection.fetchrow(statement, hour, hour + HOUR)
                total = Sides(
                    total.both + row["both"],
                    total.prices_only + row["prices_only"],
                    total.volumes_only + row["volumes_only"],
                )
        return total

    return ask(settings, question)


def hours_of(span: Span) -> list[datetime]:
    """The hours of a span of whole hours. Pure."""
    return [span.start + number * HOUR for number in range(round((span.stop - span.start) / HOUR))]


def exactness(settings: Settings, spans: Sequence[Span]) -> list[Report]:
    """``tickloom verify`` of each span. Also raises ``SettingsError`` if ``spans`` is empty."""
    if not spans:
        raise SettingsError("no hours were given to verify; give at least one")

    async def work() -> list[Report]:
        return [await verify(settings, span) for span in spans]

    return run_apart(work)


# --- the bookkeeping --------------------------------------------------------------------------------------------


def ledger_faults(settings: Settings) -> list[str]:
    """A line for each topic partition whose offsets do not add up."""

    async def question(connection: Connection) -> list[str]:
        rows = await connection.fetch(
            "SELECT topic, partition, next_offset - first_offset AS read, stored + superseded + dead + skipped + missing "
            "AS counted FROM tickloom.offsets WHERE next_offset - first_offset <> stored + superseded + dead + skipped "
            "+ missing ORDER BY topic, partition"
        )
        return [f"{row['topic']} {row['partition']}: {row['read']} read, {row['counted']} counted" for row in rows]

    return ask(settings, question)


def gaps_since(settings: Settings, since: datetime) -> list[str]:
    """A line for each range of offsets that retention removed unread and that was noticed at or after ``since``."""

    async def question(connection: Connection) -> list[str]:
        rows = await connection.fetch(
            "SELECT * FROM tickloom.gaps WHERE noticed_at >= $1 ORDER BY noticed_at, topic, partition", since
        )
        return [
            f"{row['topic']} {row['partition']}: offsets {row['from_offset']} to {row['to_offset'] - 1}, noticed "
            f"{row['noticed_at']:%Y-%m-%d %H:%M} UTC"
            for row in rows
        ]

    return ask(settings, question)
