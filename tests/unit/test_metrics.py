"""What the metrics count of the events."""

from tests.commits import committed
from tickloom.core.model import TopicPartition
from tickloom.observe.events import AssignmentReceived, AssignmentRevoked, Events
from tickloom.observe.metrics import CpuClock, Metrics


def subscribed() -> tuple[Metrics, Events]:
    metrics, events = Metrics(), Events()
    metrics.subscribe(events)
    return metrics, events


def test_a_commit_is_counted_once() -> None:
    """Alerts on rejects, gaps or freshness would never fire, or a dashboard would show rows that do not exist."""
    metrics, events = subscribed()
    events.publish(committed())
    value = metrics.registry.get_sample_value
    assert value("tickloom_batches_total") == 1
    assert value("tickloom_messages_total", {"topic": "topic"}) == 4
    assert value("tickloom_rows_stored_total") == 2
    assert value("tickloom_rows_superseded_total") == 1
    assert value("tickloom_rejects_total", {"reason": "not_json"}) == 1
    assert value("tickloom_gap_messages_total") == 2
    assert value("tickloom_batch_messages_sum") == 4
    assert value("tickloom_freshness_seconds_sum") == 2
    assert value("tickloom_stage_seconds_sum", {"stage": "load"}) == 0.5
    assert value("tickloom_symbols_cached") == 1
    assert value("tickloom_last_progress_timestamp_seconds") == committed().at


def test_assignments_are_counted() -> None:
    """A group that rebalances all the time would look calm."""
    metrics, events = subscribed()
    events.publish(AssignmentReceived(frozenset({TopicPartition("topic", 0)}), 0))
    assert metrics.registry.get_sample_value("tickloom_assigned_partitions") == 1
    events.publish(AssignmentRevoked())
    assert metrics.registry.get_sample_value("tickloom_assigned_partitions") == 0
    assert metrics.registry.get_sample_value("tickloom_rebalances_total") == 1


def test_cpu_time_is_counted_once() -> None:
    """The stage that costs most would be another one than the metrics say."""
    metrics = Metrics()
    seconds = iter([5.0, 7.0, 7.5])
    clock = CpuClock(metrics.stage_cpu_seconds.labels("loop"), lambda: next(seconds))
    clock.note()
    clock.note()
    assert metrics.cpu_by_stage() == {"loop": 2.5}
