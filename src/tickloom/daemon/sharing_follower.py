"""A chore: ends the session when the sharing of the partitions changes.

It changes when another replica starts a new era of the sharing (see ``store.copartition``), when this replica has read alone
and may share again, and when a topic was deleted and created again.
"""

import asyncio
from dataclasses import replace

from tickloom.daemon.lifecycle import Lifecycle
from tickloom.daemon.replica import Replica
from tickloom.daemon.session import Session
from tickloom.observe.events import AssignmentReceived
from tickloom.store.copartition import Sharing, Stance, read_sharing

_EVERY_SECONDS = 2.0


class SharingFollower:
    """Remembers this replica's part in the sharing from session to session. Belongs to the event loop.

    ``stance``: this replica's part in the decision of the next session. ``era``: the era in which the session began, or in
    which this replica began to stand by; None while no other replica takes part.
    """

    def __init__(self, replica: Replica, lifecycle: Lifecycle) -> None:
        self.stance = Stance()
        self.era: int | None = None
        self._replica, self._lifecycle = replica, lifecycle
        self._has_read_everything = False
        replica.events.subscribe(AssignmentReceived, self._assignment_received)

    @property
    def may_insist(self) -> bool:
        """Whether this replica may go on reading everything, although another one joined that cannot share with it."""
        return self._has_read_everything and not self.stance.insists

    def insist(self) -> None:
        """Read everything, and make the others stand by."""
        self.stance = Stance(insists=True)

    def session_opens(self) -> Stance:
        """A session is about to begin; returns its stance."""
        self.era = None
        return self.stance

    def session_opened(self, session: Session) -> None:
        """The session has agreed with the other replicas on its partitions."""
        self.stance = replace(self.stance, caught_up=False)
        self.era = session.policy.era
        self._has_read_everything |= self.era is None

    async def follow(self) -> None:
        """Check every few seconds, until cancelled."""
        store = self._replica.store()
        try:
            while True:
                await asyncio.sleep(_EVERY_SECONDS)
                session = self._lifecycle.session
                if session is not None and await session.topics_changed() and session is self._lifecycle.session:
                    self._lifecycle.end_session()
                if self.era is None:
                    await store.close()
                else:
                    self._act_on(await store.run(read_sharing))
        finally:
            await store.close()

    def _act_on(self, now: Sharing | None) -> None:
        session = self._lifecycle.session
        if now is None or self.era not in (None, now.era):
            self._lifecycle.end_session()
        elif session is not None and session.policy.may_share(now) and session.caught_up():
            self.stance = Stance(caught_up=True)
            self._lifecycle.end_session()

    def _assignment_received(self, _: AssignmentReceived) -> None:
        self.stance = Stance()
