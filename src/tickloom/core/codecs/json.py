"""JSON values, by two readers of one contract.

1. Msgspec reads each value into a typed struct, strictly, and the structs become columns. It refuses some good values
   (a repeated key whose last value is fine), and it overlooks some details: bytes that are not UTF-8 and deep nesting
   in fields that it skips, the type of a time, and the sign of ``-0``.
2. ``fields_of`` reads one value field by field. It reads what the first reader refuses or may have overlooked, and
   finds the first fault in the contract's order.

So a bad value slows down only itself, and not its neighbours. Tests hold both readers equal to an independent judge.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import compress
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from tickloom.core.arrays import Floats, Ints
from tickloom.core.codecs.codec import Columns, Fault, Fields
from tickloom.core.model import Feed, Reason
from tickloom.core.timestamps import UNREACHABLE, parse_literal, parse_literals

MAX_DEPTH = 512
"""JSON nested deeper is ``not_json``. Without this bound the interpreter's would decide, which depends on its
version and on the depth of the call."""
_FIRST_PART = 64
_PART_BYTES = 1 << 17
_SHOWN_BYTES = 80

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear, also where no end is found
_MINUS_ZERO = re.compile(rb"-0[ \t\r\n,}]")
_NULL = msgspec.Raw(b"null")


class Json:
    """The codec of JSON objects, encoded in UTF-8. It has no state."""

    def read(self, feed: Feed, values: Sequence[bytes]) -> Columns:
        """See ``Codec.read``. Numbers are exact to the last bit, and times are read from their digits."""
        reading = _Reading(feed, values, _decoder_of(feed.value, feed.optional))
        reading.take_all()
        micros, not_times = reading.times()
        return Columns(
            positions=reading.positions(),
            symbols=[message.symbol for message in reading.taken],
            micros=micros,
            numbers=reading.numbers(),
            not_times=not_times,
            faults=reading.faults,
        )


JSON = Json()


# --- one value ---------------------------------------------------------------------------------------------------


def fields_of(feed: Feed, value: bytes) -> Fields | Fault:
    """The fields of one value, or its first fault: first the format, then the types of all fields. Never raises."""
    if fault := _fault_in_bytes(value):
        return fault
    try:
        literals = {name: bytes(literal) for name, literal in _FIELDS.decode(value).items()}
    except RecursionError:
        return Fault(Reason.NOT_JSON, "nested too deeply")
    except msgspec.MsgspecError as error:
        return Fault(Reason.NOT_JSON, str(error))
    present = {name: literals[name] for name in feed.numbers if literals.get(name, b"null") != b"null"}
    if wrong := _wrong_type(feed, literals, present):
        return Fault(Reason.SCHEMA, wrong)
    time = literals["timestamp"]
    micros = parse_literal(time)
    return Fields(
        symbol=_TEXT.decode(literals["symbol"]),
        time=time[:_SHOWN_BYTES].decode(errors="replace") if micros is None else micros,
        numbers={name: float(literal) for name, literal in present.items()},
    )


def _fault_in_bytes(value: bytes) -> Fault | None:
    """The faults that msgspec overlooks in fields that it skips."""
    if wrong := _not_utf8(value):
        return Fault(Reason.NOT_JSON, wrong)
    if _may_be_deep(value) and _depth(value) > MAX_DEPTH:
        return Fault(Reason.NOT_JSON, f"nested deeper than {MAX_DEPTH}")
    return None


def _not_utf8(value: bytes) -> str | None:
    """The first bytes that are not UTF-8, in words."""
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8: {error.reason} at byte {error.start}"
    return None


def _wrong_type(feed: Feed, literals: dict[str, bytes], numbers: dict[str, bytes]) -> str | None:
    """The first field that is missing or has the wrong type, in words. ``numbers``: those that are not null."""
    for name in ("symbol", feed.value, "timestamp"):
        if name not in literals:
            return f"{name} is missing"
    if literals["symbol"][:1] != b'"':
        return "symbol is not a string"
    for name, literal in ({feed.value: literals[feed.value]} | numbers).items():
        if not _is_number(literal):
            return f"{name} is not a number"
    if literals["timestamp"][:1] != b'"' and not _is_number(literals["timestamp"]):
        return "timestamp is neither a string nor a number"
    return None


def _is_number(literal: bytes) -> bool:
    return literal[:1] in b"-0123456789" and literal != b""


def _may_be_deep(value: bytes) -> bool:
    """Whether a value is large enough for JSON that is nested too deeply. Most are too short, and need no closer check.

    A level takes two bytes as an array and five as an object, with its key. Brackets are counted by deleting them,
    which is faster than ``count`` as long as they are few.
    """
    size, levels = len(value), MAX_DEPTH + 1
    if size < 2 * levels:
        return False
    arrays = size - len(value.replace(b"[", b""))
    if arrays < levels and 2 * arrays + 5 * (levels - arrays) > size:
        return False
    return arrays + size - len(value.replace(b"{", b"")) >= levels


def _depth(value: bytes) -> int:
    """How deep a JSON value is nested; any number for bytes that are not JSON."""
    raw = np.frombuffer(_STRING.sub(b"", value), dtype=np.uint8) | 0x20  # "[" and "]" become "{" and "}"
    return int(np.cumsum((raw == ord("{")).astype(np.int32) - (raw == ord("}"))).max(initial=0))


# --- many values -------------------------------------------------------------------------------------------------


@cache
def _decoder_of(value: str, optional: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """The decoder of structs: ``symbol``, ``timestamp`` as its literal, ``value``, and the optional numbers by name."""
    fields = [("symbol", str), ("timestamp", msgspec.Raw), ("value", float)]
    numbers = [(name, float | None, None) for name in optional]
    return msgspec.json.Decoder(msgspec.defstruct("Message", [*fields, *numbers], rename={"value": value}, gc=False))


@dataclass(slots=True)
class _Reading:
    """One call of ``read``. ``taken``: a struct for each value that could be read, in order.

    ``reread``: by position, what ``fields_of`` says about a value that msgspec refused; its struct has no timestamp.
    """

    feed: Feed
    values: Sequence[bytes]
    decoder: msgspec.json.Decoder[Any]
    taken: list[Any] = field(default_factory=list[Any])
    reread: dict[int, Fields] = field(default_factory=dict[int, Fields])
    faults: dict[int, Fault] = field(default_factory=dict[int, Fault])

    def positions(self) -> Ints:
        """Which value each struct comes from."""
        positions = np.arange(len(self.values))
        return np.delete(positions, list(self.faults)) if self.faults else positions

    def take_all(self) -> None:
        """Read all values, in parts that fit into the processor's cache: each part is read and then searched."""
        start, size = 0, _FIRST_PART
        while start < len(self.values):
            stop = min(start + size, len(self.values))
            part_bytes = self._take(start, stop)
            size = max(1, (stop - start) * _PART_BYTES // max(1, part_bytes))
            start = stop

    def _take(self, start: int, stop: int) -> int:
        """Read the values [``start``, ``stop``). Returns the size in bytes of those that were taken."""
        before, bad = len(self.taken), list[int]()
        values = list(self.values[start:stop])
        left = iter(values)
        while True:
            try:
                self.taken.extend(map(self.decoder.decode, left))
                break
            except (ValueError, RecursionError):  # not UTF-8, not JSON, another type; nested too deeply
                at = len(self.taken) - before + len(bad)
                if not self._reread(start + at):
                    bad.append(at)
        for at in reversed(bad):
            del values[at]
        together = b"".join(values)  # each begins and ends in ASCII, so no character forms in between
        shallow = max(map(len, values), default=0) <= 2 * MAX_DEPTH or not _may_be_deep(together)
        if not shallow or _not_utf8(together):
            self._search(start, stop)
        return len(together)

    def _reread(self, position: int) -> bool:
        """Read a value that msgspec refused. Returns whether it could be read."""
        found = fields_of(self.feed, self.values[position])
        if isinstance(found, Fault):
            self.faults[position] = found
            return False
        self.reread[position] = found
        numbers = map(found.numbers.get, self.feed.numbers)
        self.taken.append(self.decoder.type(found.symbol, _NULL, *numbers))
        return True

    def _search(self, start: int, stop: int) -> None:
        """Search the values [``start``, ``stop``), the last that were read, for faults that msgspec overlooks."""
        kept = [position for position in range(start, stop) if position not in self.faults]
        found = {position: fault for position in kept if (fault := _fault_in_bytes(self.values[position]))}
        if found:
            self.faults |= found
            self.taken[-len(kept) :] = compress(self.taken[-len(kept) :], [at not in found for at in kept])

    def times(self) -> tuple[Ints, dict[int, str]]:
        """The times in µs, and by position those that are not times. Drops the structs with another type there."""
        micros, known = parse_literals([message.timestamp for message in self.taken])
        not_times: dict[int, str] = {}
        if known.all():
            return micros, not_times
        positions, good = self.positions(), np.ones(len(micros), dtype=np.bool_)
        for row in np.flatnonzero(~known).tolist():
            position = int(positions[row])
            found = self.reread.get(position) or fields_of(self.feed, self.values[position])
            if isinstance(found, Fault):
                self.faults[position] = found
                good[row] = False
            elif isinstance(found.time, str):
                not_times[position] = found.time
                micros[row] = UNREACHABLE
            else:
                micros[row] = found.time
        if not good.all():
            self.taken = list(compress(self.taken, good.tolist()))
        return micros[good], not_times

    def numbers(self) -> dict[str, Floats]:
        """The columns of numbers; NaN where a value has none."""
        columns = {self.feed.value: np.array([message.value for message in self.taken], dtype=np.float64)}
        for name in self.feed.optional:
            columns[name] = np.array(list(map(attrgetter(name), self.taken)), dtype=np.float64)
        zero = np.logical_or.reduce([column == 0 for column in columns.values()])
        if zero.any():
            positions = self.positions()
            for row in np.flatnonzero(zero).tolist():
                value = self.values[positions[row]]
                if b"-0" not in value or _MINUS_ZERO.search(value) is None:
                    continue
                found = fields_of(self.feed, value)  # msgspec makes 0 of -0
                if isinstance(found, Fields):
                    for name, number in found.numbers.items():
                        columns[name][row] = number
        return columns
