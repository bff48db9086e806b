"""A chore: ends the session when who reads what has changed.

That happens where another replica started a new era of the sharing (see ``store.sharing``), where one that has read alone
for long enough may share again, and where a topic was deleted and created again.
"""

import asyncio
from dataclasses import replace

from tickloom.daemon.lifecycle import Lifecycle
from tickloom.daemon.replica import Replica
from tickloom.daemon.session import Session
from tickloom.observe.events import AssignmentReceived
from tickloom.store import sharing
from tickloom.store.sharing import Policy, Sharing, Stance

_EVERY_SECONDS = 2.0


class SharingFollower:
    """What this replica knows of the others between sessions. Belongs to the event loop.

    ``stance``: what the next session brings into the decision. ``era``: the era in which the session began, or this replica
    stands by; None where nobody else takes part.
    """

    def __init__(self, replica: Replica, lifecycle: Lifecycle) -> None:
        self.stance = Stance()
        self.era: int | None = None
        self._replica, self._lifecycle = replica, lifecycle
        self._has_read_everything = False
        replica.events.subscribe(AssignmentReceived, self._assignment_received)

    @property
    def may_insist(self) -> bool:
        """Whether this replica may go on reading everything, although another one came that cannot share with it."""
        return self._has_read_everything and not self.stance.insists

    def insist(self) -> None:
        """Read everything, and make the others stand by."""
        self.stance = Stance(insists=True)

    def session_opens(self) -> Stance:
        """The stance of a session that is about to begin."""
        self.era = None
        return self.stance

    def session_opened(self, session: Session) -> None:
        """The session has decided, together with the others, what it reads."""
        self.stance = replace(self.stance, caught_up=False)
        if session.policy is Policy.EVERYTHING:
            self._has_read_everything = True
        else:
            self.era = session.era

    async def follow(self) -> None:
        """Look every few seconds, until cancelled."""
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
                    self._act_on(await store.run(sharing.look))
        finally:
            await store.close()

    def _act_on(self, now: Sharing | None) -> None:
        if now is None or self.era not in (None, now.era):
            self._lifecycle.end_session()
        elif self._has_caught_up() and sharing.may_share(now, self._replica.settings):
            self.stance = Stance(caught_up=True)
            self._lifecycle.end_session()

    def _has_caught_up(self) -> bool:
        session = self._lifecycle.session
        if session is None or session.policy is not Policy.ALONE or self.stance.insists:
            return False
        return session.caught_up()

    def _assignment_received(self, _: AssignmentReceived) -> None:
        self.stance = Stance()
