"""Events and their subscribers."""

from collections import Counter

import pytest

from tests.readers import BOUNDS, RECORD_MS, chunk
from tickloom.core.decode import decode
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import Batch, Gap, Reason, Side, TopicPartition
from tickloom.observe.events import BatchOpened, Committed, Events, StandingBy
from tickloom.store.loader import Loaded

AT = TopicPartition("topic", 0)
LOST = Gap(TopicPartition("topic", 1), 7, 9)


def batch_of(*times: str, bad: int = 0) -> Batch:
    """A closed batch of prices at these times, with ``bad`` messages after them and a gap."""
    values = [b'{"symbol":"S","price":1.5,"timestamp":"%s"}' % time.encode() for time in times] + [b"?"] * bad
    gatherer = Gatherer(BatchLimits(10**9, 10**9, 1), {AT: 0, LOST.source: 7})
    gatherer.add(decode(chunk(Side.PRICES, values), BOUNDS), 0.0)
    gatherer.add(LOST, 0.0)
    return gatherer.close()


def event_of(batch: Batch, loaded: Loaded) -> Committed:
    """The batch's event, with times that do not matter."""
    return Committed.of(
        batch, loaded, symbols_cached=1, open=True, load_seconds=0.5, at=RECORD_MS / 1_000 + 2, monotonic=7.0
    )


def committed() -> Committed:
    """A batch with three prices, a reject and a gap."""
    times = ("2026-09-21T13:59:59.999999Z", "2026-09-21T14:00:00Z", "2026-09-21T14:05:00Z")
    return event_of(batch_of(*times, bad=1), Loaded(2, 1, 0, Counter({Reason.NOT_JSON: 1})))


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
