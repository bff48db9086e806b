"""Synthetic market data: a random walk for each symbol, with every kind of trouble that a real feed has. Pure.

The same settings give the same ticks, byte for byte, on any machine: no clock, no Kafka, one seeded
generator. The demo, the producer, the tests and the benchmarks use it.

For each pair (one price and one volume of the same symbol and event time) it draws, in this order:

* *days late*: both have an event time 1 to 3 days back (or as ``late_hours`` says) and are sent now;
* *one-sided*: one of the two is never sent;
* *bad*: a message is replaced by one that the input contract rejects, for any of its reasons;
* *disorder*: a message is sent later than its event time, so that the two sides arrive apart;
* *repeat*: a message is sent once more, later: half of the repeats are the same bytes, half have another value.

Ticks come in the order in which a producer would send them. ``Tick.timestamp_ms`` is the time of sending: it never
goes back, and for a punctual message it is the event time.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Literal, NamedTuple, TypeAlias

TopicSide: TypeAlias = Literal["prices", "volumes"]
SIDES: tuple[TopicSide, TopicSide] = ("prices", "volumes")

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_START = datetime(2026, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STEPS = 4_096
_VOLATILITY = 0.0015  # of one step of the walk, about as much as a liquid share has in a minute


class Tick(NamedTuple):
    """One message: its side, key and value (None: a tombstone), and the Kafka record's timestamp (ms since 1970)."""

    topic_side: TopicSide
    key: bytes
    value: bytes | None
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class TickSettings:
    """The ticks to generate. Every ``…_share`` is a probability, 0 to 1, of pairs or messages as named above."""

    symbols: int = 5_000
    seed: int = 1
    disorder_share: float = 0.0
    disorder_max_seconds: float = 60.0
    late_days_share: float = 0.0
    late_hours: tuple[float, float] = (24.0, 72.0)
    """How many hours back the event time of late pairs lies, from and to."""
    repeat_share: float = 0.0
    bad_share: float = 0.0
    one_sided_share: float = 0.0
    start: datetime = _START
    """The first event of ``live``, unless it is given another."""
    step_seconds: float = 0.01
    """The time between two pairs of ``live``, rounded to microseconds; at least one."""

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no ticks can follow."""
        if self.symbols < 1:
            raise ValueError(f"symbols is {self.symbols}; give at least 1")
        if self.step_seconds <= 0 or self.disorder_max_seconds < 0:
            raise ValueError("step_seconds must be above 0 and disorder_max_seconds not below 0")
        if not 0 <= self.late_hours[0] <= self.late_hours[1]:
            raise ValueError(f"late_hours is {self.late_hours}; give from and to, not below 0")
        for name in ("disorder", "late_days", "repeat", "bad", "one_sided"):
            share = float(getattr(self, f"{name}_share"))
            if not 0 <= share <= 1:
                raise ValueError(f"{name}_share is {share}; give a share from 0 to 1")


def history(settings: TickSettings, records: int, days: float, end: datetime) -> Iterator[Tick]:
    """``records`` pairs, spread evenly over the ``days`` before ``end`` (aware; not included). Finite.

    Messages that disorder and repeats still hold back at the end come last, with ``end`` as their time of sending.
    Raises ValueError if there are more pairs than microseconds.
    """
    last = _micros(end)
    span = round(days * DAY)
    if records > span:
        raise ValueError(f"{records} records do not fit in {days} days at one a microsecond; give more days")
    times = (last - span + index * span // records for index in range(records))
    return _ticks(settings, Random(f"history {settings.seed}"), times, last)


def live(settings: TickSettings, start: datetime | None = None) -> Iterator[Tick]:
    """A pair every ``step_seconds``, beginning at ``start`` (aware; by default ``settings.start``). Infinite."""
    step = max(1, round(settings.step_seconds * SECOND))
    times = count(_micros(start or settings.start), step)
    return _ticks(settings, Random(f"live {settings.seed}"), times, None)


def symbol_name(index: int) -> str:
    """The symbol of that number, from 0: ``SYM0000``, ``SYM0001``, …"""
    return f"SYM{index:04d}"


def iso(micros: int) -> str:
    """Microseconds since 1970 as ISO-8601 in UTC: ``2026-01-01T00:00:00.000000Z``."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds") + "Z"


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH_UTC) // _MICROSECOND


# --- the market -------------------------------------------------------------------------------------------


class _Market:
    """The walk of every symbol. Its steps come from a table that is symmetric in log space: no drift, and fast."""

    def __init__(self, settings: TickSettings, random: Callable[[], float]) -> None:
        # a generator apart from the stream's own, so that history and live start from the same prices
        opening = Random(f"market {settings.seed}")
        self._random = random
        self._names = [symbol_name(index) for index in range(settings.symbols)]
        self._keys = [name.encode() for name in self._names]
        self._prices = [round(math.exp(opening.uniform(1.6, 6.2)), 2) for _ in self._names]
        self._typical_volumes = [math.exp(opening.uniform(5, 11)) for _ in self._names]
        halves = [abs(opening.gauss(0, _VOLATILITY)) for _ in range(_STEPS // 2)]
        self._steps = [math.exp(step) for step in halves] + [math.exp(-step) for step in halves]

    def draw(self) -> int:
        """The index of the symbol that trades next."""
        return int(self._random() * len(self._names))

    def name(self, symbol: int) -> str:
        return self._names[symbol]

    def key(self, symbol: int) -> bytes:
        return self._keys[symbol]

    def price(self, symbol: int, timestamp: str) -> bytes:
        """The next step of the walk, as the JSON value of a price message."""
        before = self._prices[symbol]
        drawn = self._random()
        # a floor of one cent would stop the walk, so below 1 it always goes up
        price = before * (self._steps[int(drawn * _STEPS)] if before > 1 else 1.01)
        self._prices[symbol] = price
        high, low = (price, before) if price > before else (before, price)
        margin = 1 + drawn * _VOLATILITY
        return (
            f'{{"symbol":"{self._names[symbol]}","price":{price:.2f},"timestamp":"{timestamp}",'
            f'"open_price":{before:.2f},"high_price":{high * margin:.2f},"low_price":{low / margin:.2f}}}'
        ).encode()

    def volume(self, symbol: int, timestamp: str) -> bytes:
        """The JSON value of a volume message: whole shares, now and then none at all."""
        drawn = self._random()
        shares = 0 if drawn < 0.001 else int(self._typical_volumes[symbol] * (0.25 + 1.5 * drawn))
        return f'{{"symbol":"{self._names[symbol]}","volume":{shares},"timestamp":"{timestamp}"}}'.encode()

    def value(self, side: TopicSide, symbol: int, timestamp: str) -> bytes:
        return self.price(symbol, timestamp) if side == "prices" else self.volume(symbol, timestamp)


# --- the stream -------------------------------------------------------------------------------------------

_Held: TypeAlias = tuple[int, int, TopicSide, bytes, bytes]
"""The time of sending (µs), a number that breaks ties, side, key, value."""


def _ticks(settings: TickSettings, rng: Random, times: Iterable[int], end: int | None) -> Iterator[Tick]:
    random = rng.random
    market = _Market(settings, random)
    trouble = _Trouble(settings, rng, market)
    held = trouble.held
    calm = trouble.calm
    for now in times:
        while held and held[0][0] <= now:
            due, _, side, key, value = heappop(held)
            yield Tick(side, key, value, due // 1_000)
        symbol = market.draw()
        if calm:
            key, timestamp, sent = market.key(symbol), iso(now), now // 1_000
            yield Tick("prices", key, market.price(symbol, timestamp), sent)
            yield Tick("volumes", key, market.volume(symbol, timestamp), sent)
        else:
            yield from trouble.pair(symbol, now)
    while held:
        due, _, side, key, value = heappop(held)
        yield Tick(side, key, value, (due if end is None else min(due, end)) // 1_000)


class _Trouble:
    """Turns a pair into the messages that are sent now and those that are sent later (``held``, a heap by time)."""

    def __init__(self, settings: TickSettings, rng: Random, market: _Market) -> None:
        self._settings = settings
        self._rng = rng
        self._market = market
        self._number = 0
        self._max_delay = settings.disorder_max_seconds * SECOND
        self.held: list[_Held] = []
        shares = (settings.disorder_share, settings.late_days_share, settings.repeat_share)
        self.calm = not any((*shares, settings.bad_share, settings.one_sided_share))

    def pair(self, symbol: int, now: int) -> Iterator[Tick]:
        """The messages of a pair that are sent at ``now`` (µs)."""
        settings, random = self._settings, self._rng.random
        event = now
        if random() < settings.late_days_share:
            least, most = (int(hours * HOUR) for hours in settings.late_hours)
            event -= least + int((most - least) * random())
        missing = None
        if random() < settings.one_sided_share:
            missing = SIDES[int(2 * random())]
        timestamp = iso(event)
        for side in SIDES:
            if side != missing:
                yield from self._message(side, symbol, timestamp, now)

    def _message(self, side: TopicSide, symbol: int, timestamp: str, now: int) -> Iterator[Tick]:
        settings, random, market = self._settings, self._rng.random, self._market
        key = market.key(symbol)
        if random() < settings.bad_share:
            yield Tick(side, key, self._bad(side, symbol, now), now // 1_000)
            return
        value = market.value(side, symbol, timestamp)
        if random() < settings.repeat_share:
            again = value if random() < 0.5 else market.value(side, symbol, timestamp)
            self._hold(side, key, again, now)
        if random() < settings.disorder_share:
            self._hold(side, key, value, now)
        else:
            yield Tick(side, key, value, now // 1_000)

    def _hold(self, side: TopicSide, key: bytes, value: bytes, now: int) -> None:
        self._number += 1
        heappush(self.held, (now + int(self._max_delay * self._rng.random()), self._number, side, key, value))

    def _bad(self, side: TopicSide, symbol: int, now: int) -> bytes:
        values = bad_values(side, self._market.name(symbol), now)
        reason = self._rng.choice(tuple(values))
        return self._rng.choice(values[reason])


# --- bad messages -----------------------------------------------------------------------------------------


def bad_values(side: TopicSide, symbol: str, now: int) -> dict[str, tuple[bytes, ...]]:
    """For each reject reason, values that are rejected for it when sent at ``now`` (µs since 1970).

    ``inconsistent`` applies to prices only. ``out_of_bounds`` assumes the default bounds of 1 and 31 days.
    """
    name, timestamp = ("price" if side == "prices" else "volume"), iso(now)

    def message(
        symbol: str = f'"{symbol}"', number: str = "1.5", time: str = f'"{timestamp}"', more: str = ""
    ) -> bytes:
        return f'{{"symbol":{symbol},"{name}":{number},"timestamp":{time}{more}}}'.encode()

    whole = message()
    values: dict[str, tuple[bytes, ...]] = {
        "empty": (b"",),
        "not_json": (whole[:-7], b"[" + whole + b"]", message(number="NaN"), b"\xff\xfe" + whole, b"hello"),
        "schema": (
            f'{{"symbol":"{symbol}","timestamp":"{timestamp}"}}'.encode(),
            message(number='"1.5"'),
            message(number="true"),
            message(symbol="17"),
            message(time="null"),
        ),
        "bad_symbol": (message(symbol='""'), message(symbol=f'"{"X" * 65}"'), message(symbol='"A\\u0000B"')),
        "bad_number": (message(number="1e400"), message(number="2e15"))
        + ((message(number="-1"),) if side == "volumes" else ()),
        "bad_timestamp": (message(time='"yesterday"'), message(time='"2026-13-01T00:00:00Z"')),
        "out_of_bounds": (message(time=f'"{iso(now + 2 * DAY)}"'), message(time=f'"{iso(now - 40 * DAY)}"')),
    }
    if side == "prices":
        values["inconsistent"] = (message(more=',"high_price":1.0,"low_price":2.0'),)
    return values
