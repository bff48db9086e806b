"""The daemon: start → run → drain. It checks everything before it reads anything, and then runs one session after another.

Each part has a module of its own: ``group`` knows the assignment, ``sessions`` runs sessions, ``verdicts`` decides what
follows a session, ``lifecycle`` ends a session or the run, and the chores run beside them.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from tickloom.build import build_info
from tickloom.daemon import systemd
from tickloom.daemon.chores import Chores
from tickloom.daemon.goal import Goal
from tickloom.daemon.group import Group
from tickloom.daemon.housekeeping import Housekeeping
from tickloom.daemon.lifecycle import Lifecycle
from tickloom.daemon.monitor import Monitor
from tickloom.daemon.outages import Outages
from tickloom.daemon.replica import Replica
from tickloom.daemon.sessions import Sessions
from tickloom.daemon.sharing_follower import SharingFollower
from tickloom.logs import Logger
from tickloom.observe.events import Committed, Events
from tickloom.observe.health import Health
from tickloom.observe.http import application, serving
from tickloom.observe.metrics import CpuClock, Metrics
from tickloom.observe.outcome import Bounds, Ended, Outcome, Tally
from tickloom.settings import Settings
from tickloom.source.clients import check_options
from tickloom.source.cluster import Cluster, describe_cluster
from tickloom.source.membership import Member
from tickloom.store import schema
from tickloom.store.check import check_schema, check_widths
from tickloom.store.pooler import refuse_poolers
from tickloom.store.source_claim import claim_source

_log = Logger(__name__)


class Daemon:
    """One replica. All fields belong to the event loop; the member's thread only posts events."""

    def __init__(
        self, settings: Settings, *, once: Bounds | None = None, serve: bool = True, notify: bool = True
    ) -> None:
        """``once``: drain the log to its current end, or to these bounds. ``serve``: answer HTTP requests. ``notify``: send
        notifications to systemd, if it asked for them.
        """
        self._settings = settings
        self._serve = serve
        self._notify = systemd.notify if notify else systemd.ignore
        self._started = time.monotonic()
        self._lifecycle = Lifecycle()
        self._events = Events()
        self._metrics = Metrics()
        self._health = Health(settings.stuck_after_seconds, self._started)
        self._tally = Tally()
        self._goal = None if once is None else Goal(once, self._tally, self._lifecycle)
        self._outages = Outages(settings, self._metrics, self._health)
        self._monitor = Monitor(settings, self._metrics, self._health, self._outages)
        for subscriber in (self._outages, self._health, self._metrics, self._monitor):  # the monitor shows the health
            subscriber.subscribe(self._events)
        self._events.subscribe(Committed, self._tally.add)

    def stop(self) -> None:
        """Finish the batch in flight, commit, leave the group. May be called again."""
        self._lifecycle.end(Ended.STOPPED)

    def outcome(self) -> Outcome:
        """The outcome of a run that has ended, without the lag (see ``drain.with_lag``)."""
        return Outcome.of(self._tally, self._lifecycle.ended or Ended.STOPPED, time.monotonic() - self._started)

    async def run(self) -> None:
        """Run until the daemon is stopped or, with ``once``, has drained the log or reached a bound.

        Raises ``Mistake``; ``SourceUnavailable`` or ``StoreUnavailable`` if the time ran out during an outage, or the
        membership ended; and the exception of a chore that failed, which is a bug.
        """
        settings, lifecycle, metrics = self._settings, self._lifecycle, self._metrics
        metrics.stage_cpu_seconds.labels("start").inc(time.thread_time())
        metrics.build_info.labels(**build_info()).set(1)
        loop_clock = CpuClock(metrics.stage_cpu_seconds.labels("loop"), time.thread_time)
        self._events.subscribe(Committed, lambda _: loop_clock.note())
        check_options(settings)  # here, because the first reader is made only after the group is joined
        group = Group(lifecycle, self._outages, self._events)
        member = Member(settings, group.post)
        with ThreadPoolExecutor(1, "tickloom-cpu") as executor:
            partitioner = schema.partitioner(settings)
            replica = Replica(settings, _owner(), member, partitioner, executor, self._events, self._outages, metrics)
            async with self._serving():
                await self._run(replica, group)
        loop_clock.note()
        _log.info("left the group; every loaded batch is committed", cpu_seconds=metrics.cpu_by_stage())
        if lifecycle.error is not None:
            raise lifecycle.error
        if lifecycle.ended is Ended.MAX_SECONDS and self._outages.current is not None:
            raise self._outages.current

    async def _run(self, replica: Replica, group: Group) -> None:
        member, partitioner, lifecycle = replica.member, replica.partitioner, self._lifecycle
        housekeeping = Housekeeping(self._settings, partitioner, self._metrics, lifecycle.fail)
        sharing = SharingFollower(replica, lifecycle)
        sessions = Sessions(replica, group, sharing, lifecycle, self._health, self._goal)
        chores = Chores(lifecycle.fail)  # the daemon cannot do without a chore that has failed
        chores.start(systemd.feed_watchdog(self._health, self._notify))
        if self._goal is not None:
            chores.start(self._goal.keep_time())
        try:
            self._notify("READY=1")  # at once: the checks wait out an outage, which must not look like a failed start
            cluster = await lifecycle.unless_stopped(self._check(replica, housekeeping))
            if cluster is not None:
                chores.start(self._monitor.ask_kafka(), self._monitor.ask_postgres(), group.follow())
                chores.start(sharing.follow(), housekeeping.keep())
                chores.start(group.notice_spare(member, sum(cluster.partitions.values())))
                member.start()
                await sessions.run()
        finally:
            self._notify("STOPPING=1")
            group.let_go()
            await asyncio.get_running_loop().run_in_executor(None, member.leave)
            await chores.end()

    async def _check(self, replica: Replica, housekeeping: Housekeeping) -> Cluster:
        """Check database, schema, topics and source, in this order, before any message is read. Waits out outages.

        Raises ``Mistake``.
        """
        settings, outages, store = self._settings, self._outages, replica.store()
        outages.postgres_expected()
        try:
            await store.run(lambda _: refuse_poolers(settings))
            await store.run(lambda connection: check_schema(connection, settings))
            self._health.schema_present = True
            cluster = await outages.ask_kafka(lambda: describe_cluster(settings))
            await store.run(
                lambda connection: claim_source(connection, settings, cluster.cluster_id, cluster.topic_ids)
            )
            await store.run(lambda connection: check_widths(connection, replica.partitioner, datetime.now(UTC)))
            await store.run(housekeeping.make_partitions)
        finally:
            await store.close()
        return cluster

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        settings = self._settings
        if not self._serve:
            yield
            return
        async with serving(application(self._health, self._metrics), settings.http_host, settings.http_port):
            yield


def _owner() -> str:
    """A unique name for this replica in the ledger."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
