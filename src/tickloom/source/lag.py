"""The backlog: how far the ledger is behind the end of each log, and for how long. Pure: times are arguments.

For us, a log ends at its *last stable offset*. The messages after it belong to transactions that are still open or follow
them, and cannot be read yet. They are not lag, however long that takes; ``open_transactions`` reports them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tickloom.core.model import TopicPartition

_SIGHTINGS = 128
"""Largest number of remembered sightings per partition. Beyond it, every second one is dropped, so that ages come out a
little too short."""


@dataclass(frozen=True, slots=True)
class End:
    """Where a log ends: ``stable`` for readers of committed messages, ``high`` for producers."""

    stable: int
    high: int


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """The number of ``messages`` (and markers) after the last stable offset, which has not moved for ``seconds``."""

    messages: int
    seconds: float


@dataclass(slots=True)
class _Partition:
    position: int | None = None  # the ledger's
    newest_ms: int | None = None  # record time of the newest message committed
    end: End | None = None
    first_end: int | None = None  # messages below it were already in the log when we first asked
    first_seen: float = 0.0
    sightings: list[tuple[int, float]] = field(
        default_factory=list[tuple[int, float]]
    )  # ends, and when each was first seen
    unstable_since: float | None = None  # since when an open transaction holds the stable end where it is

    def see(self, end: End, now: float) -> None:
        if self.first_end is None:
            self.first_end, self.first_seen = end.stable, now
        moved = self.end is None or end.stable != self.end.stable
        if moved and end.stable > (self.sightings[-1][0] if self.sightings else self.first_end):
            self.sightings.append((end.stable, now))
            if len(self.sightings) > _SIGHTINGS:
                del self.sightings[1::2]
        if end.high <= end.stable:
            self.unstable_since = None
        elif moved or self.unstable_since is None:
            self.unstable_since = now
        self.end = end

    def moved(self, position: int) -> None:
        self.position = max(position, self.position or 0)
        self.sightings = [(end, seen) for end, seen in self.sightings if end > self.position]

    def waiting(self) -> int | None:
        if self.end is None or self.position is None:
            return None
        return max(0, self.end.stable - self.position)

    def waiting_seconds(self, now: float, wall: float) -> float:
        """The age of the oldest waiting message. A message that was already in the log when we first asked counts as old as the
        newest committed message.
        """
        assert self.position is not None
        if self.first_end is None or self.position >= self.first_end:
            return now - self.sightings[0][1] if self.sightings else 0.0
        if self.newest_ms is not None:
            return max(0.0, wall - self.newest_ms / 1_000)
        return now - self.first_seen


class Backlog:
    """The known backlog of our partitions. ``now`` is in monotonic seconds, ``wall`` in Unix seconds."""

    def __init__(self) -> None:
        self._partitions: dict[TopicPartition, _Partition] = {}

    @property
    def owned(self) -> frozenset[TopicPartition]:
        """The partitions that are ours."""
        return frozenset(self._partitions)

    def own(self, partitions: Iterable[TopicPartition]) -> None:
        """Only these partitions are ours from now on; forget everything about the others."""
        self._partitions = {at: self._partitions.get(at) or _Partition() for at in partitions}

    def committed(
        self, positions: Mapping[TopicPartition, int], newest_ms: Mapping[TopicPartition, int] | None = None
    ) -> None:
        """The ledger is at ``positions``. ``newest_ms``: record times of the newest messages that a batch committed."""
        for at, position in positions.items():
            if (partition := self._partitions.get(at)) is not None:
                partition.moved(position)
        for at, newest in (newest_ms or {}).items():
            if (partition := self._partitions.get(at)) is not None:
                partition.newest_ms = newest

    def ends(self, ends: Mapping[TopicPartition, End], now: float) -> None:
        """The logs end here."""
        for at, end in ends.items():
            if (partition := self._partitions.get(at)) is not None:
                partition.see(end, now)

    def ends_unknown(self) -> None:
        """The ends of the logs are unknown, because Kafka does not answer."""
        for partition in self._partitions.values():
            partition.end = None

    def messages(self) -> dict[TopicPartition, int]:
        """How many messages wait in each partition; leaves out partitions whose number is unknown."""
        return {at: lag for at, one in self._partitions.items() if (lag := one.waiting()) is not None}

    def seconds(self, now: float, wall: float) -> dict[TopicPartition, float]:
        """How long the oldest message has been waiting in each partition of ``messages``; 0 if none waits."""
        return {
            at: self._partitions[at].waiting_seconds(now, wall) if lag else 0.0 for at, lag in self.messages().items()
        }

    def open_transactions(self, now: float) -> dict[TopicPartition, OpenTransaction]:
        """The known open transactions, by partition."""
        return {
            at: OpenTransaction(one.end.high - one.end.stable, now - one.unstable_since)
            for at, one in self._partitions.items()
            if one.end is not None and one.unstable_since is not None
        }
