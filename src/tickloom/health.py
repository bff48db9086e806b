"""Whether the daemon lives and is ready. Pure: ``now`` (monotonic seconds) is an argument.

*Alive*: something moved lately, or there is nothing to do, or an outage is being waited out (a restart would not
help). *Ready*: partitions are assigned, the schema is there, and the last word of the database was good.
"""

from dataclasses import dataclass


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
    lacks: str = ""
    """What somebody must make before the flow goes on, though the database answers."""
    waiting_for: str | None = None

    def beat(self, now: float) -> None:
        """Something moved: a commit, an assignment, or one more try of an outage."""
        self.moved_at = now

    def alive(self, now: float) -> tuple[bool, str]:
        """The answer of ``/livez`` and why."""
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
        if self.lacks:
            missing.append(self.lacks)
        return not missing, "; ".join(missing) or self.waiting_for or "ready"
