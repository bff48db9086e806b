"""Small logs whose every message the test knows: single ticks, and pairs of a price and a volume that meet."""

import json
import time
from datetime import UTC, datetime

from tests.hostile import Thing

MILLISECOND, SECOND, HOUR = 1_000, 1_000_000, 3_600_000_000
NOW = int(time.time()) * SECOND
OLD = NOW // HOUR * HOUR - 30 * HOUR
"""The beginning of an hour that somebody may detach."""
RAW = ("stock_prices", "stock_volumes")
TABLES = (*RAW, "stock_analytics_data")


def now() -> int:
    """Microseconds since 1970, to the millisecond."""
    return time.time_ns() // 1_000_000 * MILLISECOND


def tick(side: str, symbol: str, event: int, value: float, sent: int | None = None) -> Thing:
    """One message; ``event`` and ``sent`` (by default now) in µs."""
    field = "price" if side == "prices" else "volume"
    body = json.dumps({"symbol": symbol, "timestamp": event, field: value}, separators=(",", ":")).encode()
    return Thing(side, symbol.encode(), body, (now() if sent is None else sent) // MILLISECOND)


def pairs(
    first: int, count: int, step: int = SECOND, symbols: int = 4, sent: int | None = None, price: float = 1.5
) -> list[Thing]:
    """Both sides of ``count`` events from ``first`` on, the symbols S0, S1, … in turn."""
    return [
        tick(side, f"S{number % symbols}", first + number * step, number + value, sent)
        for number in range(count)
        for side, value in (("prices", price), ("volumes", 1.5))
    ]


def part_of(table: str, micros: int, form: str = "%Y%m%d%H") -> str:
    """The name of the partition that holds an event."""
    return f"{table}_{iso(micros, form)}"


def iso(micros: int, form: str = "%Y-%m-%dT%H:%M:%S+00:00") -> str:
    """An event's time as text, in UTC."""
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime(form)
