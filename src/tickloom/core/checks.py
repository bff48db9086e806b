"""The domain's checks on symbols, numbers and times, which are the same for every codec. Pure.

Each rule is written twice: ``suspects`` finds in whole columns the rows that may break a rule, and ``fault_of`` names the
first rule, in the contract's order, that a single row breaks. ``suspects`` may find too many rows, but never too few;
tests hold it to that.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tickloom.core.arrays import Bools, Floats, Ints
from tickloom.core.codecs.codec import Columns, Fault, Fields
from tickloom.core.model import Feed, Reason
from tickloom.core.timestamps import EARLIEST, LATEST

MAX_SYMBOL_CHARACTERS = 64
MAX_MAGNITUDE = 1e15
_FURTHEST_RECORD_MS = 1 << 51
_FURTHEST_MICROS = 1 << 62  # added to a record's time it still fits into 64 bits; no event is that far from its record

_TOGETHER = 256
"""How many symbols are searched together for control characters, which are rare."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class EventBounds:
    """How far an event may lie from its record's timestamp, in microseconds."""

    max_ahead: int
    max_age: int


# --- one row -----------------------------------------------------------------------------------------------------


def fault_of(feed: Feed, fields: Fields, record_ms: int, bounds: EventBounds) -> Fault | None:
    """The first rule that a row breaks; ``record_ms`` is its record's timestamp."""
    return (
        _fault_of_symbol(fields.symbol)
        or _fault_of_numbers(feed, fields.numbers)
        or _fault_of_time(fields.time, record_ms * 1_000, bounds)
        or _fault_of_order(feed, fields.numbers)
    )


def _fault_of_symbol(symbol: str) -> Fault | None:
    if not symbol:
        return Fault(Reason.BAD_SYMBOL, "symbol is empty")
    if len(symbol) > MAX_SYMBOL_CHARACTERS:
        detail = f"symbol has {len(symbol)} characters, at most {MAX_SYMBOL_CHARACTERS} are allowed"
        return Fault(Reason.BAD_SYMBOL, detail)
    if _CONTROL.search(symbol):
        return Fault(Reason.BAD_SYMBOL, "symbol holds a control character")
    return None


def _fault_of_numbers(feed: Feed, numbers: Mapping[str, float]) -> Fault | None:
    if feed.value not in numbers:
        return Fault(Reason.BAD_NUMBER, f"{feed.value} is NaN")
    for name in feed.numbers:
        number = numbers.get(name, 0.0)
        if math.isinf(number):
            return Fault(Reason.BAD_NUMBER, f"{name} is beyond float8")
        if abs(number) > MAX_MAGNITUDE:
            return Fault(Reason.BAD_NUMBER, f"{name} has a magnitude over 1e15")
        if name in feed.not_negative and number < 0:
            return Fault(Reason.BAD_NUMBER, f"{name} is below 0")
    return None


def _fault_of_time(time: int | str, record_micros: int, bounds: EventBounds) -> Fault | None:
    if isinstance(time, str):
        return Fault(Reason.BAD_TIMESTAMP, f"not an ISO-8601 time: {time}")
    if not EARLIEST <= time < LATEST:
        return Fault(Reason.OUT_OF_BOUNDS, "the event lies outside the years 2 to 9998")
    if not record_micros - bounds.max_age <= time <= record_micros + bounds.max_ahead:
        return Fault(Reason.OUT_OF_BOUNDS, "the event lies too far from its record's timestamp")
    return None


def _fault_of_order(feed: Feed, numbers: Mapping[str, float]) -> Fault | None:
    for high, low in feed.ordered:
        if high in numbers and low in numbers and numbers[high] < numbers[low]:
            return Fault(Reason.INCONSISTENT, f"{high} {numbers[high]} is below {low} {numbers[low]}")
    return None


# --- many rows at once -------------------------------------------------------------------------------------------


def suspects(feed: Feed, columns: Columns, records_ms: Ints, bounds: EventBounds) -> Bools:
    """Which rows may break a rule; ``records_ms`` are the timestamps of their records."""
    out_of_bounds = _out_of_bounds(columns.micros, records_ms, bounds)  # so is a row without a time
    return out_of_bounds | _odd_symbols(columns.symbols) | _odd_numbers(feed, columns.numbers)


def _odd_symbols(symbols: Sequence[str]) -> Bools:
    sizes = np.fromiter(map(len, symbols), np.int64, len(symbols))
    odd = (sizes == 0) | (sizes > MAX_SYMBOL_CHARACTERS)
    for start in range(0, len(symbols), _TOGETHER):
        some = symbols[start : start + _TOGETHER]
        if not "".join(some).isprintable():  # no control character is printable, nor are some others
            odd[start : start + _TOGETHER] |= [_CONTROL.search(symbol) is not None for symbol in some]
    return odd


def _odd_numbers(feed: Feed, numbers: Mapping[str, Floats]) -> Bools:
    odd = np.isnan(numbers[feed.value])
    for column in numbers.values():
        odd |= np.abs(column) > MAX_MAGNITUDE
    for name in feed.not_negative:
        odd |= numbers[name] < 0
    for high, low in feed.ordered:
        odd |= numbers[high] < numbers[low]
    return odd


def _out_of_bounds(micros: Ints, records_ms: Ints, bounds: EventBounds) -> Bools:
    far = (records_ms <= -_FURTHEST_RECORD_MS) | (records_ms >= _FURTHEST_RECORD_MS)
    record = np.where(far, 0, records_ms) * 1_000  # otherwise microseconds could leave 64 bits
    max_age, max_ahead = min(bounds.max_age, _FURTHEST_MICROS), min(bounds.max_ahead, _FURTHEST_MICROS)
    away = (micros < record - max_age) | (micros > record + max_ahead)
    return far | away | (micros < EARLIEST) | (micros >= LATEST)
