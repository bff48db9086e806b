"""Message shapes: the same ticks, written as different producers write them. Pure, and needs nothing but the generator.

A **shape** rewrites the plain messages of ``tickloom.synthetic``: the symbol's spelling, the form of the time, unknown
fields, the order of keys, white space. The event stays the same. Three exceptions, all on purpose:

* A shape may give the symbols other names. Both sides of a pair get the same name, and the Kafka key is its UTF-8.
* Some forms of time cannot hold microseconds (``cuts_times``). The time is then cut, by a rule that looks at the event
  time only: both sides of a pair are cut alike and still meet, but two pairs of a symbol may become one.
* Some shapes replace a share of the messages by bad ones or by tombstones: exactly one in each run of so many messages,
  at a place that a seeded generator draws.

The same ticks in the same order give the same bytes, always. What is no plain message (a bad one, say) is left as it is.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import permutations
from random import Random
from typing import NamedTuple, TypeAlias

from tickloom.synthetic import Tick, TopicSide, bad_values, iso, symbol_name

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000
_MINUTE = 60 * _SECOND

_PLAIN = re.compile(
    rb'\{"symbol":"SYM(\d+)","(price|volume)":(-?\d+(?:\.\d+)?),'
    rb'"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z"((?:,"\w+":-?\d+(?:\.\d+)?)*)\}'
)
"""A valid message of the generator: number of the symbol, name and number of the value, time, the optional numbers."""


class Parts(NamedTuple):
    """A plain message, taken apart. ``symbol`` and ``time`` are JSON already; ``others`` begins with a comma or is empty."""

    number: int
    """Of the message in its log, from 0."""
    symbol: str
    name: str
    value: str
    time: str
    others: str


Written: TypeAlias = tuple[str, int]
"""A time as JSON, and the instant (µs since 1970) that this says."""
Key: TypeAlias = tuple[TopicSide, str, int]
"""Side, symbol and instant (µs since 1970): what a row is known by."""


# --- the symbol ---------------------------------------------------------------------------------------------


def _ticker_of_digits(index: int) -> str:
    """As in Hong Kong, Tokyo and Shanghai, in turn."""
    return (f"{index:04d}.HK", f"{1_000 + index}.T", f"{600_000 + index}")[index % 3]


def _currency_pair(index: int) -> str:
    return f"{symbol_name(index)}/USD"


def _symbol_beyond_ascii(index: int) -> str:
    """Two, three and four bytes a character, in turn."""
    return (f"Ø{index:04d}", f"日経{index:04d}", f"𝕏{index:04d}")[index % 3]


def _quoted(symbol: str) -> str:
    return f'"{symbol}"'


def _escaped_slash(symbol: str) -> str:
    return f'"{symbol}"'.replace("/", "\\/")


def _unicode_escaped(symbol: str) -> str:
    """Each character beyond ASCII as ``\\u``, in UTF-16 as JSON asks; also the first digit, which needs it not."""
    units = symbol.encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    first = next(place for place, code in enumerate(codes) if 0x30 <= code <= 0x39)
    escaped = (f"\\u{code:04x}" if code > 0x7E or place == first else chr(code) for place, code in enumerate(codes))
    return f'"{"".join(escaped)}"'


# --- the time -----------------------------------------------------------------------------------------------


def _iso_microseconds(micros: int) -> Written:
    return f'"{iso(micros)}"', micros


def _iso_milliseconds(micros: int) -> Written:
    return f'"{iso(micros)[:23]}Z"', micros - micros % 1_000


def _iso_offset(micros: int) -> Written:
    return f'"{iso(micros + 330 * _MINUTE)[:-1]}+05:30"', micros


def _iso_space(micros: int) -> Written:
    return f'"{iso(micros)[:-1].replace("T", " ")}"', micros


_MIXED = (
    ("T", 26, "Z", 0),
    ("T", 23, "Z", 0),
    (" ", 26, "", 0),
    ("T", 29, "Z", 0),
    ("T", 26, "+05:30", 330),
    ("T", 19, "Z", 0),
    (" ", 23, "+02", 120),
    ("T", 29, "-0500", -300),
    ("T", 26, "", 0),
    ("T", 21, "Z", 0),
    (" ", 19, "", 0),
    ("T", 23, "-08:00", -480),
    ("T", 22, "+0900", 540),
    (" ", 29, "Z", 0),
    ("T", 28, "+01", 60),
    ("T", 16, "Z", 0),
)
"""Separator; how much of YYYY-MM-DDTHH:MM:SS.fffffffff is written; zone, as text and in minutes."""
_CUT = {16: _MINUTE, 19: _SECOND, 21: 100_000, 22: 10_000, 23: 1_000}
"""Microseconds to which a time of such a width is cut."""


def _iso_mixed(micros: int) -> Written:
    separator, width, zone, minutes = _MIXED[(micros * 2_654_435_761 >> 16) % len(_MIXED)]
    text = f"{iso(micros + minutes * _MINUTE)[:-1]}789"[:width].replace("T", separator)
    return f'"{text}{zone}"', micros - micros % _CUT.get(width, 1)


def _epoch_seconds(micros: int) -> Written:
    return str(micros // _SECOND), micros - micros % _SECOND


def _epoch_float(micros: int) -> Written:
    return f"{micros // _SECOND}.{micros % _SECOND:06d}", micros


def _epoch_milliseconds(micros: int) -> Written:
    return str(micros // 1_000), micros - micros % 1_000


def _epoch_microseconds(micros: int) -> Written:
    return str(micros), micros


def _epoch_nanoseconds(micros: int) -> Written:
    return f"{micros}789", micros


def _epoch_exponent(micros: int) -> Written:
    """Milliseconds as a program writes them that keeps them as a float."""
    digits = str(micros // 1_000)
    return f"{digits[0]}.{digits[1:]}E{len(digits) - 1}", micros - micros % 1_000


# --- all of it ----------------------------------------------------------------------------------------------


def _compact(parts: Parts) -> str:
    _, symbol, name, value, time, others = parts
    return f'{{"symbol":{symbol},"{name}":{value},"timestamp":{time}{others}}}'


def _followed_by(more: Callable[[int], str]) -> Callable[[Parts], str]:
    """Compact, and at its end the unknown fields that ``more`` gives for the message's number."""

    def write(parts: Parts) -> str:
        return f"{_compact(parts)[:-1]},{more(parts.number)}}}"

    return write


def _fields(parts: Parts) -> list[str]:
    """Each with its name, as they stand in a compact message."""
    return _compact(parts)[1:-1].split(",")


@cache
def _orders(size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(permutations(range(size)))


def _in_another_order(parts: Parts) -> str:
    fields = _fields(parts)
    orders = _orders(len(fields))
    return "{" + ",".join([fields[place] for place in orders[parts.number * 7 % len(orders)]]) + "}"


def _indented(parts: Parts) -> str:
    return "{\n  " + ",\n  ".join([field.replace(":", ": ", 1) for field in _fields(parts)]) + "\n}"


_VENUES = ("XNYS", "XNAS", "XLON", "XTKS", "XHKG")
_HEADLINE = " ".join(["Shares were little changed in thin trading ahead of the holiday;"] * 8)[:500]
_WIDE = ",".join(
    f'"field_{index:02d}":{index * 1.25},"label_{index:02d}":"some text {index:02d}"' for index in range(45)
)


def _venue(number: int) -> str:
    return f'"venue":"{_VENUES[number % len(_VENUES)]}"'


def _sequence(number: int) -> str:
    return f'"sequence":{number}'


def _nested(number: int) -> str:
    """Known names further down mean nothing."""
    return (
        f'"book":{{"bids":[{{"price":1.5,"size":100}},{{"price":1.25,"size":{number}}}],"asks":[],"symbol":null,'
        f'"crossed":false}},"flags":["T",null,true,[[1],[2,3]]],"source":{{"feed":{{"id":{number % 7},"name":"SIP"}}}},'
        f'"halted":false,"correction":null'
    )


def _note_with_escapes(number: int) -> str:
    return f'"note":"a \\"firm\\" price\\nfrom C:\\\\feeds\\\\{number % 10}\\t, {{not}} [JSON]"'


def _issuer_with_escapes(_: int) -> str:
    return '"issuer":"Soci\\u00e9t\\u00e9 \\ud83d\\ude00"'


@dataclass(frozen=True, slots=True)
class Shape:
    """How messages are written. The defaults are the generator's own way."""

    name: str
    says: str
    """In one line, what is special about it."""
    symbol: Callable[[int], str] = symbol_name
    """The symbol of that number, from 0."""
    spell: Callable[[str], str] = _quoted
    """A symbol as JSON."""
    time: Callable[[int], Written] = _iso_microseconds
    write: Callable[[Parts], str] = _compact
    bad_share: float = 0.0
    tombstone_share: float = 0.0
    cuts_times: bool = False
    """Whether the time that is written may be earlier than the event time."""


PLAIN = Shape("plain", "compact JSON, ISO time with microseconds, no unknown field, nothing bad")
_REALISTIC_FIELDS = _followed_by(lambda number: f"{_venue(number)},{_sequence(number)}")

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        PLAIN,
        Shape(
            "realistic",
            "ISO time with milliseconds, two unknown fields, 0.1% bad messages",
            time=_iso_milliseconds,
            write=_REALISTIC_FIELDS,
            bad_share=0.001,
            cuts_times=True,
        ),
        Shape("unknown-number", "an unknown field with a number", write=_followed_by(_sequence)),
        Shape("unknown-text", "an unknown field with a short text", write=_followed_by(_venue)),
        Shape("unknown-nested", "unknown objects, arrays, nulls and booleans", write=_followed_by(_nested)),
        Shape(
            "long-text", "an unknown text of 500 characters", write=_followed_by(lambda _: f'"headline":"{_HEADLINE}"')
        ),
        Shape("escapes", 'an unknown text with \\", \\\\, \\n and \\t', write=_followed_by(_note_with_escapes)),
        Shape(
            "unicode-escapes",
            "\\u escapes in the symbol and in an unknown text",
            symbol=_symbol_beyond_ascii,
            spell=_unicode_escaped,
            write=_followed_by(_issuer_with_escapes),
        ),
        Shape(
            "escaped-slash", "symbols such as BTC/USD, written BTC\\/USD", symbol=_currency_pair, spell=_escaped_slash
        ),
        Shape("non-ascii", "symbols beyond ASCII, as plain UTF-8", symbol=_symbol_beyond_ascii),
        Shape("digits", "tickers that begin with a digit: 0700.HK, 7203.T, 600519", symbol=_ticker_of_digits),
        Shape("key-order", "another order of the keys in each message", write=_in_another_order),
        Shape("pretty", "indented JSON, a line for each field", write=_indented),
        Shape("wide", "2 kB of unknown fields", write=_followed_by(lambda _: _WIDE)),
        Shape("iso-milliseconds", "2026-11-24T10:15:00.250Z", time=_iso_milliseconds, cuts_times=True),
        Shape("iso-offset", "2026-11-24T15:45:00.250000+05:30", time=_iso_offset),
        Shape("iso-space", "2026-11-24 10:15:00.250000", time=_iso_space),
        Shape(
            "iso-mixed", "every ISO form there is, minutes to nanoseconds, all zones", time=_iso_mixed, cuts_times=True
        ),
        Shape("epoch-seconds", "1795515300", time=_epoch_seconds, cuts_times=True),
        Shape("epoch-float", "1795515300.250000", time=_epoch_float),
        Shape("epoch-milliseconds", "1795515300250", time=_epoch_milliseconds, cuts_times=True),
        Shape("epoch-microseconds", "1795515300250000", time=_epoch_microseconds),
        Shape("epoch-nanoseconds", "1795515300250000789", time=_epoch_nanoseconds),
        Shape("epoch-exponent", "1.795515300250E12", time=_epoch_exponent, cuts_times=True),
        Shape("bad-0.1", "one message in 1,000 is bad, of any reason", bad_share=0.001),
        Shape("bad-1", "one message in 100 is bad", bad_share=0.01),
        Shape("bad-10", "one message in 10 is bad", bad_share=0.1),
        Shape("tombstones-1", "one message in 100 has no value", tombstone_share=0.01),
    )
}


def shape_named(name: str) -> Shape:
    """Raises ValueError, which lists the names, where there is none."""
    if name not in SHAPES:
        raise ValueError(f"no shape is called {name}; there are {', '.join(SHAPES)}")
    return SHAPES[name]


# --- rewriting ----------------------------------------------------------------------------------------------


class Reshaper:
    """Rewrites the ticks of one log, in their order, and counts them. Owned by one thread."""

    def __init__(self, shape: Shape, seed: int = 1) -> None:
        self._shape = shape
        self._random = Random(f"shape {shape.name} {seed}")
        self._bad_place = self._tombstone_place = -1
        self._symbols: dict[bytes, tuple[str, str, bytes]] = {}
        self._time: tuple[bytes, str, int] = (b"", "", 0)  # both sides of a pair have the same
        self._keys: set[Key] = set()
        self.messages = 0
        self.bad = 0
        """Messages that were replaced, tombstones among them."""
        self.key: Key | None = None
        """That of the row which the last message makes; None where it makes none, or was no plain message."""

    @property
    def superseded(self) -> int:
        """Valid messages whose key an earlier one has, of a log without repeats."""
        return self.messages - self.bad - len(self._keys) if self._shape.cuts_times else 0

    def rewrite(self, tick: Tick) -> Tick:
        """The next message of the log in this shape."""
        shape, number = self._shape, self.messages
        self.messages += 1
        self._draw(number)
        if number in (self._bad_place, self._tombstone_place):
            self.bad += 1
            self.key = None
            return tick._replace(value=self._bad_value(tick) if number == self._bad_place else None)
        found = _PLAIN.fullmatch(tick.value or b"")
        if found is None:
            self.key = None
            return tick
        index, name, value, moment, others = found.groups()
        symbol, spelled, key = self._symbol(index)
        time, instant = self._written(moment)
        self.key = (tick.topic_side, symbol, instant)
        if shape.cuts_times:
            self._keys.add(self.key)
        parts = Parts(number, spelled, name.decode(), value.decode(), time, others.decode())
        return tick._replace(key=key, value=shape.write(parts).encode())

    def _draw(self, number: int) -> None:
        """Where in the run that begins here the one message is that is replaced."""
        if (share := self._shape.bad_share) and number % (run := round(1 / share)) == 0:
            self._bad_place = number + self._random.randrange(run)
        if (share := self._shape.tombstone_share) and number % (run := round(1 / share)) == 0:
            self._tombstone_place = number + self._random.randrange(run)

    def _bad_value(self, tick: Tick) -> bytes:
        values = bad_values(tick.topic_side, tick.key.decode(), tick.timestamp_ms * 1_000)
        return self._random.choice(values[self._random.choice(tuple(values))])

    def _symbol(self, index: bytes) -> tuple[str, str, bytes]:
        """Its text, its JSON and its Kafka key."""
        known = self._symbols.get(index)
        if known is None:
            text = self._shape.symbol(int(index))
            known = self._symbols[index] = (text, self._shape.spell(text), text.encode())
        return known

    def _written(self, moment: bytes) -> Written:
        if self._time[0] != moment:
            micros = (datetime.fromisoformat(moment.decode()) - _EPOCH) // _MICROSECOND
            self._time = (moment, *self._shape.time(micros))
        return self._time[1:]


def reshaped(ticks: Iterable[Tick], shape: Shape, seed: int = 1) -> Iterator[Tick]:
    """The ticks in that shape."""
    return map(Reshaper(shape, seed).rewrite, ticks)
