"""Events and their subscribers."""

import pytest

from tests.commits import AT, LOST, committed
from tests.readers import RECORD_MS
from tickloom.observe.events import BatchOpened, Events, StandingBy


def test_a_commit_tells_all_that_subscribers_count() -> None:
    """Metrics, health and summaries would each count the same batch in another way."""
    event = committed()
    assert (event.messages, event.rejected, event.total) == ({"topic": 4}, {"topic": 1}, 4)
    assert (event.stored, event.superseded, event.rejects) == (2, 1, {"not_json": 1})
    assert (event.missing, event.gaps) == (2, (LOST,))
    assert event.positions == {AT: 4, LOST.source: 9}
    assert sum(event.hours.values()) == 3
    assert (event.oldest_ms, event.newest_ms) == (RECORD_MS, {AT: RECORD_MS})


def test_each_subscriber_gets_its_events_in_order() -> None:
    """Health would show what the metrics do not, or a web page would miss commits."""
    events, seen = Events(), list[str]()
    events.subscribe(StandingBy, lambda event: seen.append(f"first {event.reason}"))
    events.subscribe(StandingBy, lambda event: seen.append(f"second {event.reason}"))
    events.subscribe(BatchOpened, lambda _: seen.append("opened"))
    events.publish(StandingBy("a"))
    events.publish(BatchOpened())
    assert seen == ["first a", "second a", "opened"]


def test_a_subscriber_that_fails_is_heard() -> None:
    """Counters would stop for good, while the daemon says that it is healthy."""
    events = Events()

    def fail(_: BatchOpened) -> None:
        raise ZeroDivisionError

    events.subscribe(BatchOpened, fail)
    with pytest.raises(ZeroDivisionError):
        events.publish(BatchOpened())
