"""The daemon: start → run → drain. Checks everything before it reads anything, and runs session after session.

A session ends by a stop, a revocation, a fence or an outage of Kafka; the next begins with a take-over. What an
error means is told by its class (see ``errors``): only a ``Mistake`` leaves this module.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, TypeVar, assert_never

from prometheus_client import disable_created_metrics

from tickloom.build import build_info
from tickloom.core.model import TopicPartition
from tickloom.core.timestamps import micros_of
from tickloom.daemon.chores import Chores, end_all
from tickloom.daemon.pipeline import flow
from tickloom.daemon.runtime import tune_interpreter
from tickloom.daemon.session import MOST_PATIENCE_SECONDS, Manner, Session, Store, Surroundings, open_session
from tickloom.daemon.watch import Watch
from tickloom.errors import (
    DataRefused,
    Fenced,
    Mistake,
    NotCopartitioned,
    RowsRefused,
    RowsVanished,
    SchemaMismatch,
    SourceRefuses,
    SourceUnavailable,
    StandBy,
    StateSpoilt,
    StoreUnavailable,
    TickloomError,
    TooWide,
    Undecided,
)
from tickloom.logs import Logger
from tickloom.observe.health import Health
from tickloom.observe.http import application, serving
from tickloom.observe.metrics import CpuClock, Metrics
from tickloom.observe.outcome import Bounds, Ended, Outcome, Tally
from tickloom.retry import RetryPolicy
from tickloom.settings import Settings
from tickloom.source.kafka import Cluster, TopicIds, check_options, describe_cluster
from tickloom.source.membership import Assigned, Member, MemberEvent, MemberFailed, MemberRefused, Revoked
from tickloom.source.reader import Reader
from tickloom.store import ledger, schema, sharing
from tickloom.store.check import check_schema, check_tables, check_widths
from tickloom.store.locks import judge_locks
from tickloom.store.partitions import Partitioner, lock_table, partition_at, statement
from tickloom.store.pooler import refuse_poolers
from tickloom.store.postgres import Connection, connected
from tickloom.store.sharing import Policy, Stance, may_share
from tickloom.store.source_claim import claim_source

_log = Logger(__name__)
_HOUSEKEEPING_SECONDS = 60.0
_HOUR_SECONDS = 3_600.0
_DRAINED_SECONDS = 0.5
_VANISHED_AT_MOST = 3
"""So often in a row may rows vanish without any progress between: then it is no act, but a state."""
_SHARING_SECONDS = 2.0
_WATCHDOG_SECONDS = 10.0
_SPARE_SECONDS = 2.0
_LEAVE_SECONDS = 15.0
"""Upper bound on what leaving takes beside the batch in flight: the group is left within 10 s."""
_PROVEN_SECONDS = 10.0
"""Of a session that nobody refused: by then every partition was asked for."""
T = TypeVar("T")


class Daemon:
    """One replica. All fields belong to the event loop; the member's thread only posts events."""

    def __init__(
        self, settings: Settings, *, once: Bounds | None = None, serve: bool = True, notify: bool = True
    ) -> None:
        """``once``: drain the log to its end as it is now, or to these bounds. ``serve``: metrics and health by HTTP.
        ``notify``: tell systemd, where it asked.
        """
        self.metrics = Metrics()
        self.health = Health(settings.stuck_after_seconds, time.monotonic())
        self.port = 0
        self.serving = asyncio.Event()
        self._settings = settings
        self._once = once
        self._serve = serve
        self._notify = _notify if notify else _tell_nobody
        self._started = time.monotonic()
        self._ended: Ended | None = None  # why, once it is known
        self._tally = Tally()
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._events: asyncio.Queue[MemberEvent] = asyncio.Queue()
        self._assignment: frozenset[TopicPartition] | None = None
        self._revoked: threading.Event | None = None
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()  # the assignment is no longer what the session was made for
        self._session: Session | None = None
        self._locks_told = -_HOUR_SECONDS
        self._vanished: list[int] = []  # how many messages were committed when rows were found to have vanished
        self._worked_alone = False  # the group has had nobody else
        self._stance = Stance()
        self._era: int | None = None  # of the sharing that the session was made for, where others take part
        self._opened: float | None = None  # when the first session was (monotonic)
        self._failure: BaseException | None = None  # of the membership
        self._fault: BaseException | None = None  # of a chore
        self._watch = Watch(settings, self.metrics, self.health)
        self._random = Random()
        self._waits: Iterator[float] | None = None  # between sessions that come to nothing

    def stop(self) -> None:
        """Finish the batch in flight, commit, leave the group. Safe to call twice."""
        self._end(Ended.STOPPED)

    def outcome(self) -> Outcome:
        """What a run that has ended came to; the lag is not looked at (see ``with_lag``)."""
        return Outcome.of(self._tally, self._ended or Ended.STOPPED, time.monotonic() - self._started)

    def _end(self, why: Ended) -> None:
        self._ended = self._ended or why
        self._stop.set()
        self._end_session()

    def _chore_failed(self, error: BaseException) -> None:
        """Nobody would do that chore any more: end as at a stop, and then with the error."""
        self._fault = self._fault or error
        self._end(Ended.STOPPED)

    async def run(self) -> None:
        """Until stopped, or (``once``) drained or at a bound.

        Raises ``Mistake``; ``SourceUnavailable`` or ``StoreUnavailable`` where the time was over in an outage; and what a
        chore failed of, for that is a bug.
        """
        settings = self._settings
        cpu = self.metrics.stage_cpu_seconds
        cpu.labels("start").inc(time.thread_time())
        loop_clock = CpuClock(cpu.labels("loop"), time.thread_time)
        self.metrics.build_info.labels(**build_info()).set(1)
        loop = asyncio.get_running_loop()
        check_options(settings)  # a reader is made only after the group was joined
        member = Member(settings, lambda event: _post(loop, self._events, event))
        with ThreadPoolExecutor(1, "tickloom-cpu") as executor:
            partitioner = schema.partitioner(settings)
            around = Surroundings(
                settings, self.metrics, self.health, self._watch, member, partitioner, executor, self._owner, loop_clock
            )
            around.tally = self._tally
            async with self._serving():
                chores = Chores(self._chore_failed)
                chores.start(self._feed_watchdog(), self._watch_the_clock())
                try:
                    self._notify("READY=1")  # an outage is waited out, so it must not look like a failed start
                    cluster = await self._interruptible(self._check_first(around))
                    if cluster is not None:
                        chores.start(self._watch.ask_kafka(), self._watch.ask_postgres(), self._follow_group())
                        chores.start(self._follow_sharing(around), self._notice_a_spare(member, cluster))
                        chores.start(self._keep_house(around))
                        member.start()
                        await self._run_sessions(around)
                finally:
                    self._notify("STOPPING=1")
                    self._let_go()
                    await loop.run_in_executor(None, member.leave)
                    await chores.end()
        loop_clock.note()
        _log.info("left the group; all that was loaded is committed", cpu_seconds=self.metrics.cpu_by_stage())
        if self._fault is not None:
            raise self._fault
        if self._ended is Ended.MAX_SECONDS and around.outage is not None:
            raise around.outage

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        settings = self._settings
        if not self._serve:
            yield
            return
        async with serving(application(self.health, self.metrics), settings.http_host, settings.http_port) as port:
            self.port = port
            self.serving.set()
            yield

    # --- before anything is consumed ----------------------------------------------------------------------------

    async def _check_first(self, around: Surroundings) -> Cluster:
        """Database, schema, topics and source, in this order; outages are waited out. Raises ``Mistake``."""
        settings = self._settings
        store = Store(around)
        around.outage = StoreUnavailable("Postgres has not answered in all that time")
        try:
            await store.run(lambda _: refuse_poolers(settings))
            await store.run(lambda connection: check_schema(connection, settings))
            self.health.schema_present = True
            cluster = await self._patiently(around, lambda: describe_cluster(settings))
            ids = await self._patiently(around, TopicIds(settings).read)
            await store.run(lambda connection: claim_source(connection, settings, cluster.cluster_id, ids))
            await store.run(lambda connection: check_widths(connection, around.partitioner, datetime.now(UTC)))
            await store.run(lambda connection: self._make_partitions(around, connection))
        finally:
            await store.close()
        return cluster

    async def _patiently(self, around: Surroundings, work: Callable[[], T]) -> T:
        """Blocking ``work`` against Kafka, off the loop, tried again through any outage."""
        settings = self._settings
        waits = RetryPolicy(settings.retry_initial_seconds, settings.retry_max_seconds).waits(self._random)
        around.outage = SourceUnavailable("Kafka has not answered in all that time")
        for wait in waits:
            try:
                result = await asyncio.get_running_loop().run_in_executor(None, work)
                around.outage = None
                self._watch.kafka.served(self)
                return result
            except SourceUnavailable as error:
                if mistake := self._ours_to_mend(error):
                    raise mistake from error
                self._wait_for_kafka(around, error, wait)
                await asyncio.sleep(wait)
        raise AssertionError("the waits are endless")

    def _ours_to_mend(self, error: SourceUnavailable) -> Mistake | None:
        """What Kafka refuses at the start; what it refuses to one whom it has served before is waited out."""
        served = self._opened is not None and time.monotonic() - self._opened >= _PROVEN_SECONDS
        if isinstance(error, SourceRefuses) and not served and self._tally.messages == 0:
            return Mistake(str(error))
        return None

    def _wait_for_kafka(self, around: Surroundings, error: SourceUnavailable, wait: float) -> None:
        around.outage = error
        self._watch.kafka.failed(self, error)
        self.health.beat(time.monotonic())
        self.metrics.retries.labels("kafka").inc()
        _log.warning("waiting for Kafka", wait_seconds=round(wait, 2), error=str(error))

    async def _interruptible(self, work: Coroutine[Any, Any, T]) -> T | None:
        """``work``, or None when told to stop before it is done."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        await end_all([task])
        return None

    # --- sessions -----------------------------------------------------------------------------------------------

    async def _run_sessions(self, around: Surroundings) -> None:
        settings = self._settings
        self._waits = None
        manner = Manner()
        ends: Mapping[TopicPartition, int] | None = None
        while not self._stop.is_set():
            assignment = await self._await_assignment()
            if assignment is None:
                continue
            if self._once and ends is None:
                ends = await self._interruptible(self._patiently(around, partial(_ends, settings)))
                if ends is None:
                    return
            before = self._tally.batches
            try:
                if assignment:
                    await self._run_session(around, assignment, ends, manner)
                    manner, self._waits = Manner(), None
                if ends is not None and await self._interruptible(self._all_done(around, ends)):
                    return
            except Fenced as error:
                self.metrics.fenced.inc()
                _log.warning("fenced", error=str(error))
                await self._back_off(before, error)
            except TooWide as error:  # ends by itself: with each one batches are smaller
                manner = replace(manner, max_messages=max(1, error.messages // 2))
                _log.info("smaller batches", max_messages=manner.max_messages, reason=str(error))
            except Undecided as error:  # likewise: its patience grows
                manner = replace(manner, patience_seconds=min(2 * manner.patience_seconds or 1, MOST_PATIENCE_SECONDS))
                _log.warning("waiting for more rows", seconds=manner.patience_seconds, reason=str(error))
            except RowsVanished as error:
                self._vanished = [*(messages for messages in self._vanished if messages == self._tally.messages)]
                self._vanished.append(self._tally.messages)
                if len(self._vanished) > _VANISHED_AT_MOST:
                    raise Mistake(
                        f"{error}; they can be read all the same: see the table's triggers and row-level security"
                    ) from error
                _log.warning("rows have vanished: what is held of the tables is read anew", reason=str(error))
                await self._back_off(before, error)
            except RowsRefused as error:
                await self._look_at_the_tables(around)
                manner = replace(manner, careful=True)
                await self._back_off(before, error)
            except StateSpoilt as error:
                _log.info("what is held of the tables is read anew", reason=str(error))
                manner = Manner(max_messages=manner.max_messages if manner.careful else None)
                await self._back_off(before, error)
            except StandBy as error:
                self._era = error.era
                await self._stand_by(around, error, ends)
            except NotCopartitioned as error:
                if not self._worked_alone or self._stance.insists:
                    raise
                _log.warning("another replica joined that cannot share these topics", reason=str(error))
                self._stance = Stance(insists=True)
            except SourceUnavailable as error:
                if mistake := self._ours_to_mend(error):
                    raise mistake from error
                wait = self._next_wait()
                self._wait_for_kafka(around, error, wait)
                await self._pause(wait)
            except DataRefused as error:
                await self._look_at_the_tables(around)
                raise SchemaMismatch(
                    f"{error}; it is no row of a batch: see what was added to the database (an event trigger?)"
                ) from error
            except Exception as error:  # of a bug, or of a table that was changed under us
                if isinstance(error, SchemaMismatch) or not isinstance(error, TickloomError):
                    await self._look_at_the_tables(around)
                raise
            finally:
                self._let_go()

    async def _back_off(self, before: int, error: TickloomError) -> None:
        """After a session that ended by an ``error``: go on at once where it has committed something since there were
        ``before`` batches; else wait, longer each time. Who is fenced always waits: the group will have news.
        """
        if self._tally.batches > before:
            self._waits = None
            if not isinstance(error, Fenced):
                return
        else:
            self.health.session_in_vain(time.monotonic(), str(error))
        await self._pause(self._next_wait())

    def _next_wait(self) -> float:
        if self._waits is None:
            settings = self._settings
            policy = RetryPolicy(settings.retry_initial_seconds, settings.retry_max_seconds)
            self._waits = policy.waits(self._random)
        return next(self._waits)

    async def _look_at_the_tables(self, around: Surroundings) -> None:
        """After Postgres has refused something, or an answer was not to be understood: raise ``SchemaMismatch`` where a table
        is no longer what we write into.
        """
        store = Store(around)
        try:
            await self._interruptible(store.run(lambda connection: check_tables(connection, self._settings)))
        finally:
            await store.close()

    async def _stand_by(self, around: Surroundings, reason: StandBy, ends: Mapping[TopicPartition, int] | None) -> None:
        """Until it has changed who reads what; for ``once`` until others have read to its ends."""
        self._watch.own(())
        self.health.waiting_for = str(reason)
        _log.info(str(reason))
        try:
            if ends is not None and await self._interruptible(self._all_done(around, ends)):
                self._stop.set()
                return
            await self._changed.wait()
        finally:
            if self.health.waiting_for == str(reason):  # else it is that of another assignment
                self.health.waiting_for = None

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless told to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _all_done(self, around: Surroundings, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether the whole log is in the tables, whoever loaded it, or as many messages as we may. False when the
        assignment changes first.

        Partitions of a replica that died are assigned to us only when the group has noticed.
        """
        store = Store(around)
        try:
            while not self._stop.is_set():
                done = await store.run(lambda connection: ledger.positions(connection, list(ends)))
                if all(done.get(at, 0) >= end for at, end in ends.items()):
                    self._ended = self._ended or Ended.DRAINED
                    return True
                if self._may_read() == 0:
                    self._ended = self._ended or Ended.MAX_MESSAGES
                    return True
                if self._changed.is_set():
                    return False
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DRAINED_SECONDS):
                        await self._changed.wait()
            return False
        finally:
            await store.close()

    async def _run_session(
        self,
        around: Surroundings,
        assignment: frozenset[TopicPartition],
        ends: Mapping[TopicPartition, int] | None,
        manner: Manner,
    ) -> None:
        """A session, until its assignment has changed; the batch in flight then has the time of a revocation."""
        most = self._may_read()
        stance, self._era = self._stance, None

        async def session_in_full() -> None:
            async with open_session(around, assignment, stance, ends, manner, most) as session:
                self._session = session
                self._watch.kafka.served(self)
                self._opened = self._opened or time.monotonic()
                self._stance = replace(stance, caught_up=False)
                if session.policy is Policy.EVERYTHING:
                    self._worked_alone = True
                else:
                    self._era = session.era
                self.health.assigned = True
                self.health.beat(time.monotonic())
                await flow(session)

        task = asyncio.create_task(session_in_full(), name="session")
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
            if self._session is not None:  # before that nothing is in flight
                self._session.stop()
                await asyncio.wait({task}, timeout=self._settings.revoke_timeout_seconds)
            if task.done():
                task.result()
            else:
                _log.warning("the session is given up: its assignment has changed; what was in flight is read again")
        finally:
            self._session = None
            await end_all([task, changed])
            self.health.in_flight = False

    async def _await_assignment(self) -> frozenset[TopicPartition] | None:
        """The current assignment; None after a while without one, or when told to stop.

        An empty one is of use for ``once`` alone, which may be done all the same.
        """
        self._changed.clear()
        if self._stop.is_set():
            self._changed.set()
            return None
        if self._failure is not None:
            raise self._failure
        if not self._assignment and (self._once is None or self._assignment is None):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._changed.wait()
            return None
        return self._assignment

    async def _follow_group(self) -> None:
        """Turns the member's events into the assignment that sessions are made for."""
        while True:
            event = await self._events.get()
            match event:
                case Assigned(partitions):
                    self._assignment = partitions
                    self._stance = Stance()
                    self.metrics.rebalances.inc()
                    self._watch.kafka.withdraw(self)  # perhaps we ask for nothing any more
                    self.metrics.assigned_partitions.set(len(partitions))
                    self.health.waiting_for = None if partitions else "standing by: all partitions are owned by others"
                    self._watch.own(partitions)
                    _log.info("assigned", partitions=len(partitions))
                    if not partitions:
                        self.health.beat(time.monotonic())
                case Revoked(done):
                    self._assignment = None
                    self.health.assigned = False
                    self.health.waiting_for = None
                    self.metrics.assigned_partitions.set(0)
                    self._watch.own(())
                    self._revoked = done
                case MemberFailed(error):
                    self._failure = error
                case MemberRefused(error):
                    self._failure = self._ours_to_mend(error)
                    if self._failure is None:
                        self.metrics.retries.labels("kafka").inc()
                        _log.warning("waiting for Kafka", error=str(error))
                        continue
                case _:
                    assert_never(event)
            self._changed.set()
            if self._session is not None:
                self._session.stop()
            else:
                self._let_go()

    def _may_read(self) -> int | None:
        """How many more messages this drain may commit; None for all."""
        if self._once is None or self._once.max_messages is None:
            return None
        return max(0, self._once.max_messages - self._tally.messages)

    def _let_go(self) -> None:
        """Nothing of a revoked assignment is in flight any more."""
        if self._revoked is not None:
            self._revoked.set()
            self._revoked = None

    # --- chores -------------------------------------------------------------------------------------------------

    async def _feed_watchdog(self) -> None:
        """The loop turns and the flow is not stuck: systemd need not kill us."""
        while True:
            if self.health.alive(time.monotonic())[0]:
                self._notify("WATCHDOG=1")
            await asyncio.sleep(_WATCHDOG_SECONDS)

    async def _watch_the_clock(self) -> None:
        """Ends a drain whose time is over."""
        if self._once is not None and self._once.max_seconds is not None:
            await asyncio.sleep(self._started + self._once.max_seconds - time.monotonic())
            self._end(Ended.MAX_SECONDS)

    async def _notice_a_spare(self, member: Member, cluster: Cluster) -> None:
        """Tells what the member would not be told: that it has joined, and all partitions were taken."""
        while member.may_be_spare_in_silence and self._assignment is None:
            await asyncio.sleep(_SPARE_SECONDS)
            count = sum(cluster.partitions.values())
            spare = await asyncio.get_running_loop().run_in_executor(None, member.is_spare, count)
            if spare and self._assignment is None:
                self._events.put_nowait(Assigned(frozenset()))
                return

    async def _keep_house(self, around: Surroundings) -> None:
        """Partitions ahead of time, and tables that are as they must be."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            try:
                async with connected(self._settings) as connection:
                    await self._make_partitions(around, connection)
                    await self._look_for_changes(connection)
            except StoreUnavailable as error:  # whether it is away is watched elsewhere
                _log.warning("housekeeping waits for Postgres", error=str(error))
            except Mistake as error:
                _log.error("housekeeping failed", error=str(error))

    async def _look_for_changes(self, connection: Connection) -> None:
        """Of a key that was dropped, or a policy, the flow may notice nothing, and be wrong or slow."""
        try:
            await check_tables(connection, self._settings)
        except SchemaMismatch as error:
            self._fail(error)

    def _fail(self, error: Mistake) -> None:
        """End with this error, once what is in flight is done."""
        self._failure = error
        self._end_session()

    async def _follow_sharing(self, around: Surroundings) -> None:
        """Ends the session where it has changed who reads what, where replicas may share again, or where topics are others."""
        store = Store(around)
        try:
            while True:
                await asyncio.sleep(_SHARING_SECONDS)
                if self._session is not None and await self._session.topics_changed():
                    self._end_session()
                if self._era is None:
                    await store.close()
                    continue
                now = await store.run(sharing.look)
                session = self._session
                alone = session is not None and session.policy is Policy.ALONE and not self._stance.insists
                if now is None or self._era not in (None, now.era):
                    self._end_session()
                elif alone and session is not None and session.caught_up() and may_share(now, self._settings):
                    self._stance = Stance(caught_up=True)
                    self._end_session()
        finally:
            await store.close()

    def _end_session(self) -> None:
        """Softly, for another one; or the standing by."""
        self._changed.set()
        if self._session is not None:
            self._session.stop()

    async def _make_partitions(self, around: Surroundings, connection: Connection) -> None:
        """Ahead of time; and says when they run out, are detached, or are too many."""
        partitioner, now = around.partitioner, datetime.now(UTC)
        self.metrics.partitions_created.inc(await partitioner.ensure_ahead(connection, now))
        for table, width in partitioner.widths.items():
            layout = await partitioner.layout(connection, table)
            until = layout.contiguous_until(micros_of(now)) / 1_000_000
            self.metrics.table_partitions.labels(table).set(len(layout.names))
            self.metrics.partitions_until.labels(table).set(until)
            if partitioner.refusal and until < now.timestamp() + _HOUR_SECONDS:
                _log.warning(
                    "partitions run out, and this role may make none",
                    table=table,
                    until=datetime.fromtimestamp(until, UTC).isoformat(),
                    mend=f"{partitioner.refusal}; or: {statement(partition_at(table, width, now))}",
                )
        if detached := [part.name for part in partitioner.detached if part.stop > now]:
            _log.warning(
                "rows of now become dead letters: their partitions were detached; attach them", partitions=detached
            )
        await self._look_for_locks(partitioner, connection)

    async def _look_for_locks(self, partitioner: Partitioner, connection: Connection) -> None:
        locks = await lock_table(connection)
        self.metrics.table_partitions_limit.set(locks.slots // 2)
        counts = {table: len((await partitioner.layout(connection, table)).names) for table in partitioner.widths}
        try:
            judge_locks(locks, counts, partitioner.widths)
        except TickloomError as error:
            if time.monotonic() - self._locks_told > _HOUR_SECONDS:
                self._locks_told = time.monotonic()
                _log.warning("there are many partitions", reason=str(error))


def _ends(settings: Settings) -> dict[TopicPartition, int]:
    """The ends of all partitions of both topics as they are now, without what open transactions hold back. Blocks.
    Raises as ``describe_cluster``.
    """
    cluster = describe_cluster(settings)
    everything = (
        TopicPartition(topic, number) for topic, count in cluster.partitions.items() for number in range(count)
    )
    reader = Reader(settings, frozenset(everything))
    try:
        return {at: high for at, (_, high) in reader.watermarks().items()}
    finally:
        reader.stop()


def _post(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[MemberEvent]", event: MemberEvent) -> None:
    try:
        loop.call_soon_threadsafe(queue.put_nowait, event)
    except RuntimeError:  # the loop has closed: nothing is in flight
        if isinstance(event, Revoked):
            event.done.set()


async def with_lag(outcome: Outcome, settings: Settings) -> Outcome:
    """The outcome with the lag: by topic, messages of the log as it ends now that the ledger has not.

    As it was where Kafka or Postgres does not answer, and where somebody wanted the drain to stop and waits. Raises ``Mistake``.
    """
    if outcome.ended is Ended.STOPPED:
        return outcome

    try:
        ends = await asyncio.get_running_loop().run_in_executor(None, _ends, settings)
        async with connected(settings) as connection:
            done = await ledger.positions(connection, list(ends))
    except (SourceUnavailable, StoreUnavailable) as error:
        _log.warning("the lag is not known", error=str(error))
        return outcome
    lag = dict.fromkeys((settings.prices_topic, settings.volumes_topic), 0)
    for at, end in ends.items():
        lag[at.topic] += max(0, end - done.get(at, 0))
    return replace(outcome, lag=lag)


def _tell_nobody(state: str) -> None:
    pass


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing where it did not ask."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode())


def _give_up_after(seconds: float) -> None:
    """End the process by then, whatever hangs, the event loop itself included: which is safe at any moment."""

    def leave() -> None:
        _log.error("did not come to an end in time; leaving; what is in flight will be read again", seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


async def run(settings: Settings, *, once: Bounds | None = None) -> Daemon:
    """The daemon as a process of its own, with its signals: the first SIGTERM or SIGINT drains, a second leaves at once.

    Sets the interpreter for its work. Gives the daemon that has ended; raises as ``Daemon.run``.
    """
    tune_interpreter()
    disable_created_metrics()  # of the whole process: a series more for each counter, which nobody asks for
    daemon = Daemon(settings, once=once)
    loop = asyncio.get_running_loop()
    asked = 0
    patience = settings.revoke_timeout_seconds + _LEAVE_SECONDS

    def on_signal() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            _log.warning("leaving at once; what is in flight will be read again")
            os._exit(0)
        _log.info("stopping: the batch in flight is finished first")
        _give_up_after(patience)
        daemon.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await daemon.run()
    return daemon
