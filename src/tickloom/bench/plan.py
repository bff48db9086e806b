"""What a bench is asked to do, and the log that follows from it. Pure."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tickloom.shapes import PLAIN, Shape
from tickloom.synthetic import SIDES, Tick, TickSettings, history, iso

LOG_HOURS = 12
LATE_HOURS = (1.0, 6.0)
"""How far back in event time the pairs of ``late_hours`` lie."""


@dataclass(frozen=True, slots=True)
class LogPlan:
    """A log, and what lies in the tables before it. Shares are 0 to 1, of messages (``disorder``) or pairs.

    ``shape``: how its messages are written.
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
        """The same number of messages, and nothing else that was asked for."""
        return LogPlan(messages=self.messages)

    @property
    def symbol_names(self) -> list[str]:
        return [self.shape.symbol(index) for index in range(self.symbols)]

    def first_event(self, log_end: datetime) -> datetime:
        """No event of a log with this end lies before. A whole minute, since a shape may cut its times to one."""
        first = log_end - timedelta(hours=LOG_HOURS + (LATE_HOURS[1] if self.late_hours else 0))
        return first.replace(second=0, microsecond=0)

    def history_end(self, log_end: datetime) -> datetime:
        """A whole hour, and not after the first event."""
        return self.first_event(log_end).replace(minute=0, second=0, microsecond=0)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"hours": LOG_HOURS, "shape": self.shape.name}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the bench. ``rates``: messages a second of the open loop, one after the other.

    ``shapes``: measure the log in each of them in turn, in place of the log as it is.
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
    """The messages of ``log``, in the order of their sending; the last event lies just before ``end``.

    They are plain: whoever sends them puts them into the log's shape, and counts what comes of that.
    """
    settings = TickSettings(
        symbols=log.symbols,
        disorder_share=log.disorder,
        disorder_max_seconds=log.disorder_seconds,
        late_days_share=log.late_hours,
        late_hours=LATE_HOURS,
    )
    ticks = history(settings, log.messages // 2, LOG_HOURS / 24, end)
    return volumes_held_back(ticks, log.volumes_behind) if log.volumes_behind else ticks


def volumes_held_back(ticks: Iterable[Tick], behind: int) -> Iterator[Tick]:
    """Each volume comes when ``behind`` prices were sent after its own; that is then its time of sending."""
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
    """A price and a volume for each symbol, all of the same event time, sent at it."""
    micros = round(moment.timestamp() * 1_000_000)
    for symbol in symbols:
        for side, name in zip(SIDES, ("price", "volume"), strict=True):
            value = f'{{"symbol":"{symbol}","{name}":100,"timestamp":"{iso(micros)}"}}'
            yield Tick(side, symbol.encode(), value.encode(), micros // 1_000)
