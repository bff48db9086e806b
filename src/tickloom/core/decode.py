"""decode: raw bytes become typed rows or rejects. Pure: no I/O, no clock, and no input raises.

Two readers of one contract:

1. ``decode``: msgspec reads each message, strictly, and all checks are made on columns of the whole chunk. What
   msgspec refuses or a check doubts is left to the second reader, message by message: its neighbours stay here.
2. ``decode_strictly``: field by field. It finds the first reason in the contract's order, or the row, where the first
   reader was stricter than the contract (a repeated key whose last value is fine) or not strict enough (a -0).

Property tests hold both equal to a judge on any input.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.core.model import (
    FEEDS,
    Chunk,
    Decoded,
    Ints,
    RawMessage,
    Reason,
    Reject,
    Side,
    TopicPartition,
    rows_schema,
)
from tickloom.core.timestamps import EARLIEST, LATEST, parse_literals, parse_number, parse_text

MAX_SYMBOL_CHARACTERS = 64
MAX_MAGNITUDE = 1e15
MAX_DEPTH = 512
"""JSON nested deeper is ``not_json``. Without a bound of our own the interpreter's would decide, which depends on
its version and on how deep the caller stands."""
_NEAR_BYTES = 1 << 17
_FURTHEST_RECORD_MS = 1 << 51
_FURTHEST_MICROS = 1 << 62  # with a record's time still in 64 bits; no event is that far from such a record

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_GET_HEADERS = methodcaller("headers")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear, also where no end is found
_MINUS_ZERO = re.compile(rb"-0[ \t\r\n,}]")

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EventBounds:
    """How far an event may lie from its record's timestamp, in microseconds."""

    max_ahead: int
    max_age: int


class _Price(msgspec.Struct, gc=False):
    symbol: str
    timestamp: msgspec.Raw
    value: float = msgspec.field(name="price")
    open_price: float | None = None
    high_price: float | None = None
    low_price: float | None = None


class _Volume(msgspec.Struct, gc=False):
    symbol: str
    timestamp: msgspec.Raw
    value: float = msgspec.field(name="volume")


_READ = {Side.PRICES: msgspec.json.Decoder(_Price).decode, Side.VOLUMES: msgspec.json.Decoder(_Volume).decode}
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])

_Row: TypeAlias = tuple[str, int, float, float | None, float | None, float | None]
"""symbol, ts, value, open, high, low (None for volumes)."""


class _Bad(Exception):  # never leaves this module: it carries a reason out of the careful reader's depth
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail


def decode(chunk: Chunk, bounds: EventBounds) -> Decoded:
    """Rows (columns of ``rows_schema``) and rejects of a chunk, both in the chunk's order. Never raises."""
    rows, sure = _read_columns(chunk, bounds)
    if len(sure) == len(chunk.values):
        return Decoded(chunk, rows, [])
    doubtful = np.ones(len(chunk.values), dtype=np.bool_)
    doubtful[sure] = False
    more, kept, rejects = _read_each(chunk, np.flatnonzero(doubtful).tolist(), bounds)
    if kept:
        rows = pl.concat([rows, more])[np.argsort(np.concatenate([sure, kept]))]
    return Decoded(chunk, rows, rejects)


def decode_strictly(chunk: Chunk, bounds: EventBounds) -> Decoded:
    """As ``decode``, message by message: the contract itself, which the columns must equal."""
    rows, _, rejects = _read_each(chunk, range(len(chunk.values)), bounds)
    return Decoded(chunk, rows, rejects)


def without(decoded: Decoded, gone: Bools, reason: Reason, detail: str) -> Decoded:
    """Those of the rows that are ``gone`` are rejects, too."""
    dead = {(letter.source.partition, letter.offset): letter for letter in decoded.rejects}
    chunk, rejects, row = decoded.chunk, list[Reject](), 0
    for index, source in enumerate(zip(chunk.partitions.tolist(), chunk.offsets.tolist(), strict=True)):
        if source in dead:
            rejects.append(dead[source])
            continue
        if gone[row]:
            rejects.append(reject(chunk, index, reason, detail))
        row += 1
    return Decoded(chunk, decoded.rows.filter(~gone), rejects)


def reject(chunk: Chunk, index: int, reason: Reason, detail: str) -> Reject:
    """The dead letter of the chunk's message at ``index``."""
    message: RawMessage = chunk.messages[index]
    headers, lost = _headers(message)
    return Reject(
        source=TopicPartition(chunk.topic, int(chunk.partitions[index])),
        offset=int(chunk.offsets[index]),
        key=message.key(),
        value=chunk.values[index],
        headers=headers,
        timestamp_ms=int(chunk.timestamps_ms[index]),
        reason=reason,
        detail=detail + lost,
    )


def _headers(message: RawMessage) -> tuple[tuple[tuple[str, bytes | None], ...], str]:
    """A message's headers; or none, and words about it, where the client cannot read one of the names.

    Of a name that is not UTF-8 confluent-kafka makes a hole in its list, and returns the list together with an
    exception. A call from bytecode may let both pass, to fail somewhere later; one from C, as here, does not. The
    list must not be seen again: to touch the hole ends the process.
    """
    try:
        return tuple(_GET_HEADERS(message) or ()), ""
    except (SystemError, UnicodeDecodeError):
        message.set_headers([])
        return (), "; its headers are lost, since one of their names is not UTF-8"


# --- one at a time ---------------------------------------------------------------------------------------------


def _read_each(
    chunk: Chunk, indexes: Sequence[int], bounds: EventBounds
) -> tuple[pl.DataFrame, list[int], list[Reject]]:
    """The chunk's messages at ``indexes``: rows, the indexes that these have, and rejects."""
    good: list[_Row] = []
    kept: list[int] = []
    rejects: list[Reject] = []
    for index in indexes:
        try:
            row = _read_fields(chunk.side, chunk.values[index])
            _check(chunk.side, row, int(chunk.timestamps_ms[index]) * 1_000, bounds)
        except _Bad as bad:
            rejects.append(reject(chunk, index, bad.reason, bad.detail))
        else:
            good.append(row)
            kept.append(index)
    names = ("symbol", "ts", "value", "open_price", "high_price", "low_price")
    columns: dict[str, Sequence[Any]] = dict(zip(names, zip(*good, strict=True) if good else [()] * 6, strict=True))
    columns |= {
        "partition": chunk.partitions[kept].tolist(),
        "offset": chunk.offsets[kept].tolist(),
        "logged": chunk.logged[kept].tolist(),
    }
    schema = rows_schema(chunk.side)
    return pl.DataFrame({name: columns[name] for name in schema}, schema=schema), kept, rejects


def _read_fields(side: Side, value: bytes | None) -> _Row:
    """Fields in the contract's order of reasons: types of all, then symbol, numbers, time."""
    if not value:
        raise _Bad(Reason.EMPTY, "the message has no value")
    try:
        value.decode()  # msgspec does not look at the encoding of what it skips
    except UnicodeDecodeError as error:
        raise _Bad(Reason.NOT_JSON, f"not UTF-8: {error.reason} at byte {error.start}") from None
    if _may_be_deep(value) and _depth(value) > MAX_DEPTH:
        raise _Bad(Reason.NOT_JSON, f"nested deeper than {MAX_DEPTH}")
    try:
        fields = _FIELDS.decode(value)
    except RecursionError:
        raise _Bad(Reason.NOT_JSON, "nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise _Bad(Reason.NOT_JSON, str(error)) from None
    raw = {name: bytes(field) for name, field in fields.items()}
    value_name, optional = FEEDS[side].value, FEEDS[side].optional
    for name in ("symbol", value_name, "timestamp"):
        if name not in raw:
            raise _Bad(Reason.SCHEMA, f"{name} is missing")
    _expect(raw["symbol"][:1] == b'"', "symbol is not a string")
    numbers = {
        name: raw[name] for name in (value_name, *optional) if raw.get(name, b"null") != b"null" or name == value_name
    }
    for name, literal in numbers.items():
        _expect(_is_number(literal), f"{name} is not a number")
    _expect(raw["timestamp"][:1] == b'"' or _is_number(raw["timestamp"]), "timestamp is no string or number")
    symbol = _text(raw["symbol"])
    _check_symbol(symbol)
    parsed = {name: float(literal) for name, literal in numbers.items()}
    for name, number in parsed.items():
        _check_number(name, number)
    low = [parsed.get(name) for name in ("open_price", "high_price", "low_price")]
    return (symbol, _event_time(raw["timestamp"]), parsed[value_name], low[0], low[1], low[2])


def _may_be_deep(value: bytes) -> bool:
    """Whether JSON that is nested too deeply has room in it; for most values that can be told without a look.

    A level takes two bytes as an array and five as an object, with its key. Brackets are counted by deleting them, which
    is faster than ``count`` as long as they are few.
    """
    size, levels = len(value), MAX_DEPTH + 1
    if size < 2 * levels:
        return False
    arrays = size - len(value.replace(b"[", b""))
    if arrays < levels and 2 * arrays + 5 * (levels - arrays) > size:
        return False
    return arrays + size - len(value.replace(b"{", b"")) >= levels


def _depth(value: bytes) -> int:
    """How deep a JSON value is nested; of bytes that are no JSON, any number."""
    raw = np.frombuffer(_STRING.sub(b"", value), dtype=np.uint8) | 0x20  # "[" and "]" become "{" and "}"
    return int(np.cumsum((raw == ord("{")).astype(np.int32) - (raw == ord("}"))).max(initial=0))


def _expect(holds: bool, detail: str) -> None:
    if not holds:
        raise _Bad(Reason.SCHEMA, detail)


def _is_number(literal: bytes) -> bool:
    return literal[:1] in b"-0123456789" and literal != b""


def _text(literal: bytes) -> str:
    try:
        return msgspec.json.decode(literal, type=str)
    except msgspec.MsgspecError as error:
        raise _Bad(Reason.NOT_JSON, str(error)) from None


def _event_time(literal: bytes) -> int:
    if literal[:1] == b'"':
        micros = parse_text(_text(literal))
        if micros is None:
            raise _Bad(Reason.BAD_TIMESTAMP, f"not an ISO-8601 time: {literal[:80].decode(errors='replace')}")
        return micros
    if not _is_number(literal):
        raise _Bad(Reason.SCHEMA, "timestamp is no string or number")
    return parse_number(literal.decode())


def _check(side: Side, row: _Row, record_micros: int, bounds: EventBounds) -> None:
    symbol, micros, value, *optional = row
    _check_symbol(symbol)
    _check_number(FEEDS[side].value, value)
    for name, number in zip(("open_price", "high_price", "low_price"), optional, strict=True):
        if number is not None:
            _check_number(name, number)
    if not EARLIEST <= micros < LATEST:
        raise _Bad(Reason.OUT_OF_BOUNDS, "the event lies outside the years 2 to 9998")
    if not record_micros - bounds.max_age <= micros <= record_micros + bounds.max_ahead:
        raise _Bad(Reason.OUT_OF_BOUNDS, "the event lies too far from its record's timestamp")
    _, high, low = optional
    if high is not None and low is not None and high < low:
        raise _Bad(Reason.INCONSISTENT, f"high_price {high} is below low_price {low}")


def _check_symbol(symbol: str) -> None:
    if not symbol:
        raise _Bad(Reason.BAD_SYMBOL, "symbol is empty")
    if len(symbol) > MAX_SYMBOL_CHARACTERS:
        raise _Bad(
            Reason.BAD_SYMBOL, f"symbol has {len(symbol)} characters, at most {MAX_SYMBOL_CHARACTERS} are allowed"
        )
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in symbol):
        raise _Bad(Reason.BAD_SYMBOL, "symbol holds a control character")


def _check_number(name: str, number: float) -> None:
    if math.isinf(number):
        raise _Bad(Reason.BAD_NUMBER, f"{name} is beyond float8")
    if abs(number) > MAX_MAGNITUDE:
        raise _Bad(Reason.BAD_NUMBER, f"{name} has a magnitude over 1e15")
    if name == "volume" and number < 0:
        raise _Bad(Reason.BAD_NUMBER, "volume is below 0")


# --- a whole chunk at once -------------------------------------------------------------------------------------


def _read_columns(chunk: Chunk, bounds: EventBounds) -> tuple[pl.DataFrame, Ints]:
    """The rows of the messages that are certainly good, and their indexes in the chunk."""
    index, read, doubtful = _read_typed(chunk)
    micros, in_doubt = _event_times([row.timestamp for row in read])
    doubtful |= in_doubt | _out_of_bounds(micros, chunk.timestamps_ms[index], bounds)
    symbols = [row.symbol for row in read]
    names = ("value", *FEEDS[chunk.side].optional)
    numbers = {name: np.array(list(map(attrgetter(name), read)), np.float64) for name in names}  # NaN: there is none
    doubtful |= _symbols_doubtful(symbols) | _numbers_doubtful(chunk.side, numbers)
    zero = np.logical_or.reduce([column == 0 for column in numbers.values()])
    for row in np.flatnonzero(zero & ~doubtful).tolist():
        doubtful[row] = _holds_minus_zero(chunk.values[index[row]])
    rows = pl.DataFrame(
        [
            pl.Series("symbol", symbols, pl.String),
            pl.Series("ts", micros),
            *(pl.Series(name, column, nan_to_null=True) for name, column in numbers.items()),
            pl.Series("partition", chunk.partitions[index].astype(np.int32)),
            pl.Series("offset", chunk.offsets[index]),
            pl.Series("logged", chunk.logged[index]),
        ]
    )
    if doubtful.any():
        return rows.filter(~doubtful), index[~doubtful]
    return rows, index


def _read_typed(chunk: Chunk) -> tuple[Ints, list[Any], Bools]:
    """The indexes of the messages that msgspec takes, what it makes of them, and which of them their bytes put in doubt.

    Some messages at a time: long values are then looked at again while the processor still has them at hand.
    """
    read: list[Any] = []
    refused: list[int] = []
    doubtful: list[bool] = []
    count = len(chunk.values)
    step = max(1, count * _NEAR_BYTES // max(1, chunk.value_bytes))
    for start in range(0, count, step):
        values: Any = chunk.values[start : start + step]
        before, left = len(refused), iter(values)
        while True:
            try:
                read.extend(map(_READ[chunk.side], left))
                break
            except (
                ValueError,
                TypeError,
                RecursionError,
            ):  # not UTF-8, no JSON, other types; no value; nested too deep
                refused.append(len(read) + len(refused))
        if len(refused) > before:
            values = np.delete(np.array(values, dtype=object), np.array(refused[before:]) - start).tolist()
        together, longest = b"".join(values), max(map(len, values), default=0)
        if together.isascii() and (longest <= 2 * MAX_DEPTH or not _may_be_deep(together)):
            doubtful.extend(itertools.repeat(False, len(values)))
        else:
            doubtful.extend(map(_bytes_doubtful, values))
    return np.delete(np.arange(count), refused), read, np.array(doubtful, dtype=np.bool_)


def _event_times(literals: Sequence[Any]) -> tuple[Ints, Bools]:
    """Microseconds, and which of them are in doubt."""
    micros, known = parse_literals(literals)
    doubtful = np.zeros(len(literals), dtype=np.bool_)
    for row in np.flatnonzero(~known).tolist():
        try:
            micros[row] = _event_time(bytes(literals[row]))
        except (_Bad, UnicodeDecodeError):
            doubtful[row] = True
    return micros, doubtful


def _out_of_bounds(micros: Ints, records_ms: Ints, bounds: EventBounds) -> Bools:
    far = (records_ms <= -_FURTHEST_RECORD_MS) | (records_ms >= _FURTHEST_RECORD_MS)
    record = np.where(far, 0, records_ms) * 1_000  # else in microseconds they could leave 64 bits
    max_age, max_ahead = min(bounds.max_age, _FURTHEST_MICROS), min(bounds.max_ahead, _FURTHEST_MICROS)
    away = (micros < record - max_age) | (micros > record + max_ahead)
    return far | away | (micros < EARLIEST) | (micros >= LATEST)


def _symbols_doubtful(symbols: Sequence[str]) -> Bools:
    sizes = np.fromiter(map(len, symbols), np.int64, len(symbols))
    doubtful = (sizes == 0) | (sizes > MAX_SYMBOL_CHARACTERS)
    if not "".join(symbols).isprintable():  # control characters are not; of all in one go, since they are rare
        for row in np.flatnonzero([not symbol.isprintable() for symbol in symbols]).tolist():
            doubtful[row] |= _CONTROL.search(symbols[row]) is not None
    return doubtful


def _numbers_doubtful(side: Side, numbers: Mapping[str, Floats]) -> Bools:
    doubtful = np.logical_or.reduce([np.abs(column) > MAX_MAGNITUDE for column in numbers.values()])
    if side is Side.VOLUMES:
        return doubtful | (numbers["value"] < 0)
    return doubtful | (numbers["high_price"] < numbers["low_price"])


def _bytes_doubtful(value: bytes) -> bool:
    """What msgspec does not tell of what it skips: bytes that are not UTF-8, mad nesting."""
    if len(value) > 2 * MAX_DEPTH and _may_be_deep(value) and _depth(value) > MAX_DEPTH:
        return True
    return not value.isascii() and not _is_utf8(value)


def _holds_minus_zero(value: Any) -> bool:
    """Whether a zero may be a -0, of which msgspec makes 0."""
    return b"-0" in value and _MINUS_ZERO.search(value) is not None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
