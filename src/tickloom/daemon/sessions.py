"""Runs one session after another until the run ends. Each begins with a take-over, and its end decides the next step."""

import asyncio
import time
from random import Random
from typing import assert_never

from tickloom.daemon.chores import end_all
from tickloom.daemon.goal import Goal, log_ends
from tickloom.daemon.group import Assignment, Group
from tickloom.daemon.lifecycle import Lifecycle
from tickloom.daemon.mode import Mode
from tickloom.daemon.pipeline import flow
from tickloom.daemon.replica import Replica
from tickloom.daemon.sharing_follower import SharingFollower
from tickloom.daemon.take_over import open_session
from tickloom.daemon.verdicts import BackOff, GiveUp, Insist, Restart, StandAside, Step, WaitForKafka, next_step
from tickloom.errors import Fenced, RowsVanished, StandBy
from tickloom.logs import Logger
from tickloom.observe.events import Committed, StandingBy
from tickloom.observe.health import Health
from tickloom.retry import Backoff, RetryPolicy
from tickloom.store.check import check_tables

_log = Logger(__name__)


class Sessions:
    """Runs in one task, which owns all fields."""

    def __init__(
        self,
        replica: Replica,
        group: Group,
        sharing: SharingFollower,
        lifecycle: Lifecycle,
        health: Health,
        goal: Goal | None,
    ) -> None:
        """``goal``: of a drain; None for a daemon that runs until it is stopped."""
        self._replica, self._group, self._sharing = replica, group, sharing
        self._lifecycle, self._outages, self._health = lifecycle, replica.outages, health
        self._goal = goal
        self._mode = Mode()
        self._backoff = Backoff(RetryPolicy.of(replica.settings), Random())
        self._vanished = 0  # sessions in a row whose rows had vanished, without a commit in between
        self._vanished_after = 0  # messages that had been committed by then
        self._batches = 0  # committed so far
        self._messages = 0
        replica.events.subscribe(Committed, self._committed)

    async def run(self) -> None:
        """Run sessions until the run ends. Raises ``Mistake``, or the exception of a bug."""
        while (assignment := await self._group.assignment(even_empty=self._goal is not None)) is not None:
            if self._goal and self._goal.ends is None:
                asking = self._outages.ask_kafka(lambda: log_ends(self._replica.settings))
                self._goal.ends = await self._lifecycle.unless_stopped(asking)
                if self._goal.ends is None:
                    return
            batches = self._batches
            try:
                if assignment:
                    await self._run_one(assignment)
                    self._mode = Mode()
                    self._backoff.reset()
                await self._check_goal()
            except Exception as error:
                await self._take(self._judge(error), error, progress=self._batches > batches)
            finally:
                self._group.let_go()

    # --- one session --------------------------------------------------------------------------------------------

    async def _run_one(self, assignment: Assignment) -> None:
        """Run a session until it ends or its assignment changes. In that case the batch in flight may still take as long as a
        revocation may.
        """
        lifecycle = self._lifecycle
        task = asyncio.create_task(self._session(assignment), name="session")
        interrupted = asyncio.create_task(lifecycle.interrupted.wait())
        try:
            await asyncio.wait({task, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if lifecycle.session is not None:  # while a session opens, nothing is in flight
                lifecycle.session.stop()
                await asyncio.wait({task}, timeout=self._replica.settings.revoke_timeout_seconds)
            if task.done():
                task.result()
            else:
                _log.warning("session abandoned, because its assignment has changed; the batch in flight is read again")
        finally:
            lifecycle.session = None
            await end_all([task, interrupted])
            self._health.session_ended()

    async def _session(self, assignment: Assignment) -> None:
        stance = self._sharing.session_opens()
        goal, mode = self._goal, self._mode
        ends, max_messages = (None, None) if goal is None else (goal.ends, goal.messages_left())
        async with open_session(self._replica, assignment, stance, ends, mode, max_messages) as session:
            self._lifecycle.session = session
            self._outages.session_opened()
            self._sharing.session_opened(session)
            self._health.session_opened(time.monotonic())
            await flow(session)

    async def _check_goal(self) -> None:
        """In a drain: wait until it is done, which ends the run, or until the wait is interrupted."""
        if self._goal is not None:
            store = self._replica.store()
            try:
                await self._lifecycle.unless_stopped(self._goal.reached(store))
            finally:
                await store.close()

    # --- after a session ----------------------------------------------------------------------------------------

    def _judge(self, error: Exception) -> Step:
        if isinstance(error, Fenced):
            self._replica.metrics.fenced.inc()
        if isinstance(error, RowsVanished):
            repeated = self._vanished_after == self._messages
            self._vanished = self._vanished + 1 if repeated else 1
            self._vanished_after = self._messages
        return next_step(error, self._mode, vanished=self._vanished, may_insist=self._sharing.may_insist)

    async def _take(self, step: Step, error: Exception, *, progress: bool) -> None:
        """Take the step after ``error``. ``progress``: whether the session has committed a batch."""
        match step:
            case Restart(mode, message):
                self._mode = mode
                _log.info(message, reason=str(error), **_shown(mode))
            case BackOff(mode, message, always, check_tables):
                if check_tables:
                    await self._check_tables()
                self._mode = mode
                log = _log.warning if always or not progress else _log.info
                log(message, reason=str(error), **_shown(mode))
                await self._back_off(error, progress=progress, always=always)
            case WaitForKafka(outage):
                wait = self._backoff.failed()
                self._outages.kafka_failed(outage, wait)
                await self._lifecycle.pause(wait)
            case StandAside(reason):
                await self._stand_by(reason)
            case Insist():
                _log.warning("another replica joined that cannot share these topics", reason=str(error))
                self._sharing.insist()
            case GiveUp(cause, check_tables):
                if check_tables:
                    await self._check_tables()
                if cause is error:
                    raise error
                raise cause from error
            case _:
                assert_never(step)

    async def _back_off(self, error: Exception, *, progress: bool, always: bool) -> None:
        if progress:
            self._backoff.reset()
        else:
            self._health.session_was_fruitless(time.monotonic(), str(error))
        if always or not progress:
            await self._lifecycle.pause(self._backoff.failed())

    async def _check_tables(self) -> None:
        """Raise ``SchemaMismatch`` if a table no longer fits this version."""
        settings, store = self._replica.settings, self._replica.store()
        try:
            await self._lifecycle.unless_stopped(store.run(lambda connection: check_tables(connection, settings)))
        finally:
            await store.close()

    async def _stand_by(self, reason: StandBy) -> None:
        """Read nothing until the sharing changes; in a drain, also until the other replicas have loaded the log to its ends."""
        self._sharing.era = reason.era
        self._replica.events.publish(StandingBy(str(reason)))
        _log.info(str(reason))
        try:
            await self._check_goal()
            await self._lifecycle.interrupted.wait()
        finally:
            self._health.stood_by(str(reason))

    def _committed(self, event: Committed) -> None:
        self._batches += 1
        self._messages += event.total


def _shown(mode: Mode) -> dict[str, object]:
    """The fields of ``mode`` that differ from their defaults, for the log line."""
    usual = Mode()
    names = ("careful", "patience_seconds", "max_messages")
    return {name: value for name in names if (value := getattr(mode, name)) != getattr(usual, name)}
