"""Whether the daemon lives and is ready. Pure: ``now`` (monotonic seconds) is an argument.

*Alive*: something moved lately, or there is nothing to do, or an outage is being waited out (a restart would not
help); and not one session after the other ends without a commit. *Ready*: partitions are assigned, the schema is there, and the last word of the database was good.
"""

from dataclasses import dataclass

_FRUITLESS_SESSIONS = 5
_FRUITLESS_FOR_SECONDS = 60.0
"""A session that has lasted for so long after those is none of them."""


@dataclass(slots=True)
class Health:
    """Written by the tasks of the flow, read by the HTTP server; all on the event loop."""

    stuck_after_seconds: float
    moved_at: float
    lag_messages: int = 0
    in_flight: bool = False
    assigned: bool = False
    schema_present: bool = False
    database_reachable: bool = False
    fruitless: int = 0
    fruitless_at: float = 0.0
    fruitless_why: str = ""
    waiting_for: str | None = None

    def beat(self, now: float) -> None:
        """Something moved: a commit, an assignment, or one more try of an outage."""
        self.moved_at = now

    def session_in_vain(self, now: float, why: str) -> None:
        """One more session has ended without a commit, though nothing was away."""
        self.fruitless += 1
        self.fruitless_at, self.fruitless_why = now, why

    def alive(self, now: float) -> tuple[bool, str]:
        """The answer of ``/livez`` and why."""
        if self.fruitless >= _FRUITLESS_SESSIONS and now - self.fruitless_at < _FRUITLESS_FOR_SECONDS:
            return False, f"{self.fruitless} sessions in a row ended without a commit, the last: {self.fruitless_why}"
        if self.waiting_for is not None:
            return True, self.waiting_for
        if not self.in_flight and self.lag_messages == 0:
            return True, "idle: nothing to read"
        still = now - self.moved_at
        if still <= self.stuck_after_seconds:
            return True, "moving"
        return False, f"stuck: {self.lag_messages} messages wait and nothing moved for {still:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """The answer of ``/readyz`` and why."""
        missing = [
            what
            for what, good in (
                ("no partitions assigned", self.assigned or self.waiting_for is not None),
                ("schema not present", self.schema_present),
                ("database not reachable", self.database_reachable),
            )
            if not good
        ]
        return not missing, "; ".join(missing) or self.waiting_for or "ready"
