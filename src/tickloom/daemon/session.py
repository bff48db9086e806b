"""One session, from its take-over to its end, with all the state that must not outlive it.

When a session ends, all of it is thrown away, regardless of the reason: tails, positions, connections. The next session
starts from the ledger. So there is one kind of recovery for all failures.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, assert_never

from tickloom.core.checks import EventBounds
from tickloom.core.decode import decode
from tickloom.core.encode import Work
from tickloom.core.engine import Commit, Engine, Expiry, Need, NewestRows, RowsAround
from tickloom.core.gather import Gatherer
from tickloom.core.model import (
    Batch,
    Chunk,
    Decoded,
    Gap,
    ReadEvent,
    TopicPartition,
    side_of,
)
from tickloom.core.quality import RejectWatch
from tickloom.core.timestamps import MICROSECONDS
from tickloom.daemon.mode import MAX_PATIENCE_SECONDS, Mode, batch_limits, new_tails
from tickloom.daemon.replica import Replica
from tickloom.errors import (
    DataRefused,
    Garbled,
    SourceUnavailable,
    StateSpoilt,
    StoreUnavailable,
    TooWide,
    TopicMissing,
)
from tickloom.logs import Logger
from tickloom.observe.events import BatchOpened, Committed
from tickloom.observe.metrics import CpuClock
from tickloom.source.cluster import Topics
from tickloom.source.reader import Reader
from tickloom.store.careful import CarefulWriter
from tickloom.store.check import check_tables
from tickloom.store.copartition import Entered
from tickloom.store.history import History
from tickloom.store.loader import Loaded, Loader
from tickloom.store.outputs import declared
from tickloom.store.placement import Placement
from tickloom.store.postgres import Connection, connected
from tickloom.store.store import Store
from tickloom.store.supplier import Supplier
from tickloom.store.writers import FastWriter, Writer

_log = Logger(__name__)
_BUSY_WAIT_SECONDS = 0.005
_NARROW_BATCHES = 100
"""The number of small batches after one that touched too many partitions."""
_TOPIC_IDS_TIMEOUT_SECONDS = 1.0
"""How long a batch may wait for the brokers to return the topics' ids."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Takeover:
    """The result of a take-over, with which a session works. Only ``store`` writes the ledger.

    ``topic_ids``: the ids of the topics at the take-over. ``marks``: per partition, where the log begins and ends. ``gaps``:
    the offsets that retention has removed. ``budget``: the number of table partitions that a transaction may touch.
    ``ends``: per partition, the offset at which reading ends; ``max_messages``: how many messages to read. None: no bound.
    """

    reader: Reader
    store: Store
    entered: Entered
    topics: Topics
    topic_ids: Mapping[str, str]
    marks: Mapping[TopicPartition, tuple[int, int]]
    gaps: Sequence[Gap]
    budget: int
    ends: Mapping[TopicPartition, int] | None = None
    max_messages: int | None = None

    def bounded(self, ends: Mapping[TopicPartition, int] | None, max_messages: int | None) -> "Takeover":
        """The same with these bounds. Ends of partitions that were not taken over are left out."""
        mine = None if ends is None else {at: end for at, end in ends.items() if at in self.entered.claims}
        return replace(self, ends=mine, max_messages=max_messages)


class Session:
    """The stages of the flow for one assignment. ``flow`` drives them; ``stop`` ends the session gracefully."""

    def __init__(self, replica: Replica, takeover: Takeover, mode: Mode) -> None:
        settings, claims = replica.settings, takeover.entered.claims
        self.stopping = False
        self._replica, self._takeover, self._mode = replica, takeover, mode
        self._messages_left = takeover.max_messages  # None: no limit; only the task that makes batches writes it
        self._writes, self._reads = takeover.store, replica.store()
        self.policy = takeover.entered.policy(settings, self._reads)
        self.engine = self._new_engine(
            {at: claim.next_offset for at, claim in claims.items()},
            {at: claim.logged for at, claim in claims.items()},
            joins=not mode.careful,
        )
        self._rejects = RejectWatch(replica.reject_limits)
        self._bounds = EventBounds(
            round(settings.event_max_ahead_seconds * MICROSECONDS),
            round(settings.event_max_age_seconds * MICROSECONDS),
        )
        history = History(replica.partitioner, settings.window_rows, takeover.budget)
        made = replica.metrics.partitions_created.inc
        self._supplier = Supplier(self._reads.run, history, replica.partitioner, made)
        self._placement = Placement(self._supplier, replica.partitioner, settings)
        self._writer = self._new_writer(history)
        self._reader_clock = CpuClock(
            replica.metrics.stage_cpu_seconds.labels("consume"), lambda: takeover.reader.cpu_seconds
        )
        self._committed = asyncio.Event()  # set by each commit
        self._loading = False
        self._open = False  # whether messages have been gathered since the last commit

    # --- called by the flow -----------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def now_micros(self) -> int:
        """The wall clock, in microseconds since 1970."""
        return int(time.time() * MICROSECONDS)

    def stop(self) -> None:
        """End gracefully: read nothing more, but load the batches that are joined."""
        self.stopping = True

    def drained(self) -> bool:
        """Whether reading is over: the session was stopped, or a drain has read up to its ends or its bound."""
        if self.stopping or self._messages_left == 0:
            return True
        return self._takeover.ends is not None and self._has_read_to(self._takeover.ends)

    def caught_up(self) -> bool:
        """Whether every message is read that was in the log when the session began."""
        claims, marks = self._takeover.entered.claims, self._takeover.marks
        return self._has_read_to({at: marks[at][1] for at in claims})

    async def next_event(self) -> ReadEvent | None:
        """The next event; None once the open batch reaches its maximum age, or after 0.1 s without an open batch."""
        if self.engine.empty:
            timeout = 0.1
        else:
            timeout = max(self.engine.seconds_left(self.now()), _BUSY_WAIT_SECONDS if self._loading else 0)
        event = await self._takeover.reader.next_event(timeout)
        if isinstance(event, Chunk) and self._messages_left is not None:
            event = event.part(0, self._messages_left)  # the next session or replica reads the rest
            self._messages_left -= len(event.values)
        return event

    def batch_due(self, handed_over: bool) -> bool:
        """Whether to close the open batch. ``handed_over``: no earlier batch is waiting in the queue to be loaded."""
        if not self._open and not self.engine.empty:
            self._open = True
            self._replica.events.publish(BatchOpened())
        return self.engine.due(self.now(), busy=self._loading or not handed_over)

    async def decode(self, chunk: Chunk) -> Decoded:
        """Decode the chunk off the loop, and make sure that each row has a table partition. A row whose partition was detached,
        or is too far ahead, becomes a reject.

        Raises ``TooManyRejects``, ``NotCopartitioned``, ``StateSpoilt``, ``Mistake``.
        """
        await self.policy.admit(chunk)
        decoded = await self.compute("decode", lambda: decode(chunk, self._bounds))
        self._rejects.see(decoded)
        return await self._placement.place(decoded, self.now_micros())

    async def check_source(self, batch: Batch) -> None:
        """Check that the batch comes from the same topics as before, and its symbols from their home partitions.

        Raises ``SourceUnavailable``, ``AwayFromHome``.
        """
        if await self.topics_changed():
            raise SourceUnavailable("a topic was deleted and created again; the next session checks it")
        await self.policy.check_homes(batch, partial(self.compute, "join", lambda: self.engine.symbols(batch)))

    async def fetch(self, need: Need) -> Any:
        """Fetch what the engine needs. Waits out outages. Raises ``StateSpoilt``, ``Mistake``."""
        if isinstance(need, Commit):
            while self.engine.batches_committed < need.through:
                self._committed.clear()
                await self._committed.wait()
            return None
        started, metrics = self.now(), self._replica.metrics
        answer = await self._supplier.fetch(need)
        match need:
            case NewestRows(symbols):
                metrics.symbols_loaded.inc(len(symbols))
                metrics.stage_seconds.labels("tails").observe(self.now() - started)
            case RowsAround():
                metrics.stage_seconds.labels("around").observe(self.now() - started)
            case Expiry():
                pass
            case _:
                assert_never(need)
        return answer

    def checked(self, work: Work) -> Work:
        """Returns ``work``. Raises ``TooWide`` if it touches too many table partitions and a smaller batch would help."""
        touched = {} if work.encoded is None else work.encoded.touched
        if self._replica.partitioner.count(touched) > self._takeover.budget and work.batch.messages > 1:
            raise TooWide(work.batch.messages)
        return work

    async def compute(self, stage_name: str, work: Callable[[], T]) -> T:
        """Run CPU-bound ``work`` off the loop, and add its time to the metrics of the stage."""
        started = self.now()
        result, cpu_seconds = await asyncio.get_running_loop().run_in_executor(self._replica.executor, _timed, work)
        self._replica.metrics.stage_seconds.labels(stage_name).observe(self.now() - started)
        self._replica.metrics.stage_cpu_seconds.labels(stage_name).inc(cpu_seconds)
        return result

    async def load(self, work: Work) -> None:
        """Commit the batch. Waits out outages. Raises ``Fenced``, ``StateSpoilt``, ``Mistake``."""
        self._loading = True
        started = self.now()
        try:
            batch, loaded = await self._writes.run(lambda connection: self._load_once(connection, work))
        except DataRefused as error:
            _log.warning("Postgres refuses a row", error=str(error))
            raise self._writer.refusal(error) from error
        finally:
            self._loading = False
        self.engine.committed()
        self._committed.set()
        self._publish(batch, loaded, self.now() - started)
        self._writer.check_still_needed(loaded)
        if self._mode.max_messages is not None and self.engine.batches_committed == _NARROW_BATCHES:
            raise StateSpoilt("enough small batches are loaded: larger ones may be possible again")

    async def topics_changed(self) -> bool:
        """Whether a topic was deleted since the session began, and perhaps created again. Takes some tenths of a millisecond
        of CPU.

        librdkafka does not notice it: it goes on reading the new topic at the same offset, or waits there silently.
        """
        topic_ids = partial(self._takeover.topics.ids, _TOPIC_IDS_TIMEOUT_SECONDS)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, topic_ids) != self._takeover.topic_ids
        except SourceUnavailable:  # while no broker answers, a topic cannot be created again either
            return False
        except TopicMissing:
            return True

    def settle(self, batch: Batch) -> None:
        """Commit the batch's offsets to Kafka, as a courtesy. Does not block."""
        self._replica.member.settle(batch)

    async def close(self) -> None:
        """Close the connections to Postgres."""
        try:
            await self._writes.close()
        finally:
            await self._reads.close()

    # --- internals ----------------------------------------------------------------------------------------------

    async def _load_once(self, connection: Connection, work: Work) -> tuple[Batch, Loaded]:
        replica = self._replica
        try:
            return await self._writer.write(connection, work, datetime.now(UTC))
        except StoreUnavailable as error:
            replica.partitioner.forget()  # a partition may have been dropped, or lost in a failover: read them again
            if isinstance(error, Garbled):
                async with connected(replica.settings) as another:
                    await check_tables(another, replica.settings)
            raise

    def _new_engine(
        self,
        positions: Mapping[TopicPartition, int],
        logged: Mapping[TopicPartition, int] | None = None,
        *,
        joins: bool = True,
    ) -> Engine:
        settings = self._replica.settings
        limits = batch_limits(settings, self._mode, self._takeover.budget)
        gatherer = Gatherer(limits, positions, logged, keep_raw=not joins)
        widths = self._replica.partitioner.widths
        return Engine(gatherer, new_tails(settings), widths, joins=joins, outputs=declared())

    def _new_writer(self, history: History) -> Writer:
        replica, settings, patience = self._replica, self._replica.settings, self._mode.patience_seconds
        topics = {side: topic for topic, side in side_of(settings).items()}
        epochs = {at: claim.epoch for at, claim in self._takeover.entered.claims.items()}
        loader = Loader(topics, epochs, settings.database_command_timeout_seconds)
        if not self._mode.careful:
            made = replica.metrics.partitions_created.inc
            return FastWriter(loader, replica.partitioner, replica.refused, made)
        return CarefulWriter(
            loader=loader,
            new_engine=lambda: self._new_engine({}),
            history=history,
            partitioner=replica.partitioner,
            watch=replica.refused,
            offload=partial(self.compute, "sift"),
            window_rows=settings.window_rows,
            budget=self._takeover.budget,
            copy_seconds=settings.database_command_timeout_seconds,
            patience_seconds=patience,
            patient=patience < MAX_PATIENCE_SECONDS,
        )

    def _has_read_to(self, ends: Mapping[TopicPartition, int]) -> bool:
        positions = self.engine.positions
        return all(positions[at] >= end for at, end in ends.items())

    def _publish(self, batch: Batch, loaded: Loaded, load_seconds: float) -> None:
        self._open = not self.engine.empty
        self._reader_clock.note()
        committed = Committed.of(
            batch,
            loaded,
            symbols_cached=self.engine.symbols_cached,
            open=self._open,
            load_seconds=load_seconds,
            at=time.time(),
            monotonic=self.now(),
        )
        self._replica.events.publish(committed)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of ``work``, and the CPU seconds that its thread spent on it."""
    started = time.thread_time()
    return work(), time.thread_time() - started
