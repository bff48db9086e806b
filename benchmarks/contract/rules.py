"""The rules of a good message, for the jobs in Python, which have this module on their path. They log and skip bad messages.

The rules are those of docs/reference/messages.md as one would write them by hand; the only time format is ISO.
"""

import json
import logging
import math
from datetime import UTC, datetime, timedelta
from typing import Any

MOST = 1e15
OLDEST, NEWEST = timedelta(days=31), timedelta(days=1)
NUMBERS = ("price", "volume", "open_price", "high_price", "low_price")


def good(value: bytes | None, value_name: str, record_ms: int) -> dict[str, Any] | None:
    """The fields of a message; None if it is bad. ``value_name``: ``price`` or ``volume``."""
    try:
        row = json.loads(value or b"", parse_constant=_refuse)
    except ValueError as error:
        return _skipped(f"not JSON: {error}")
    return row if is_good(row, value_name, record_ms) else None


def is_good(row: Any, value_name: str, record_ms: int) -> bool:
    """Whether a parsed message is good."""
    try:
        _check(row, value_name, datetime.fromtimestamp(record_ms / 1000, UTC))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _skipped(repr(error))
        return False
    return True


def _check(row: dict[str, Any], value_name: str, record_time: datetime) -> None:
    symbol, number, event_time = row["symbol"], row[value_name], datetime.fromisoformat(row["timestamp"])
    if not isinstance(symbol, str) or not 0 < len(symbol) <= 64 or not symbol.isprintable():
        raise ValueError("symbol")
    if any(type(row.get(name, 0)) not in (int, float) or not abs(row.get(name, 0)) <= MOST for name in NUMBERS):
        raise ValueError("number")
    if value_name == "volume" and number < 0:
        raise ValueError("volume below 0")
    if not record_time - OLDEST <= event_time <= record_time + NEWEST:
        raise ValueError("out of bounds")
    if row.get("high_price", math.inf) < row.get("low_price", -math.inf):
        raise ValueError("high below low")


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _skipped(why: str) -> None:
    logging.warning("skipping a bad message: %s", why)
