"""The bounds of a drain, its running counts, and the summary at its end. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from tickloom.core.model import Gap
from tickloom.errors import SettingsError
from tickloom.observe.events import Committed

HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Ended(StrEnum):
    """Why a drain ended. ``STOPPED``: by a signal, or by the caller."""

    DRAINED = "drained"
    MAX_SECONDS = "max_seconds"
    MAX_MESSAGES = "max_messages"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds at which a drain ends even if it has not read the whole log; None for no bound.

    Raises ``SettingsError`` for a bound that allows no message.
    """

    max_seconds: float | None = None
    max_messages: int | None = None

    def __post_init__(self) -> None:
        for name, bound in (("max_seconds", self.max_seconds), ("max_messages", self.max_messages)):
            if bound is not None and not bound > 0:
                raise SettingsError(f"{name} is {bound}, so no message could be read; use more than 0, or leave it out")


@dataclass(slots=True)
class Tally:
    """Counts of the batches that a drain has committed so far. Only the event loop writes it.

    ``hours``: valid messages by hour of event time, in hours since 1970. ``read`` and ``dead``: messages and rejects by
    topic.
    """

    batches: int = 0
    messages: int = 0
    stored: int = 0
    superseded: int = 0
    collapsed: int = 0
    rejects: Counter[str] = field(default_factory=Counter[str])
    read: Counter[str] = field(default_factory=Counter[str])
    dead: Counter[str] = field(default_factory=Counter[str])
    hours: Counter[int] = field(default_factory=Counter[int])
    first_event: int | None = None
    last_event: int | None = None
    gaps: list[Gap] = field(default_factory=list[Gap])

    def add(self, event: Committed) -> None:
        """Count one committed batch."""
        self.batches += 1
        self.messages += event.total
        self.stored += event.stored
        self.superseded += event.superseded
        self.collapsed += event.collapsed
        self.rejects.update(event.rejects)
        self.read.update(event.messages)
        self.dead.update(event.rejected)
        self.hours.update(event.hours)
        self.gaps += event.gaps
        if event.events is not None:
            first, last = event.events
            self.first_event = first if self.first_event is None else min(first, self.first_event)
            self.last_event = last if self.last_event is None else max(last, self.last_event)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one drain. It counts this drain alone, even if other replicas worked on the same log.

    ``messages`` = ``stored`` + ``superseded`` + all ``rejects``. ``drained``: the tables hold the log up to its end as it
    was when the drain started. ``lag``: by topic, messages in the log at the end of the drain that no replica has
    committed yet; None if it was not requested, or if Kafka or Postgres did not answer. ``hours``: valid messages by the
    hour of their event, oldest first. ``read`` and ``dead``: messages and rejects by topic.
    """

    ended: Ended
    messages: int
    stored: int
    superseded: int
    collapsed: int
    rejects: Mapping[str, int]
    gaps: Sequence[Gap]
    hours: Mapping[datetime, int]
    first_event: datetime | None
    last_event: datetime | None
    seconds: float
    read: Mapping[str, int] = field(default_factory=dict[str, int])
    dead: Mapping[str, int] = field(default_factory=dict[str, int])
    lag: Mapping[str, int] | None = None

    @classmethod
    def of(cls, tally: Tally, ended: Ended, seconds: float) -> "Outcome":
        """The outcome of a drain that counted ``tally`` in ``seconds``."""
        return cls(
            ended=ended,
            messages=tally.messages,
            stored=tally.stored,
            superseded=tally.superseded,
            collapsed=tally.collapsed,
            rejects=dict(sorted(tally.rejects.items())),
            gaps=tuple(tally.gaps),
            hours={_EPOCH + hour * HOUR: count for hour, count in sorted(tally.hours.items())},
            first_event=_moment(tally.first_event),
            last_event=_moment(tally.last_event),
            seconds=seconds,
            read=dict(tally.read),
            dead=dict(tally.dead),
        )

    @property
    def drained(self) -> bool:
        return self.ended is Ended.DRAINED

    @property
    def rejected(self) -> int:
        return sum(self.rejects.values())

    def as_dict(self) -> dict[str, Any]:
        """The outcome as one JSON document; times in ISO 8601, UTC."""
        return {
            "drained": self.drained,
            "ended": self.ended.value,
            "seconds": round(self.seconds, 3),
            "messages": self.messages,
            "stored": self.stored,
            "superseded": self.superseded,
            "collapsed": self.collapsed,
            "rejected": self.rejected,
            "rejects": dict(self.rejects),
            "topics": {topic: {"messages": self.read[topic], "rejected": self.dead[topic]} for topic in self.read},
            "lag": None if self.lag is None else dict(self.lag),
            "first_event": _iso(self.first_event),
            "last_event": _iso(self.last_event),
            "hours": {hour.isoformat(): count for hour, count in self.hours.items()},
            "gaps": [
                {
                    "topic": gap.source.topic,
                    "partition": gap.source.partition,
                    "from_offset": gap.from_offset,
                    "to_offset": gap.to_offset,
                }
                for gap in self.gaps
            ],
        }

    def lines(self) -> list[str]:
        """The outcome as lines for people."""
        lines = [
            f"{_WHY[self.ended]} after {self.seconds:.1f} s: {self.messages:,} messages, {self.stored:,} rows stored, "
            f"{self.superseded:,} superseded, {self.rejected:,} rejected"
        ]
        if self.first_event is not None:
            lines.append(f"events from {_iso(self.first_event)} to {_iso(self.last_event)}")
        if self.rejects:
            lines.append("rejects: " + ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.items()))
        for gap in self.gaps:
            lines.append(
                f"gap: {gap.source.topic} partition {gap.source.partition} lost the offsets {gap.from_offset} to "
                f"{gap.to_offset - 1} to retention"
            )
        if self.lag is not None:
            lines.append("lag: " + ", ".join(f"{topic} {count:,}" for topic, count in self.lag.items()))
        return lines


_WHY = {
    Ended.DRAINED: "drained",
    Ended.MAX_SECONDS: "ended by max-seconds",
    Ended.MAX_MESSAGES: "ended by max-messages",
    Ended.STOPPED: "stopped",
}


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
