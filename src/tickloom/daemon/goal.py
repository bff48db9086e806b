"""``Goal``: where a drain ends, which is at the log's end as it was when the drain started, or at a bound before that."""

import asyncio
import contextlib
import time
from collections.abc import Mapping

from tickloom.core.model import TopicPartition
from tickloom.daemon.lifecycle import Lifecycle
from tickloom.observe.outcome import Bounds, Ended, Tally
from tickloom.settings import Settings
from tickloom.source.cluster import describe_cluster
from tickloom.source.reader import Reader
from tickloom.store import ledger
from tickloom.store.store import Store

_ASK_LEDGER_SECONDS = 0.5
Ends = Mapping[TopicPartition, int]


class Goal:
    """Belongs to the event loop. ``ends``: per partition, the offset to drain to; None until Kafka has answered."""

    def __init__(self, bounds: Bounds, tally: Tally, lifecycle: Lifecycle) -> None:
        """``tally`` counts the messages that this drain commits. The time bound counts from now."""
        self.ends: Ends | None = None
        self._bounds, self._tally, self._lifecycle = bounds, tally, lifecycle
        self._started = time.monotonic()

    def messages_left(self) -> int | None:
        """How many more messages this drain may commit; None without a bound."""
        bound = self._bounds.max_messages
        return None if bound is None else max(0, bound - self._tally.messages)

    async def keep_time(self) -> None:
        """A chore: end the drain when its time is over."""
        if self._bounds.max_seconds is not None:
            await asyncio.sleep(self._started + self._bounds.max_seconds - time.monotonic())
            self._lifecycle.end(Ended.MAX_SECONDS)

    async def reached(self, store: Store) -> bool:
        """Whether the drain is done: the tables hold the log up to ``ends``, or it has committed as many messages as it may.

        Other replicas may load their part of the log. Until they have, this waits and polls the ledger; it returns False
        when it is interrupted. The group gives us the partitions of a replica that died as soon as it notices.
        """
        ends, interrupted = self.ends or {}, self._lifecycle.interrupted
        while not self._lifecycle.stopping:
            done = await store.run(lambda connection: ledger.positions(connection, list(ends)))
            if all(done.get(at, 0) >= end for at, end in ends.items()):
                return self._end(Ended.DRAINED)
            if self.messages_left() == 0:
                return self._end(Ended.MAX_MESSAGES)
            if interrupted.is_set():
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_LEDGER_SECONDS):
                    await interrupted.wait()
        return False

    def _end(self, why: Ended) -> bool:
        self._lifecycle.end(why)
        return True


def log_ends(settings: Settings) -> dict[TopicPartition, int]:
    """The current ends of all partitions of both topics, without the messages that open transactions hold back.

    Blocks. Raises ``SourceUnavailable``, ``Mistake``.
    """
    reader = Reader(settings, describe_cluster(settings).everything)
    try:
        return {at: high for at, (_, high) in reader.watermarks().items()}
    finally:
        reader.stop()
