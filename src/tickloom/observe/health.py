"""Whether the daemon lives and is ready. Pure: ``now`` (monotonic seconds) and ``wall`` (Unix seconds) are arguments.

*Alive*: something moved lately, or there is nothing to do, or an outage or another replica is being waited for (a restart
would not help); and not one session after the other ends without a commit. *Ready*: partitions are assigned, or others read
all; the schema is there, and Kafka and Postgres answer.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(slots=True)
class Service:
    """Kafka or Postgres, as all who talk to it find it: it is up when nobody complains. Written on the event loop."""

    name: str
    up: bool | None = None  # None: nobody has asked yet
    since: float = 0.0  # Unix seconds: since when it is so
    error: str = ""  # why it is not
    _complaints: dict[object, str] = field(default_factory=dict[object, str])

    def complain(self, who: object, error: str, wall: float) -> bool:
        """``who`` is not served. Whether this is news."""
        self._complaints[who] = error
        self.error = error
        return self._turn(False, wall)

    def praise(self, who: object, wall: float) -> bool:
        """``who`` is served. Whether this is news: nobody else complains any more."""
        self._complaints.pop(who, None)
        return not self._complaints and self._turn(True, wall)

    def withdraw(self, who: object) -> None:
        """``who`` asks no longer. That is no answer: the service is as it was until somebody gets one."""
        self._complaints.pop(who, None)

    def _turn(self, up: bool, wall: float) -> bool:
        news = self.up is not up
        if news:
            self.up, self.since = up, wall
        return news

    def waited_for(self) -> str:
        """That it is away, since when, and why."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return f"waiting for {self.name} since {since}: {self.error}"


_FRUITLESS_SESSIONS = 5
_FRUITLESS_FOR_SECONDS = 60.0
"""A session that has lasted for so long after those is none of them."""


@dataclass(slots=True)
class Health:
    """Written by the tasks of the flow, read by the HTTP server; all on the event loop."""

    stuck_after_seconds: float
    moved_at: float
    lag_messages: int | None = None
    """In the partitions that are ours; None where it is not known."""
    in_flight: bool = False
    assigned: bool = False
    schema_present: bool = False
    lacks: str = ""
    """What somebody must make before the flow goes on, though the database answers."""
    fruitless: int = 0
    fruitless_at: float = 0.0
    fruitless_why: str = ""
    waiting_for: str | None = None
    """Why this replica stands by, that is, reads nothing though nothing is away: it is alive and ready."""
    kafka: Service = field(default_factory=lambda: Service("Kafka"))
    postgres: Service = field(default_factory=lambda: Service("Postgres"))

    def beat(self, now: float) -> None:
        """Something moved: a commit, an assignment, or one more try of an outage."""
        self.moved_at = now

    def rest(self, now: float) -> None:
        """To be called every few seconds: the time in which nothing could move is not held against us afterwards."""
        if self._rests() is not None:
            self.beat(now)

    def session_in_vain(self, now: float, why: str) -> None:
        """One more session has ended without a commit, though nothing was away."""
        self.fruitless += 1
        self.fruitless_at, self.fruitless_why = now, why

    def alive(self, now: float) -> tuple[bool, str]:
        """The answer of ``/livez`` and why."""
        if self.fruitless >= _FRUITLESS_SESSIONS and now - self.fruitless_at < _FRUITLESS_FOR_SECONDS:
            return False, f"{self.fruitless} sessions in a row ended without a commit, the last: {self.fruitless_why}"
        if (why := self._rests()) is not None:
            return True, why
        still = now - self.moved_at
        if still <= self.stuck_after_seconds:
            return True, "moving"
        return False, f"stuck: {self.lag_messages or 'some'} messages wait and nothing moved for {still:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """The answer of ``/readyz`` and why."""
        missing = [service.waited_for() for service in self._away()]
        if not self.assigned and self.waiting_for is None:
            missing.append("no partitions assigned")
        if not self.schema_present:
            missing.append("schema not present")
        if self.lacks:
            missing.append(self.lacks)
        return not missing, "; ".join(missing) or self.waiting_for or "ready"

    def _away(self) -> list[Service]:
        return [service for service in (self.kafka, self.postgres) if service.up is False]

    def _rests(self) -> str | None:
        """Why nothing need move just now; None where something must."""
        if away := self._away():
            return "; ".join(service.waited_for() for service in away)
        if self.waiting_for is not None:
            return self.waiting_for
        if not self.in_flight and not self.lag_messages:
            return "idle: nothing to read"
        return None
