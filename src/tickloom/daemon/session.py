"""One session, from a take-over to its end, with all the state that must not outlive it.

A session that ends, for whatever reason, is thrown away whole: tails, positions, connections. The next one starts from the
ledger. So there is one kind of recovery for all failures.
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
from tickloom.daemon.manner import MOST_PATIENCE_SECONDS, Manner, batch_limits, new_tails
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
_MICROSECONDS = 1_000_000
_NARROW_BATCHES = 100
"""The number of small batches after one that touched too many partitions."""
_TOPICS_LOOK_SECONDS = 1.0
"""How long a batch may wait for the brokers to tell the topics' ids."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a session works with. ``store`` writes the ledger. ``topic_ids``: what ``topics`` said at the take-over.

    ``marks``: per partition where the log begins and ends; ``gaps``: what of it is lost. ``budget``: how many table partitions a transaction may touch.
    ``ends``: where each partition's work ends; ``most``: messages to read. None: no such bound.
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
    most: int | None = None

    def bounded(self, ends: Mapping[TopicPartition, int] | None, most: int | None) -> "TakenOver":
        """With these bounds, as far as they concern partitions that were taken over."""
        mine = None if ends is None else {at: end for at, end in ends.items() if at in self.entered.claims}
        return replace(self, ends=mine, most=most)


class Session:
    """The stages, bound to one assignment. ``flow`` drives it; ``stop`` ends it softly."""

    def __init__(self, replica: Replica, taken: TakenOver, manner: Manner) -> None:
        settings, claims = replica.settings, taken.entered.claims
        self.stopping = False
        self._replica, self._taken, self._manner = replica, taken, manner
        self._left = taken.most  # messages that may still be read; only the making task writes it
        self._writes, self._reads = taken.store, replica.store()
        self.policy = taken.entered.policy(settings, self._reads)
        self.engine = self._new_engine(
            {at: claim.next_offset for at, claim in claims.items()},
            {at: claim.logged for at, claim in claims.items()},
            joins=not manner.careful,
        )
        self._rejects = RejectWatch(replica.reject_limits)
        self._bounds = EventBounds(
            round(settings.event_max_ahead_seconds * _MICROSECONDS),
            round(settings.event_max_age_seconds * _MICROSECONDS),
        )
        history = History(replica.partitioner, settings.window_rows, taken.budget)
        made = replica.metrics.partitions_created.inc
        self._supplier = Supplier(self._reads.run, history, replica.partitioner, made)
        self._placement = Placement(self._supplier, replica.partitioner, settings)
        self._writer = self._new_writer(history)
        self._reader_clock = CpuClock(
            replica.metrics.stage_cpu_seconds.labels("consume"), lambda: taken.reader.cpu_seconds
        )
        self._committed = asyncio.Event()  # set with each commit
        self._loading = False
        self._open = False  # whether messages have been gathered since the last commit

    # --- what the flow asks -----------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def now_micros(self) -> int:
        """Microseconds since 1970, by the wall clock."""
        return int(time.time() * _MICROSECONDS)

    def stop(self) -> None:
        """End softly: nothing more is read, the batches that are joined are loaded."""
        self.stopping = True

    def drained(self) -> bool:
        """Whether there is nothing more to do: stopped, or (``--once``) read to the ends or to the bound."""
        if self.stopping or self._left == 0:
            return True
        return self._taken.ends is not None and self._has_read_to(self._taken.ends)

    def caught_up(self) -> bool:
        """Whether all is read that was there when the session began."""
        claims, marks = self._taken.entered.claims, self._taken.marks
        return self._has_read_to({at: marks[at][1] for at in claims})

    async def next_event(self) -> ReadEvent | None:
        """The next event, or None when the open batch comes of age first (or it is time to look at ``drained``)."""
        if self.engine.empty:
            timeout = 0.1
        else:
            timeout = max(self.engine.seconds_left(self.now()), _BUSY_WAIT_SECONDS if self._loading else 0)
        event = await self._taken.reader.next_event(timeout)
        if isinstance(event, Chunk) and self._left is not None:
            event = event.part(0, self._left)  # the rest is read again by whoever comes next
            self._left -= len(event.values)
        return event

    def batch_due(self, handed_over: bool) -> bool:
        """Whether to close the batch. ``handed_over``: the one before it is no longer waiting for the loader."""
        if not self._open and not self.engine.empty:
            self._open = True
            self._replica.events.publish(BatchOpened())
        return self.engine.due(self.now(), busy=self._loading or not handed_over)

    async def decode(self, chunk: Chunk) -> Decoded:
        """The chunk decoded, off the loop; its rows have partitions, or are rejects because theirs was detached.

        Raises ``TooManyRejects``, ``NotCopartitioned``, ``StateSpoilt``, ``Mistake``.
        """
        await self.policy.admit(chunk)
        decoded = await self.compute("decode", lambda: decode(chunk, self._bounds))
        self._rejects.see(decoded)
        return await self._placement.place(decoded, self.now_micros())

    async def check_source(self, batch: Batch) -> None:
        """Raise ``SourceUnavailable`` where the messages may be those of other topics; ``AwayFromHome``."""
        if await self.topics_changed():
            raise SourceUnavailable("a topic was made anew; looking at it again")
        await self.policy.check_homes(batch, partial(self.compute, "join", lambda: self.engine.symbols(batch)))

    async def fetch(self, need: Need) -> Any:
        """What the engine needs, whatever the outages. Raises ``StateSpoilt``, ``Mistake``."""
        started = self.now()
        match need:
            case Commit(through):
                while self.engine.batches_committed < through:
                    self._committed.clear()
                    await self._committed.wait()
                return None
            case NewestRows(symbols):
                answer = await self._supplier.fetch(need)
                self._replica.metrics.symbols_loaded.inc(len(symbols))
                self._replica.metrics.stage_seconds.labels("tails").observe(self.now() - started)
                return answer
            case RowsAround():
                answer = await self._supplier.fetch(need)
                self._replica.metrics.stage_seconds.labels("around").observe(self.now() - started)
                return answer
            case Expiry():
                return await self._supplier.fetch(need)
            case _:
                assert_never(need)

    def checked(self, work: Work) -> Work:
        """``work``, unless it touches too many partitions. Raises ``TooWide``."""
        touched = {} if work.encoded is None else work.encoded.touched
        if self._replica.partitioner.count(touched) > self._taken.budget and work.batch.messages > 1:
            raise TooWide(work.batch.messages)
        return work

    async def compute(self, stage_name: str, work: Callable[[], T]) -> T:
        """``work`` done off the loop, and timed."""
        started = self.now()
        result, cpu_seconds = await asyncio.get_running_loop().run_in_executor(self._replica.executor, _timed, work)
        self._replica.metrics.stage_seconds.labels(stage_name).observe(self.now() - started)
        self._replica.metrics.stage_cpu_seconds.labels(stage_name).inc(cpu_seconds)
        return result

    async def load(self, work: Work) -> None:
        """The batch committed, whatever the outages.

        Raises ``Fenced``, ``StateSpoilt``, ``Mistake``.
        """
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
        if self._manner.max_messages is not None and self.engine.batches_committed == _NARROW_BATCHES:
            raise StateSpoilt("perhaps batches need no longer be small")

    async def topics_changed(self) -> bool:
        """Whether a topic is another one than when the session began: some tenths of a millisecond of CPU.

        librdkafka goes on in one that was deleted and made anew, at the same offset, or waits there without a word.
        """
        look = partial(self._taken.topics.ids, _TOPICS_LOOK_SECONDS)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, look) != self._taken.topic_ids
        except SourceUnavailable:  # nobody can make a topic anew where nobody answers
            return False
        except TopicMissing:
            return True

    def settle(self, batch: Batch) -> None:
        """Tell the group how far the tables are."""
        self._replica.member.settle(batch)

    async def close(self) -> None:
        """Let the connections go."""
        try:
            await self._writes.close()
        finally:
            await self._reads.close()

    # --- how ----------------------------------------------------------------------------------------------------

    async def _load_once(self, connection: Connection, work: Work) -> tuple[Batch, Loaded]:
        replica = self._replica
        try:
            return await self._writer.write(connection, work, datetime.now(UTC))
        except StoreUnavailable as error:
            replica.partitioner.forget()  # dropped by a person, or lost in a failover: look again
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
        limits = batch_limits(settings, self._manner, self._taken.budget)
        gatherer = Gatherer(limits, positions, logged, keep_raw=not joins)
        widths = self._replica.partitioner.widths
        return Engine(gatherer, new_tails(settings), widths, joins=joins, outputs=declared())

    def _new_writer(self, history: History) -> Writer:
        replica, settings, patience = self._replica, self._replica.settings, self._manner.patience_seconds
        topics = {side: topic for topic, side in side_of(settings).items()}
        epochs = {at: claim.epoch for at, claim in self._taken.entered.claims.items()}
        loader = Loader(topics, epochs, settings.database_command_timeout_seconds)
        if not self._manner.careful:
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
            budget=self._taken.budget,
            copy_seconds=settings.database_command_timeout_seconds,
            patience_seconds=patience,
            patient=patience < MOST_PATIENCE_SECONDS,
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
    """``work`` done, and the CPU seconds of its thread meanwhile."""
    started = time.thread_time()
    return work(), time.thread_time() - started
