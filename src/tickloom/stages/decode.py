"""decode: raw bytes become typed rows or rejects. Pure: no I/O, no clock, and no input raises.

Three readers of one contract, fastest first; each leaves to the next what it cannot prove clean:

1. ``decode_at_once``: polars reads the whole chunk in one call, outside the GIL. It is lenient where the
   contract is not (numbers as text, repeated keys, missing fields), so its answer counts only when the guards
   prove that no such thing is in the chunk. Its set-up is not worth while for few messages.
2. ``_decode_typed``: msgspec, message by message, strict.
3. ``_decode_carefully``: field by field, for what msgspec refused: finds the first reason in the contract's
   order, or the row, where msgspec was stricter than the contract (a repeated key whose last value is fine).

Property tests hold the three equal on any input.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import TypeAlias, cast

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tickloom.model import (
    OPTIONAL_COLUMNS,
    VALUE_COLUMN,
    Chunk,
    Decoded,
    RawMessage,
    Reason,
    Reject,
    Side,
    TopicPartition,
    rows_schema,
)
from tickloom.timestamps import EARLIEST, LATEST, parse_column, parse_number, parse_text

MAX_SYMBOL_CHARACTERS = 64
MAX_MAGNITUDE = 1e15
MAX_DEPTH = 512
"""JSON nested deeper is ``not_json``. Without a bound of our own the interpreter's would decide, which depends on
its version and on how deep the caller stands."""
MAX_FAST_VALUE_BYTES = 2 * MAX_DEPTH
"""Larger values go to the strict readers: in what is not larger, no JSON is nested deeper than ``MAX_DEPTH``."""

_FEW = 150
"""So many messages take as long one by one as the fast reader's set-up alone."""

_FURTHEST_RECORD_MS = 1 << 51
_FURTHEST_MICROS = 1 << 62  # with a record's time still in 64 bits; no event is that far from such a record

_CONTROL = r"[\x00-\x1f\x7f-\x9f]"
_LOOKS_LIKE_ANOTHER_TYPE = r"^[-0-9\[{]|^true$|^false$"
_GET_HEADERS = methodcaller("headers")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear, also where no end is found
_MINUS_ZERO = re.compile(rb"-0[ \t\r\n,}]")


@dataclass(frozen=True, slots=True)
class EventBounds:
    """How far an event may lie from its record's timestamp, in microseconds."""

    max_ahead: int
    max_age: int


class _Price(msgspec.Struct, gc=False):
    symbol: str
    price: float
    timestamp: msgspec.Raw
    open_price: float | None = None
    high_price: float | None = None
    low_price: float | None = None


class _Volume(msgspec.Struct, gc=False):
    symbol: str
    volume: float
    timestamp: msgspec.Raw


_TYPED = {Side.PRICES: msgspec.json.Decoder(_Price), Side.VOLUMES: msgspec.json.Decoder(_Volume)}
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])

_Row: TypeAlias = tuple[str, int, float, float | None, float | None, float | None]
"""symbol, ts, value, open, high, low (None for volumes)."""


class _Bad(Exception):  # never leaves this module: it carries a reason out of the careful reader's depth
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail


def decode(chunk: Chunk, bounds: EventBounds) -> Decoded:
    """Rows (columns of ``rows_schema``) and rejects of a chunk, both in the chunk's order. Never raises."""
    return (decode_strictly if len(chunk.values) <= _FEW else decode_at_once)(chunk, bounds)


def decode_at_once(chunk: Chunk, bounds: EventBounds) -> Decoded:
    """As ``decode``, by the fast reader wherever that can prove the chunk clean."""
    rows = _rows_at_once(chunk, bounds)
    if rows is not None:
        return Decoded(chunk, rows, [])
    return decode_strictly(chunk, bounds)


def decode_strictly(chunk: Chunk, bounds: EventBounds) -> Decoded:
    """As ``decode``, message by message: the contract itself, which the fast reader must equal."""
    good: list[_Row] = []
    kept: list[int] = []
    rejects: list[Reject] = []
    for index, (value, record_ms) in enumerate(zip(chunk.values, chunk.timestamps_ms.tolist(), strict=True)):
        try:
            row = _decode_one(chunk.side, value)
            _check(chunk.side, row, record_ms * 1_000, bounds)
        except _Bad as bad:
            rejects.append(reject(chunk, index, bad.reason, bad.detail))
        else:
            good.append(row)
            kept.append(index)
    return Decoded(chunk, _frame(chunk, good, kept), rejects)


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


def _frame(chunk: Chunk, rows: Sequence[_Row], kept: Sequence[int]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) or [()] * 6
    named: dict[str, tuple[object, ...]] = dict(
        zip(("symbol", "ts", "value", "open_price", "high_price", "low_price"), columns, strict=True)
    )
    named["partition"], named["offset"] = tuple(chunk.partitions[kept].tolist()), tuple(chunk.offsets[kept].tolist())
    schema = rows_schema(chunk.side)
    return pl.DataFrame([pl.Series(name, list(named[name]), dtype) for name, dtype in schema.items()])


# --- one at a time ---------------------------------------------------------------------------------------------


def _decode_one(side: Side, value: bytes | None) -> _Row:
    if not value:
        raise _Bad(Reason.EMPTY, "the message has no value")
    try:
        value.decode()  # msgspec does not look at the encoding of what it skips
    except UnicodeDecodeError as error:
        raise _Bad(Reason.NOT_JSON, f"not UTF-8: {error.reason} at byte {error.start}") from None
    if len(value) > MAX_FAST_VALUE_BYTES and _depth(value) > MAX_DEPTH:
        raise _Bad(Reason.NOT_JSON, f"nested deeper than {MAX_DEPTH}")
    try:
        return _decode_typed(side, value)
    except (msgspec.MsgspecError, _Bad, RecursionError):
        return _decode_carefully(side, value)


def _depth(value: bytes) -> int:
    """How deep a JSON value is nested; of bytes that are no JSON, any number."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return 0  # not worth a closer look
    raw = np.frombuffer(_STRING.sub(b"", value), dtype=np.uint8) | 0x20  # "[" and "]" become "{" and "}"
    return int(np.cumsum((raw == ord("{")).astype(np.int32) - (raw == ord("}"))).max(initial=0))


def _decode_typed(side: Side, value: bytes) -> _Row:
    typed = _TYPED[side].decode(value)
    micros = _event_time(bytes(typed.timestamp))
    if isinstance(typed, _Price):
        row = (typed.symbol, micros, typed.price, typed.open_price, typed.high_price, typed.low_price)
    else:
        row = (typed.symbol, micros, typed.volume, None, None, None)
    if 0 in row[2:] and _MINUS_ZERO.search(value):
        raise _Bad(Reason.BAD_NUMBER, "perhaps a -0, which msgspec reads as 0")  # the careful reader will tell
    return row


def _decode_carefully(side: Side, value: bytes) -> _Row:
    """Fields in the contract's order of reasons: types of all, then symbol, numbers, time."""
    try:
        fields = _FIELDS.decode(value)
    except RecursionError:
        raise _Bad(Reason.NOT_JSON, "nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise _Bad(Reason.NOT_JSON, str(error)) from None
    raw = {name: bytes(field) for name, field in fields.items()}
    value_name, optional = VALUE_COLUMN[side], OPTIONAL_COLUMNS[side]
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
    _check_number(VALUE_COLUMN[side], value)
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


def _rows_at_once(chunk: Chunk, bounds: EventBounds) -> pl.DataFrame | None:
    """The chunk's rows where every message is provably a clean row, else None."""
    columns = _read_clean_json(chunk)
    if columns is None:
        return None
    micros = parse_column(columns["timestamp"])
    if micros is None:
        return None
    if not -_FURTHEST_RECORD_MS < chunk.timestamps_ms.min() <= chunk.timestamps_ms.max() < _FURTHEST_RECORD_MS:
        return None  # in microseconds they could leave 64 bits
    record = chunk.timestamps_ms * 1_000
    max_age, max_ahead = min(bounds.max_age, _FURTHEST_MICROS), min(bounds.max_ahead, _FURTHEST_MICROS)
    if micros.max() >= LATEST or ((micros < record - max_age) | (micros > record + max_ahead)).any():
        return None
    if not _symbols_clean(columns["symbol"]) or not _numbers_clean(chunk.side, columns):
        return None
    value, optional = columns[VALUE_COLUMN[chunk.side]], OPTIONAL_COLUMNS[chunk.side]
    return pl.DataFrame(
        [
            columns["symbol"],
            pl.Series("ts", micros),
            value.alias("value"),
            *(columns[name] for name in optional),
            pl.Series("partition", chunk.partitions, pl.Int32),
            pl.Series("offset", chunk.offsets, pl.Int64),
        ]
    )


def _read_clean_json(chunk: Chunk) -> pl.DataFrame | None:
    """The chunk's fields, if each line is one object that has each known field once, and nothing else.

    Proof, with no backslash and no line break inside a value: each line is one value; every key has two quotes,
    and so has each text. Rows × required fields not null plus the optional ones not null, times two, plus two
    texts a row, is the least number of quotes that such rows can have: one more key anywhere exceeds it.
    A number or boolean that polars turned into a text would hide two quotes: `_symbols_clean` and the time's
    grammar refuse these. What polars itself takes for something else is kept from it or refused after it: a chunk
    that begins like a compressed file, a `-0` (read as 0), an exponent past 32 bits (read modulo 2**32).
    """
    size = len(chunk.values)
    try:
        joined = b"\n".join(cast("Sequence[bytes]", chunk.values))
    except TypeError:  # a message without a value
        return None
    raw = np.frombuffer(joined, dtype=np.uint8)
    breaks = np.flatnonzero(raw == 0x0A)
    if len(breaks) != size - 1 or b"\\" in joined or not joined.startswith(b"{"):
        return None
    lengths = np.diff(breaks, prepend=-1, append=len(raw)) - 1
    if not 0 < lengths.min() <= lengths.max() <= MAX_FAST_VALUE_BYTES or _may_hold_long_exponent(raw):
        return None
    required = {"symbol": pl.String(), VALUE_COLUMN[chunk.side]: pl.Float64(), "timestamp": pl.String()}
    optional = {name: pl.Float64() for name in OPTIONAL_COLUMNS[chunk.side]}
    try:
        columns = pl.read_ndjson(joined, schema=required | optional)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None  # not an error here: the strict reader will name each bad message
    if columns.height != size or any(columns[name].null_count() for name in required):
        return None
    present = sum(size - columns[name].null_count() for name in columns.columns)
    if np.count_nonzero(raw == 0x22) != 2 * present + 4 * size:
        return None
    zeros = any((columns[name] == 0).any() for name in columns.columns if name not in ("symbol", "timestamp"))
    return None if zeros and _may_hold_minus_zero(raw) else columns


def _may_hold_long_exponent(raw: NDArray[np.uint8]) -> bool:
    """Never False where an exponent has ten digits or more, the least to pass 32 bits; nearly always else."""
    for letter in b"eE":  # few bytes are: to look at those alone costs a fifth of looking at all
        at = np.flatnonzero(raw[:-10] == letter)
        for ahead in (2, 6, 10):  # the next byte may be a sign
            at = at[raw[at + ahead] - np.uint8(ord("0")) < 10]  # wraps around for what lies below "0"
        if len(at):
            return True
    return False


def _may_hold_minus_zero(raw: NDArray[np.uint8]) -> bool:
    """Never False where a number is written `-0`."""
    at = np.flatnonzero(raw[:-2] == ord("-"))
    after = raw[at[raw[at + 1] == ord("0")] + 2]
    return bool(((after <= ord(" ")) | (after == ord(",")) | (after == ord("}"))).any())


def _symbols_clean(symbols: pl.Series) -> bool:
    symbol = pl.col("symbol")
    shortest, longest, suspicious = (
        symbols.unique()
        .to_frame("symbol")
        .select(
            shortest=symbol.str.len_chars().min(),
            longest=symbol.str.len_chars().max(),
            suspicious=symbol.str.contains(f"{_LOOKS_LIKE_ANOTHER_TYPE}|{_CONTROL}").any(),
        )
        .row(0)
    )
    return not suspicious and 0 < shortest <= longest <= MAX_SYMBOL_CHARACTERS


def _numbers_clean(side: Side, columns: pl.DataFrame) -> bool:
    for name in (VALUE_COLUMN[side], *OPTIONAL_COLUMNS[side]):
        least, most = columns[name].min(), columns[name].max()
        if (
            isinstance(least, float)
            and isinstance(most, float)
            and not (least >= -MAX_MAGNITUDE and most <= MAX_MAGNITUDE)
        ):
            return False
        if name == "volume" and isinstance(least, float) and least < 0:
            return False
    if side is Side.PRICES:
        return not (columns["high_price"] < columns["low_price"]).any()
    return True
