"""The events of a daemon, as values. Metrics, health, the monitor and a drain's tally subscribe to them.

The code that causes an event publishes it and does not know its subscribers. These run on the event loop, one after
the other, inside ``publish``, so they must not block. A subscriber that raises is a bug; the error goes to the publisher,
which ends the daemon.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from tickloom.core.model import Batch, Gap, TopicPartition
from tickloom.store.loader import Loaded


@dataclass(frozen=True, slots=True)
class AssignmentReceived:
    """The group gave this replica these partitions and no others; empty if other members own all of them."""

    partitions: frozenset[TopicPartition]
    monotonic: float


@dataclass(frozen=True, slots=True)
class AssignmentRevoked:
    """The group took the assignment back; the replica owns nothing until it receives another one."""


@dataclass(frozen=True, slots=True)
class StandingBy:
    """This replica reads nothing for now, because another one reads everything."""

    reason: str


@dataclass(frozen=True, slots=True)
class TookOver:
    """A session begins. ``positions``: the ledger's next offset of each partition that it reads."""

    positions: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class BatchOpened:
    """The first message since the last commit has been gathered."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One batch is in the tables.

    ``messages`` and ``rejected`` count by topic, ``rejects`` by reason. ``hours`` counts valid messages by hour of event time
    (in hours since 1970). ``events``: first and last event time in µs; None without valid messages. ``positions``: the next
    offset of each partition in the batch. ``oldest_ms`` and ``newest_ms``: record timestamps in ms. ``open``: whether
    messages of the next batch have already been gathered. ``at`` is Unix time, ``monotonic`` the monotonic clock, both in
    seconds.
    """

    messages: Mapping[str, int]
    rejected: Mapping[str, int]
    stored: int
    superseded: int
    collapsed: int
    rejects: Mapping[str, int]
    missing: int
    gaps: tuple[Gap, ...]
    positions: Mapping[TopicPartition, int]
    hours: Mapping[int, int]
    events: tuple[int, int] | None
    oldest_ms: int | None
    newest_ms: Mapping[TopicPartition, int]
    symbols_cached: int
    open: bool
    load_seconds: float
    at: float
    monotonic: float

    @classmethod
    def of(
        cls,
        batch: Batch,
        loaded: Loaded,
        *,
        symbols_cached: int,
        open: bool,
        load_seconds: float,
        at: float,
        monotonic: float,
    ) -> "Committed":
        """The event for ``batch``. ``loaded``: the result of its transaction."""
        messages, rejected = dict[str, int](), dict[str, int]()
        for source, step in batch.progress.items():
            messages[source.topic] = messages.get(source.topic, 0) + step.messages
            rejected[source.topic] = rejected.get(source.topic, 0) + step.dead
        return cls(
            messages=messages,
            rejected=rejected,
            stored=loaded.stored,
            superseded=loaded.superseded,
            collapsed=loaded.collapsed,
            rejects={reason.value: count for reason, count in loaded.rejects.items()},
            missing=sum(step.missing for step in batch.progress.values()),
            gaps=tuple(batch.gaps),
            positions={source: step.next_offset for source, step in batch.progress.items()},
            hours=dict(batch.hours),
            events=batch.events,
            oldest_ms=batch.oldest_ms,
            newest_ms=dict(batch.newest_ms),
            symbols_cached=symbols_cached,
            open=open,
            load_seconds=load_seconds,
            at=at,
            monotonic=monotonic,
        )

    @property
    def total(self) -> int:
        """Messages of both topics."""
        return sum(self.messages.values())


Event: TypeAlias = AssignmentReceived | AssignmentRevoked | StandingBy | TookOver | BatchOpened | Committed
E = TypeVar("E", AssignmentReceived, AssignmentRevoked, StandingBy, TookOver, BatchOpened, Committed)


class Events:
    """Passes each event to the subscribers of its class, in the order of their subscription. Belongs to the event loop."""

    def __init__(self) -> None:
        self._subscribers: dict[type[Event], list[Callable[[Any], object]]] = {}

    def subscribe(self, kind: type[E], subscriber: Callable[[E], object]) -> None:
        """Call ``subscriber`` with each event of this class from now on."""
        self._subscribers.setdefault(kind, []).append(subscriber)

    def publish(self, event: Event) -> None:
        """Call the subscribers, one after the other. Raises what a subscriber raises."""
        for subscriber in self._subscribers.get(type(event), ()):
            subscriber(event)
