"""What a drain is bounded by, what it counts on its way, and what it has to say at its end. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from tickloom.core.model import Batch, Gap
from tickloom.errors import SettingsError
from tickloom.store.loader import Loaded

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
    """When a drain ends before it has read the whole log. Raises ``SettingsError`` where a bound allows nothing."""

    max_seconds: float | None = None
    max_messages: int | None = None

    def __post_init__(self) -> None:
        for name, bound in (("max_seconds", self.max_seconds), ("max_messages", self.max_messages)):
            if bound is not None and not bound > 0:
                raise SettingsError(f"{name} is {bound}, which lets nothing be read; give more than 0, or leave it out")


@dataclass(slots=True)
class Tally:
    """What a drain has committed so far. ``hours``: valid messages by hour of event time, in hours since 1970; ``read`` and
    ``dead``: messages and rejects by topic.

    Only the event loop writes it.
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

    def add(self, batch: Batch, loaded: Loaded) -> None:
        """Count a committed batch in."""
        self.batches += 1
        self.messages += batch.messages
        self.stored += loaded.stored
        self.superseded += loaded.superseded
        self.collapsed += loaded.collapsed
        self.rejects.update({reason.value: count for reason, count in loaded.rejects.items()})
        for at, step in batch.progress.items():
            self.read[at.topic] += step.messages
            self.dead[at.topic] += step.dead
        self.hours.update(batch.hours)
        self.gaps += batch.gaps
        if batch.events is not None:
            first, last = batch.events
            self.first_event = first if self.first_event is None else min(first, self.first_event)
            self.last_event = last if self.last_event is None else max(last, self.last_event)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one drain did. All counts are of this drain alone, whoever else was at work on the same log.

    ``messages`` = ``stored`` + ``superseded`` + all ``rejects``. ``drained``: the tables hold the log up to its end as it
    was at the start. ``lag``: by topic, messages at the end that are in no table yet, whoever reads them; None where
    nobody looked, or Kafka did not answer. ``hours``: valid messages by the hour of their event, oldest first. ``read``
    and ``dead``: messages and rejects by topic.
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
        """What the tally of a drain came to."""
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
        """One JSON document; times in ISO form, UTC."""
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
        """For people."""
        told_of = [
            f"{_WHY[self.ended]} after {self.seconds:.1f} s: {self.messages:,} messages, {self.stored:,} rows stored, "
            f"{self.superseded:,} superseded, {self.rejected:,} rejected"
        ]
        if self.first_event is not None:
            told_of.append(f"events from {_iso(self.first_event)} to {_iso(self.last_event)}")
        if self.rejects:
            told_of.append("rejects: " + ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.items()))
        for gap in self.gaps:
            told_of.append(
                f"gap: {gap.source.topic} partition {gap.source.partition} lost the offsets {gap.from_offset} to "
                f"{gap.to_offset - 1} to retention"
            )
        if self.lag is not None:
            told_of.append("lag: " + ", ".join(f"{topic} {count:,}" for topic, count in self.lag.items()))
        return told_of


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
