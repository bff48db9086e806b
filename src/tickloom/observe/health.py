"""Whether the daemon is alive and ready. Pure: ``now`` (monotonic seconds) and ``wall`` (Unix seconds) are arguments.

*Alive*: the daemon made progress lately, or has nothing to do, or waits for the end of an outage or for another replica (a
restart would not help); and sessions do not keep ending without a commit. *Ready*: partitions are assigned, or another
replica reads all of them; the schema is present, and both Kafka and Postgres answer.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from tickloom.observe.events import AssignmentReceived, AssignmentRevoked, BatchOpened, Committed, Events, StandingBy

ALL_OWNED_BY_OTHERS = "standing by: all partitions are owned by others"


@dataclass(slots=True)
class Service:
    """Kafka or Postgres as the clients within this process see it: up if no client's last attempt failed."""

    name: str
    up: bool | None = None  # None: no client has asked yet
    since: float = 0.0  # Unix seconds of the last change of ``up``
    error: str = ""  # the last failure
    _failing: dict[object, str] = field(default_factory=dict[object, str])

    def failed(self, client: object, error: str, wall: float) -> bool:
        """The service did not serve ``client``. Returns whether it was up until now."""
        self._failing[client] = error
        self.error = error
        return self._turn(False, wall)

    def answered(self, client: object, wall: float) -> bool:
        """The service served ``client``. Returns whether that brings it up again, because no other client is failing."""
        self._failing.pop(client, None)
        return not self._failing and self._turn(True, wall)

    def forget(self, client: object) -> None:
        """``client`` no longer uses the service. That is no answer, so ``up`` stays as it is until another client gets one."""
        self._failing.pop(client, None)

    def outage(self) -> str:
        """Since when the service is away, and why."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return f"waiting for {self.name} since {since}: {self.error}"

    def _turn(self, up: bool, wall: float) -> bool:
        changed = self.up is not up
        if changed:
            self.up, self.since = up, wall
        return changed


_MAX_FRUITLESS_SESSIONS = 5
_FRUITLESS_FOR_SECONDS = 60.0
"""A session that lasts this long is not fruitless, even before its first commit."""


@dataclass(slots=True)
class Health:
    """Subscriptions, the sessions' loop and the monitor write it; the HTTP server reads it. All are on the event loop."""

    stuck_after_seconds: float
    moved_at: float
    lag_messages: int | None = None
    """Number of messages that wait in this replica's partitions; None while unknown."""
    in_flight: bool = False
    assigned: bool = False
    schema_present: bool = False
    missing_partition: str = ""
    """The error about a table partition that a person must create before the flow can go on; empty without one."""
    fruitless_sessions: int = 0
    fruitless_at: float = 0.0
    fruitless_reason: str = ""
    standing_by: str | None = None
    """Why this replica reads nothing without an outage; None if it reads. It is alive and ready in both cases."""
    kafka: Service = field(default_factory=lambda: Service("Kafka"))
    postgres: Service = field(default_factory=lambda: Service("Postgres"))

    def subscribe(self, events: Events) -> None:
        """Follow these events from now on."""
        events.subscribe(AssignmentReceived, self._assignment_received)
        events.subscribe(AssignmentRevoked, self._assignment_revoked)
        events.subscribe(StandingBy, self._stands_by)
        events.subscribe(BatchOpened, self._batch_opened)
        events.subscribe(Committed, self._committed)

    def beat(self, now: float) -> None:
        """The daemon made progress: a commit, an assignment, or another attempt during an outage."""
        self.moved_at = now

    def tick(self, now: float) -> None:
        """Call this every few seconds, so that idle time does not count as time without progress."""
        if self._resting() is not None:
            self.beat(now)

    def session_opened(self, now: float) -> None:
        """A session has its partitions and reads."""
        self.assigned = True
        self.beat(now)

    def session_ended(self) -> None:
        """Nothing is in flight any more."""
        self.in_flight = False

    def session_was_fruitless(self, now: float, reason: str) -> None:
        """A session ended without a commit, although there is no outage."""
        self.fruitless_sessions += 1
        self.fruitless_at, self.fruitless_reason = now, reason

    def stood_by(self, reason: str) -> None:
        """The replica no longer stands by for ``reason``. A different reason, which came with a new assignment, stays."""
        if self.standing_by == reason:
            self.standing_by = None

    def alive(self, now: float) -> tuple[bool, str]:
        """The answer of ``/livez``, and the reason."""
        count = self.fruitless_sessions
        if count >= _MAX_FRUITLESS_SESSIONS and now - self.fruitless_at < _FRUITLESS_FOR_SECONDS:
            return False, f"{count} sessions in a row ended without a commit, the last: {self.fruitless_reason}"
        if (reason := self._resting()) is not None:
            return True, reason
        still = now - self.moved_at
        if still <= self.stuck_after_seconds:
            return True, "moving"
        return False, f"stuck: {self.lag_messages or 'some'} messages wait and nothing moved for {still:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """The answer of ``/readyz``, and the reason."""
        missing = [service.outage() for service in self._away()]
        if not self.assigned and self.standing_by is None:
            missing.append("no partitions assigned")
        if not self.schema_present:
            missing.append("schema not present")
        if self.missing_partition:
            missing.append(self.missing_partition)
        return not missing, "; ".join(missing) or self.standing_by or "ready"

    def _assignment_received(self, event: AssignmentReceived) -> None:
        self.standing_by = None if event.partitions else ALL_OWNED_BY_OTHERS
        if not event.partitions:
            self.beat(event.monotonic)

    def _assignment_revoked(self, _: AssignmentRevoked) -> None:
        self.assigned = False
        self.standing_by = None

    def _stands_by(self, event: StandingBy) -> None:
        self.standing_by = event.reason

    def _batch_opened(self, _: BatchOpened) -> None:
        self.in_flight = True

    def _committed(self, event: Committed) -> None:
        self.beat(event.monotonic)
        self.fruitless_sessions = 0
        self.in_flight = event.open

    def _away(self) -> list[Service]:
        return [service for service in (self.kafka, self.postgres) if service.up is False]

    def _resting(self) -> str | None:
        """Why no progress is needed now; None if it is needed."""
        if away := self._away():
            return "; ".join(service.outage() for service in away)
        if self.standing_by is not None:
            return self.standing_by
        if not self.in_flight and not self.lag_messages:
            return "idle: nothing to read"
        return None
