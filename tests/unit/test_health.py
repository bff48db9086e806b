"""What ``/livez`` and ``/readyz`` answer."""

from dataclasses import replace

from tests.commits import committed
from tickloom.core.model import TopicPartition
from tickloom.observe.events import AssignmentReceived, AssignmentRevoked, BatchOpened, Events, StandingBy
from tickloom.observe.health import ALL_OWNED_BY_OTHERS, Health

AT = TopicPartition("topic", 0)


def test_a_stuck_daemon_is_not_alive() -> None:
    """A stuck daemon must be restarted, an idle one must not."""
    health = Health(10, moved_at=0)
    assert health.alive(1_000)[0], "idle is healthy"
    health.tick(1_000)
    health.lag_messages = 5
    assert health.alive(1_009)[0], "idle time does not count"
    assert not health.alive(1_011)[0]
    health.tick(1_011)
    assert not health.alive(1_011)[0], "a stuck daemon is not idle"
    health.beat(1_011)
    assert health.alive(1_020)[0]


def test_sessions_that_come_to_nothing() -> None:
    """A daemon that starts over for ever would look healthy, because each start moves something."""
    health = Health(10, moved_at=1_015)
    for _ in range(5):
        assert health.alive(1_020)[0]
        health.session_was_fruitless(1_020, "fenced")
    assert health.alive(1_020) == (False, "5 sessions in a row ended without a commit, the last: fenced")
    assert health.alive(1_090)[1] != health.alive(1_020)[1], "the session after them lasts"


def test_ready_needs_partitions_and_the_schema() -> None:
    """A rollout would go on to the next replica before this one reads anything."""
    health = Health(10, moved_at=0)
    assert health.ready() == (False, "no partitions assigned; schema not present")
    health.schema_present = True
    health.session_opened(1)
    assert health.ready() == (True, "ready")
    health.missing_partition = "create partition p"
    assert health.ready() == (False, "create partition p")


def test_health_says_what_is_waited_for() -> None:
    """A daemon that waits for a service would be restarted in a circle, or be called idle while messages wait."""
    health = Health(10, moved_at=0, lag_messages=5, assigned=True, schema_present=True)
    assert health.postgres.failed("the flow", "no space left", 1_790_000_000)
    assert not health.postgres.failed("the monitor", "no answer", 1_790_000_007), "this is not news"
    reason = "waiting for Postgres since 2026-09-21T14:13:20+00:00: no answer"
    assert health.alive(1_000) == (True, reason)
    assert health.ready() == (False, reason)
    assert not health.postgres.answered("the monitor", 1_790_000_010), "the flow still waits"
    health.postgres.forget("the flow")
    assert health.ready()[0] is False, "a client that asks no longer has got no answer"
    assert health.postgres.answered("the monitor", 1_790_000_020)
    assert health.ready() == (True, "ready")
    assert not health.alive(1_000)[0]
    health.standing_by, health.assigned = "standing by: others read", False
    assert health.ready() == (True, "standing by: others read") == health.alive(1_000)


def test_health_follows_the_events() -> None:
    """A replica that stands by would fail its probes, and one that commits would be called stuck."""
    health, events = Health(10, moved_at=0), Events()
    health.subscribe(events)
    events.publish(AssignmentReceived(frozenset(), 100))
    assert (health.standing_by, health.moved_at) == (ALL_OWNED_BY_OTHERS, 100)
    events.publish(AssignmentReceived(frozenset({AT}), 200))
    assert (health.standing_by, health.moved_at) == (None, 100), "only a session counts as progress"
    events.publish(StandingBy("another one reads"))
    health.stood_by("something else")
    assert health.standing_by == "another one reads"
    health.stood_by("another one reads")
    assert health.standing_by is None
    health.session_was_fruitless(290, "fenced")
    events.publish(BatchOpened())
    assert health.in_flight
    events.publish(replace(committed(), monotonic=300.0, open=False))
    assert (health.moved_at, health.fruitless_sessions, health.in_flight) == (300, 0, False)
    health.session_opened(301)
    events.publish(AssignmentRevoked())
    assert not health.assigned
