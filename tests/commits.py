"""What a batch publishes when it is committed, for tests of those who subscribe."""

from collections import Counter

from tests.readers import BOUNDS, RECORD_MS, chunk
from tickloom.core.decode import decode
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import Batch, Gap, Reason, Side, TopicPartition
from tickloom.observe.events import Committed
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
