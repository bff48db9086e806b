"""``Group``: turns the events of this replica's membership into its current assignment.

========================  ==========================================================================================
event                     effect
========================  ==========================================================================================
``Assigned``              it replaces the assignment, and ends the session of the old one
``Revoked``               it removes the assignment and ends the session; the member's thread waits until ``let_go``
``MemberRefused``         none, because the member keeps asking; it ends the run if Kafka has never let us in
``MemberFailed``          it ends the run
========================  ==========================================================================================

With KIP-848's protocol, the client does not call back if a member joins a group in which all partitions are taken.
``notice_spare`` finds that out by asking the group.
"""

import asyncio
import threading
import time
from typing import assert_never

from tickloom.core.model import TopicPartition
from tickloom.daemon.lifecycle import Lifecycle
from tickloom.daemon.outages import Outages
from tickloom.logs import Logger
from tickloom.observe.events import AssignmentReceived, AssignmentRevoked, Events
from tickloom.source.membership import Assigned, Member, MemberEvent, MemberFailed, MemberRefused, Revoked

_log = Logger(__name__)
_SPARE_SECONDS = 2.0
Assignment = frozenset[TopicPartition]


class Group:
    """All fields belong to the event loop; only ``post`` may be called from other threads."""

    def __init__(self, lifecycle: Lifecycle, outages: Outages, events: Events) -> None:
        self._lifecycle, self._outages, self._events = lifecycle, outages, events
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[MemberEvent] = asyncio.Queue()
        self._assignment: Assignment | None = None  # None: not received yet, or revoked
        self._revocation: threading.Event | None = None  # to be set once nothing of the revoked assignment is in flight

    def post(self, event: MemberEvent) -> None:
        """Queue an event from the member's thread. Does not block."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:  # the loop is closed, so nothing is in flight
            if isinstance(event, Revoked):
                event.done.set()

    async def assignment(self, *, even_empty: bool = False) -> Assignment | None:
        """Wait for an assignment; returns its partitions, or None when the run ends.

        ``even_empty``: also return an empty assignment.
        """
        lifecycle = self._lifecycle
        while not lifecycle.stopping:
            lifecycle.interrupted.clear()  # the caller is about to get the newest assignment
            if self._assignment or (even_empty and self._assignment is not None):
                return self._assignment
            await lifecycle.interrupted.wait()
        return None

    def let_go(self) -> None:
        """Nothing of a revoked assignment is in flight any more; the group may give it to others."""
        if self._revocation is not None:
            self._revocation.set()
            self._revocation = None

    async def follow(self) -> None:
        """A chore: handle the member's events as they arrive."""
        while True:
            self._act(await self._queue.get())

    async def notice_spare(self, member: Member, partitions: int) -> None:
        """A chore: notice that other members own all of the topics' ``partitions``, if the client would not report it."""
        while member.may_be_spare_in_silence and self._assignment is None:
            await asyncio.sleep(_SPARE_SECONDS)
            spare = await self._loop.run_in_executor(None, member.is_spare, partitions)
            if spare and self._assignment is None:
                self._act(Assigned(frozenset()))

    def _act(self, event: MemberEvent) -> None:
        match event:
            case Assigned(partitions):
                self._assignment = partitions
                _log.info("assigned", partitions=len(partitions))
                self._events.publish(AssignmentReceived(partitions, time.monotonic()))
                self._assignment_changed()
            case Revoked(done):
                self._assignment, self._revocation = None, done
                self._events.publish(AssignmentRevoked())
                self._assignment_changed()
            case MemberRefused(error):
                if mistake := self._outages.membership_refused(error):
                    self._lifecycle.fail(mistake)
            case MemberFailed(error):
                self._lifecycle.fail(error)
            case _:
                assert_never(event)

    def _assignment_changed(self) -> None:
        self._lifecycle.end_session()
        if self._lifecycle.session is None:
            self.let_go()
