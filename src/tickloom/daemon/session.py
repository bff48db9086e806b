"""One session: from an assignment's take-over to its end, with all the state that must not outlive it.

A session that ends for whatever reason is thrown away whole: tails, positions, connections. The next one starts
from the ledger. That is what makes every failure the same failure.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, assert_never

from tickloom.core.checks import EventBounds
from tickloom.core.decode import decode, without
from tickloom.core.encode import Work
from tickloom.core.engine import Commit, Engine, Expiry, Need, NewestRows, RowsAround
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import (
    FEEDS,
    TABLES,
    Batch,
    Chunk,
    Decoded,
    Gap,
    ReadEvent,
    Reason,
    TopicPartition,
    side_of,
)
from tickloom.core.partitioning import Far
from tickloom.core.quality import RejectWatch
from tickloom.core.tails import Tails
from tickloom.core.timestamps import LATEST
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
from tickloom.observe.events import BatchOpened, Committed, TookOver
from tickloom.observe.metrics import CpuClock
from tickloom.settings import Partitioning, Settings
from tickloom.source.cluster import Cluster, Topics
from tickloom.source.reader import Reader, find_gap
from tickloom.store import copartition, ledger
from tickloom.store.careful import CarefulWriter
from tickloom.store.check import check_tables
from tickloom.store.copartition import Entered, Stance, View
from tickloom.store.history import History
from tickloom.store.loader import Loaded, Loader
from tickloom.store.locks import lock_budget
from tickloom.store.postgres import Connection, connected
from tickloom.store.source_claim import claim_source
from tickloom.store.store import Store
from tickloom.store.supplier import Supplier
from tickloom.store.writers import FastWriter, Writer

_log = Logger(__name__)
_BUSY_WAIT_SECONDS = 0.005
_ROWS_LOADED_AT_ONCE = 1 << 18
"""Of tails, by one query a side: what comes takes a hundred bytes a row until it is in its ring."""
_MICROSECONDS = 1_000_000
_HOUR_MICROSECONDS = 3_600 * _MICROSECONDS
MOST_PATIENCE_SECONDS = 8.0
"""And half of it before that, and so on: in all nothing is committed for twice as long, at most."""
_NARROW_BATCHES = 100
"""So many batches are made small after one touched too many partitions."""
_TOPICS_LOOK_SECONDS = 1.0
"""So long may a batch wait for the brokers to tell the topics' ids."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manner:
    """How a session works. ``careful``: those are singled out whom Postgres refuses, for as long as there are any in each
    batch. ``patience_seconds``: so long does its batch wait for more messages, where those before were too few to tell whose
    fault it is. ``max_messages`` of a batch, where larger ones touched too many partitions.
    """

    careful: bool = False
    patience_seconds: float = 0
    max_messages: int | None = None


class Session:
    """The stages, bound to one assignment. ``flow`` drives it; ``stop`` ends it softly."""

    def __init__(
        self,
        replica: Replica,
        reader: Reader,
        store: Store,
        entered: Entered,
        ends: Mapping[TopicPartition, int] | None,
        highs: Mapping[TopicPartition, int],
        topics: Topics,
        topic_ids: Mapping[str, str],
        manner: Manner,
        budget: int,
        most: int | None = None,
    ) -> None:
        """``ends``: where each partition's work ends; ``most``: messages to read. None: no such bound. ``highs``: where the
        logs end now. ``topic_ids``: what ``topics`` says now.
        """
        settings, claims = replica.settings, entered.claims
        positions = {at: claim.next_offset for at, claim in claims.items()}
        self.stopping = False
        logged = {at: claim.logged for at, claim in claims.items()}
        gatherer = Gatherer(_batch_limits(settings, manner, budget), positions, logged, keep_raw=manner.careful)
        self.engine = Engine(gatherer, self._new_tails(settings), replica.partitioner.widths, joins=not manner.careful)
        self._replica = replica
        self._reader = reader
        self._ends = None if ends is None else {at: end for at, end in ends.items() if at in claims}
        self._highs = {at: high for at, high in highs.items() if at in claims}
        self._left = most  # messages that may still be read; only the making task writes it
        self._topics, self._topic_ids = topics, topic_ids
        self._manner = manner
        self._budget = budget
        self._watch = RejectWatch(replica.reject_limits)
        self._bounds = EventBounds(
            round(settings.event_max_ahead_seconds * _MICROSECONDS),
            round(settings.event_max_age_seconds * _MICROSECONDS),
        )
        topic_of = {side: topic for topic, side in side_of(settings).items()}
        epochs = {at: claim.epoch for at, claim in claims.items()}
        loader = Loader(topic_of, epochs, settings.database_command_timeout_seconds)
        history = History(replica.partitioner, settings.window_rows, budget)
        self._writes = store
        self._reads = replica.store()
        self.policy = entered.policy(settings, self._reads)
        made = replica.metrics.partitions_created.inc
        self._supplier = Supplier(self._reads.run, history, replica.partitioner, made)
        self._writer: Writer = FastWriter(loader, replica.partitioner, replica.refused, made)
        if manner.careful:
            self._writer = self._careful_writer(loader, history)
        self._reader_clock = CpuClock(
            replica.metrics.stage_cpu_seconds.labels("consume"), lambda: self._reader.cpu_seconds
        )
        self._committed = asyncio.Event()  # one more batch is
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
        return self._ends is not None and self._has_read_to(self._ends)

    def caught_up(self) -> bool:
        """Whether all is read that was there when the session began."""
        return self._has_read_to(self._highs)

    async def next_event(self) -> ReadEvent | None:
        """The next event, or None when the open batch comes of age first (or it is time to look at ``drained``)."""
        if self.engine.empty:
            timeout = 0.1
        else:
            timeout = max(self.engine.seconds_left(self.now()), _BUSY_WAIT_SECONDS if self._loading else 0)
        event = await self._reader.next_event(timeout)
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
        self._watch.see(decoded)
        return await self._with_partitions(decoded)

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
        if self._replica.partitioner.count(touched) > self._budget and work.batch.messages > 1:
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
        self._writer.check_useful(loaded)
        if self._manner.max_messages is not None and self.engine.batches_committed == _NARROW_BATCHES:
            raise StateSpoilt("perhaps batches need no longer be small")

    async def topics_changed(self) -> bool:
        """Whether a topic is another one than when the session began: some tenths of a millisecond of CPU.

        librdkafka goes on in one that was deleted and made anew, at the same offset, or waits there without a word.
        """
        look = partial(self._topics.ids, _TOPICS_LOOK_SECONDS)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, look) != self._topic_ids
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

    async def _with_partitions(self, decoded: Decoded) -> Decoded:
        """What was decoded; among the rejects also rows whose partition was detached, or is too many that far ahead."""
        table, micros = FEEDS[decoded.chunk.side].table.name, decoded.rows["ts"].to_numpy()
        settings, partitioner = self._replica.settings, self._replica.partitioner
        latest = round((time.time() + settings.event_max_ahead_seconds) * _MICROSECONDS)
        far = Far(min(latest, LATEST), settings.partitions_far_ahead)
        expired = await self._supplier.expired(table, micros, far)
        too_far = partitioner.too_far(table, micros, far)
        if expired.any():
            names = [part.name for part in partitioner.detached]
            _log.warning("the partition of some rows was detached", rows=int(expired.sum()), partitions=names)
            detail = f"the partition of {table} for the event's time was detached"
            decoded = without(decoded, expired, Reason.EXPIRED, detail)
        if too_far.any():
            detail = f"the event lies ahead of now, and {table} has {far.most} partitions that far ahead already"
            _log.warning("events lie too far ahead of now", rows=int(too_far.sum()), table=table)
            decoded = without(decoded, too_far[~expired], Reason.OUT_OF_BOUNDS, detail)
        return decoded

    @staticmethod
    def _new_tails(settings: Settings) -> Tails:
        return Tails(settings.window_rows, settings.tail_rows, settings.cache_max_symbols, settings.cache_max_bytes)

    def _careful_writer(self, loader: Loader, history: History) -> CarefulWriter:
        settings, widths = self._replica.settings, self._replica.partitioner.widths
        limits = _batch_limits(settings, self._manner, self._budget)
        return CarefulWriter(
            loader=loader,
            new_engine=lambda: Engine(Gatherer(limits, {}), self._new_tails(settings), widths),
            history=history,
            partitioner=self._replica.partitioner,
            watch=self._replica.refused,
            offload=partial(self.compute, "sift"),
            window_rows=settings.window_rows,
            budget=self._budget,
            copy_seconds=settings.database_command_timeout_seconds,
            patience_seconds=self._manner.patience_seconds,
            patient=self._manner.patience_seconds < MOST_PATIENCE_SECONDS,
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


def _batch_limits(settings: Settings, manner: Manner, budget: int) -> BatchLimits:
    """A batch's own rows take half of the budget, in three tables; the other half is for rows that it revises."""
    messages = min(settings.batch_max_messages, manner.max_messages or settings.batch_max_messages)
    widths = {settings.prices_partitioning, settings.volumes_partitioning, settings.analytics_partitioning}
    span = _HOUR_MICROSECONDS if Partitioning.HOURLY in widths else 24 * _HOUR_MICROSECONDS
    if widths == {Partitioning.NONE}:
        span = 1 << 62
    age = max(settings.batch_max_age_seconds, manner.patience_seconds)
    return BatchLimits(messages, settings.batch_max_bytes, age, max(1, budget // 2 // len(TABLES)), span)


@asynccontextmanager
async def open_session(
    replica: Replica,
    assigned: frozenset[TopicPartition],
    stance: Stance,
    ends: Mapping[TopicPartition, int] | None,
    manner: Manner,
    most: int | None = None,
) -> AsyncGenerator[Session]:
    """Take over what the assignment and the other replicas allow, open the readers at the ledger's offsets; all of it is
    closed at the end.

    ``ends`` and ``most``: as ``Session`` has them. Raises ``StandBy``, ``NotCopartitioned``, ``LogLost``,
    ``SourceUnavailable``, ``Mistake``.
    """
    loop = asyncio.get_running_loop()
    ask = partial(loop.run_in_executor, None, _ask)
    topics = Topics(replica.settings)
    cluster: Cluster = await ask(topics.describe)
    ids = cluster.topic_ids
    view = View(assigned, cluster.partitions, replica.settings, stance)
    reader = Reader(replica.settings, view.may_read)
    store = replica.store(writes_ledger=True)
    try:
        await store.run(lambda connection: claim_source(connection, replica.settings, cluster.cluster_id, ids))
        marks = await loop.run_in_executor(None, reader.watermarks)
        firsts = {at: low for at, (low, _) in marks.items()}
        entered = await store.run(lambda connection: copartition.enter(connection, view, firsts, replica.owner))
        claims = entered.claims
        gaps = _gaps(claims, marks, replica.settings)
        replica.partitioner.forget()  # what others have made, and filled, since
        budget = await store.run(lock_budget)
        highs = {at: high for at, (_, high) in marks.items()}
        session = Session(replica, reader, store, entered, ends, highs, topics, ids, manner, budget, most)
        for gap in gaps:
            session.engine.add(gap, session.now())
        replica.events.publish(TookOver({at: claim.next_offset for at, claim in claims.items()}))
        reader.start(session.engine.positions)
        _log.info(
            "took over",
            policy=entered.role.value,
            partitions=len(claims),
            messages=sum(highs[at] - claim.next_offset for at, claim in claims.items()),
        )
        try:
            yield session
        finally:
            await session.close()
    finally:
        try:
            await store.close()
        finally:
            await asyncio.shield(loop.run_in_executor(None, _hang_up, reader, topics))


def _hang_up(reader: Reader, topics: Topics) -> None:
    reader.stop()
    topics.close()


def _ask(question: Callable[[], T]) -> T:
    """Something about the topics. Blocks. One that is missing was there at the start, so it may come back."""
    try:
        return question()
    except TopicMissing as error:
        raise SourceUnavailable(str(error)) from error


def _gaps(
    claims: Mapping[TopicPartition, ledger.Claim], marks: Mapping[TopicPartition, tuple[int, int]], settings: Settings
) -> list[Gap]:
    found = [find_gap(at, claim.next_offset, *marks[at], settings.gap_policy) for at, claim in sorted(claims.items())]
    return [gap for gap in found if gap is not None]
