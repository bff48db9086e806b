"""The requested measurements, and the messages of the log. Pure."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tickloom.shapes import PLAIN, Shape
from tickloom.synthetic import SIDES, Tick, TickSettings, history, iso

LOG_HOURS = 12
LATE_HOURS = (1.0, 6.0)
"""How late the pairs of ``late_hours`` are, in hours of event time."""


@dataclass(frozen=True, slots=True)
class LogPlan:
    """A log, and the history in the tables before it.

    ``disorder`` is a share (0 to 1) of messages, ``late_hours`` one of pairs. ``shape``: how the messages are written.
    """

    messages: int = 500_000
    symbols: int = 5_000
    partitions: int = 4
    disorder: float = 0.0
    disorder_seconds: float = 60.0
    late_hours: float = 0.0
    volumes_behind: int = 0
    history_days: int = 0
    shape: Shape = PLAIN

    @property
    def plain(self) -> "LogPlan":
        """The default log with the same number of messages."""
        return LogPlan(messages=self.messages)

    @property
    def symbol_names(self) -> list[str]:
        return [self.shape.symbol(index) for index in range(self.symbols)]

    def first_event(self, log_end: datetime) -> datetime:
        """A lower bound of the event times, for a log with this end. It is a whole minute, because a shape may truncate
        times to minutes.
        """
        first = log_end - timedelta(hours=LOG_HOURS + (LATE_HOURS[1] if self.late_hours else 0))
        return first.replace(second=0, microsecond=0)

    def history_end(self, log_end: datetime) -> datetime:
        """The end of the history: a whole hour, no later than the first event."""
        return self.first_event(log_end).replace(minute=0, second=0, microsecond=0)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"hours": LOG_HOURS, "shape": self.shape.name}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the bench. ``rates``: messages a second in the open loop; each is measured in turn.

    ``shapes``: measure the log in each of these shapes instead of its own.
    """

    log: LogPlan = field(default_factory=LogPlan)
    shapes: tuple[Shape, ...] = ()
    repetitions: int = 5
    compare_with_plain: bool = True
    rates: tuple[float, ...] = ()
    seconds: float = 20.0
    idle: bool = False
    restart: bool = False


def log_of(log: LogPlan, end: datetime) -> Iterator[Tick]:
    """The messages of ``log`` in sending order; the last event is just before ``end``.

    They are plain: the sender rewrites them in the log's shape, and counts what that changes.
    """
    settings = TickSettings(
        symbols=log.symbols,
        disorder_share=log.disorder,
        disorder_max_seconds=log.disorder_seconds,
        late_days_share=log.late_hours,
        late_hours=LATE_HOURS,
    )
    ticks = history(settings, log.messages // 2, LOG_HOURS / 24, end)
    return hold_volumes_back(ticks, log.volumes_behind) if log.volumes_behind else ticks


def hold_volumes_back(ticks: Iterable[Tick], behind: int) -> Iterator[Tick]:
    """Send each volume ``behind`` prices after its own price, and give it the record timestamp of that moment."""
    held: deque[tuple[int, Tick]] = deque()
    prices, now_ms = 0, 0
    for tick in ticks:
        now_ms = tick.timestamp_ms
        if tick.topic_side == "volumes":
            held.append((prices + behind, tick))
        else:
            prices += 1
            yield tick
        while held and held[0][0] <= prices:
            yield held.popleft()[1]._replace(timestamp_ms=now_ms)
    yield from (tick._replace(timestamp_ms=now_ms) for _, tick in held)


def one_pair_each(symbols: Iterable[str], moment: datetime) -> Iterator[Tick]:
    """A price and a volume for each symbol; ``moment`` is the event time and the record timestamp of all."""
    micros = round(moment.timestamp() * 1_000_000)
    for symbol in symbols:
        for side, name in zip(SIDES, ("price", "volume"), strict=True):
            value = f'{{"symbol":"{symbol}","{name}":100,"timestamp":"{iso(micros)}"}}'
            yield Tick(side, symbol.encode(), value.encode(), micros // 1_000)
