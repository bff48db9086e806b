"""Message shapes: the same ticks, written as different producers write them. Pure; it needs only the generator.

A **shape** rewrites the plain messages of ``tickloom.synthetic``: the symbol's spelling, the form of the time, unknown
fields, the order of keys, white space. The event stays the same, with three exceptions, all on purpose:

* A shape may give the symbols other names. Both sides of a pair get the same name, and the Kafka key is its UTF-8.
* Some forms of time cannot hold microseconds (``cuts_times``). The time is then cut, by a rule that depends on the event
  time only: both sides of a pair are cut alike and still meet, but two pairs of a symbol may become one.
* Some shapes replace a share of the messages by bad ones or by tombstones: exactly one in each run of 1 / share
  messages, at a place that a seeded generator draws.

The same ticks in the same order always give the same bytes. Anything but a plain message (a bad one, say) is left as it is.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import TypeAlias

from tickloom import spelling
from tickloom.spelling import Parts, Written
from tickloom.synthetic import Tick, TopicSide, bad_values, symbol_name

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)

_PLAIN = re.compile(
    rb'\{"symbol":"SYM(\d+)","(price|volume)":(-?\d+(?:\.\d+)?),'
    rb'"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z"((?:,"\w+":-?\d+(?:\.\d+)?)*)\}'
)
"""A valid message of the generator: the symbol's number, the value's name and number, the time, the optional numbers."""


Key: TypeAlias = tuple[TopicSide, str, int]
"""A row's key: side, symbol and instant (µs since 1970)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to write messages. The defaults are the generator's own way."""

    name: str
    summary: str
    """What is special about it, in one line."""
    symbol: Callable[[int], str] = symbol_name
    """A number, from 0, to the symbol."""
    spell: Callable[[str], str] = spelling.quoted
    """A symbol as JSON."""
    time: Callable[[int], Written] = spelling.iso_microseconds
    write: Callable[[Parts], str] = spelling.compact
    bad_share: float = 0.0
    tombstone_share: float = 0.0
    cuts_times: bool = False
    """Whether the time that is written may be earlier than the event time."""


PLAIN = Shape("plain", "compact JSON, ISO time with microseconds, no unknown field, nothing bad")

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        PLAIN,
        Shape(
            "realistic",
            "ISO time with milliseconds, two unknown fields, 0.1% bad messages",
            time=spelling.iso_milliseconds,
            write=spelling.followed_by(spelling.venue_and_sequence),
            bad_share=0.001,
            cuts_times=True,
        ),
        Shape("unknown-number", "an unknown field with a number", write=spelling.followed_by(spelling.sequence)),
        Shape("unknown-text", "an unknown field with a short text", write=spelling.followed_by(spelling.venue)),
        Shape(
            "unknown-nested", "unknown objects, arrays, nulls and booleans", write=spelling.followed_by(spelling.nested)
        ),
        Shape("long-text", "an unknown text of 500 characters", write=spelling.followed_by(spelling.headline)),
        Shape(
            "escapes",
            'an unknown text with \\", \\\\, \\n and \\t',
            write=spelling.followed_by(spelling.note_with_escapes),
        ),
        Shape(
            "unicode-escapes",
            "\\u escapes in the symbol and in an unknown text",
            symbol=spelling.symbol_beyond_ascii,
            spell=spelling.unicode_escaped,
            write=spelling.followed_by(spelling.issuer_with_escapes),
        ),
        Shape(
            "escaped-slash",
            "symbols such as BTC/USD, written BTC\\/USD",
            symbol=spelling.currency_pair,
            spell=spelling.escaped_slash,
        ),
        Shape("non-ascii", "symbols beyond ASCII, as plain UTF-8", symbol=spelling.symbol_beyond_ascii),
        Shape("digits", "tickers that begin with a digit: 0700.HK, 7203.T, 600519", symbol=spelling.ticker_of_digits),
        Shape("key-order", "another order of the keys in each message", write=spelling.in_another_order),
        Shape("pretty", "indented JSON, a line for each field", write=spelling.indented),
        Shape("wide", "2 kB of unknown fields", write=spelling.followed_by(spelling.wide)),
        Shape("iso-milliseconds", "2026-11-24T10:15:00.250Z", time=spelling.iso_milliseconds, cuts_times=True),
        Shape("iso-offset", "2026-11-24T15:45:00.250000+05:30", time=spelling.iso_offset),
        Shape("iso-space", "2026-11-24 10:15:00.250000", time=spelling.iso_space),
        Shape(
            "iso-mixed",
            "every ISO form, from minutes to nanoseconds, in all zones",
            time=spelling.iso_mixed,
            cuts_times=True,
        ),
        Shape("epoch-seconds", "1795515300", time=spelling.epoch_seconds, cuts_times=True),
        Shape("epoch-float", "1795515300.250000", time=spelling.epoch_float),
        Shape("epoch-milliseconds", "1795515300250", time=spelling.epoch_milliseconds, cuts_times=True),
        Shape("epoch-microseconds", "1795515300250000", time=spelling.epoch_microseconds),
        Shape("epoch-nanoseconds", "1795515300250000789", time=spelling.epoch_nanoseconds),
        Shape("epoch-exponent", "1.795515300250E12", time=spelling.epoch_exponent, cuts_times=True),
        Shape("bad-0.1", "one message in 1,000 is bad, of any reason", bad_share=0.001),
        Shape("bad-1", "one message in 100 is bad", bad_share=0.01),
        Shape("bad-10", "one message in 10 is bad", bad_share=0.1),
        Shape("tombstones-1", "one message in 100 has no value", tombstone_share=0.01),
    )
}


def shape_named(name: str) -> Shape:
    """The shape of that name. Raises ValueError, with all names, if there is none."""
    if name not in SHAPES:
        raise ValueError(f"no shape is called {name}; use one of {', '.join(SHAPES)}")
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
        """How many messages were replaced, including tombstones."""
        self.key: Key | None = None
        """The key of the row that the last message becomes; None if it becomes none, or was not a plain message."""

    @property
    def superseded(self) -> int:
        """How many valid messages have the key of an earlier one, in a log without repeats."""
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
        """Draw the one message to replace in the run that begins here."""
        if (share := self._shape.bad_share) and number % (run := round(1 / share)) == 0:
            self._bad_place = number + self._random.randrange(run)
        if (share := self._shape.tombstone_share) and number % (run := round(1 / share)) == 0:
            self._tombstone_place = number + self._random.randrange(run)

    def _bad_value(self, tick: Tick) -> bytes:
        values = bad_values(tick.topic_side, tick.key.decode(), tick.timestamp_ms * 1_000)
        return self._random.choice(values[self._random.choice(tuple(values))])

    def _symbol(self, index: bytes) -> tuple[str, str, bytes]:
        """The symbol's text, its JSON and its Kafka key."""
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
    """The ticks, rewritten in that shape."""
    return map(Reshaper(shape, seed).rewrite, ticks)
