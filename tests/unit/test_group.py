"""How the member's events become the current assignment."""

import asyncio
import threading
from typing import Any, cast

import pytest

from tickloom.core.model import TopicPartition
from tickloom.daemon.group import Group
from tickloom.daemon.lifecycle import Lifecycle
from tickloom.daemon.outages import Outages
from tickloom.errors import Mistake, SourceRefuses, SourceUnavailable
from tickloom.observe.events import AssignmentReceived, AssignmentRevoked, Event, Events
from tickloom.observe.health import Health
from tickloom.observe.metrics import Metrics
from tickloom.settings import Settings
from tickloom.source.membership import Assigned, MemberFailed, MemberRefused, Revoked

OURS = frozenset({TopicPartition("prices", 0), TopicPartition("volumes", 0)})


class FakeSession:
    """Counts how often somebody stops it."""

    stops = 0

    def stop(self) -> None:
        self.stops += 1


class World:
    """A group that follows what the test posts."""

    def __init__(self) -> None:
        self.lifecycle, events, metrics, health = Lifecycle(), Events(), Metrics(), Health(10, 0)
        self.outages = Outages(Settings(), metrics, health)
        self.seen: list[Event] = []
        events.subscribe(AssignmentReceived, self.seen.append)
        events.subscribe(AssignmentRevoked, self.seen.append)
        self.group = Group(self.lifecycle, self.outages, events)

    def open_session(self) -> FakeSession:
        session = FakeSession()
        self.lifecycle.session = cast(Any, session)
        return session

    async def post(self, *posted: Any) -> None:
        """Post these, and follow until they have been acted on."""
        for event in posted:
            self.group.post(event)
        following = asyncio.create_task(self.group.follow())
        await asyncio.sleep(0.01)
        following.cancel()


async def test_an_assignment_is_received() -> None:
    """A replica would sit there and read nothing."""
    world = World()
    waiting = asyncio.create_task(world.group.assignment())
    await world.post(Assigned(OURS))
    assert await waiting == OURS
    assert [type(event) for event in world.seen] == [AssignmentReceived]


async def test_an_empty_assignment_is_of_use_to_a_drain_alone() -> None:
    """A drain beside daemons that own everything would never end; a daemon would run sessions of nothing."""
    world = World()
    await world.post(Assigned(frozenset()))
    assert await world.group.assignment(even_empty=True) == frozenset()
    waiting = asyncio.create_task(world.group.assignment())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    world.lifecycle.end(cast(Any, None))
    assert await waiting is None


async def test_a_revocation_waits_for_the_session() -> None:
    """The next owner would take over while our batch is in flight, and be fenced, or fence us."""
    world, done = World(), threading.Event()
    await world.post(Assigned(OURS))
    session = world.open_session()
    await world.post(Revoked(done))
    assert session.stops == 1
    assert world.lifecycle.interrupted.is_set()
    assert not done.is_set()
    world.lifecycle.session = None
    world.group.let_go()
    assert done.is_set()
    waiting = asyncio.create_task(world.group.assignment())
    await asyncio.sleep(0.01)
    assert not waiting.done(), "nothing is ours any more"
    waiting.cancel()


async def test_a_revocation_between_sessions_is_granted_at_once() -> None:
    """Each rebalance would take as long as a revocation may, though nothing is in flight."""
    world, done = World(), threading.Event()
    await world.post(Assigned(OURS), Revoked(done))
    assert done.is_set()
    assert isinstance(world.seen[-1], AssignmentRevoked)


@pytest.mark.parametrize("error", [SourceUnavailable("lost"), Mistake("static id taken")])
async def test_a_membership_that_ends_ends_the_run(error: Exception) -> None:
    """The daemon would go on as a replica that the group does not know."""
    world = World()
    session = world.open_session()
    await world.post(MemberFailed(error))
    assert world.lifecycle.stopping
    assert world.lifecycle.error is error
    assert session.stops == 1
    assert await world.group.assignment() is None


async def test_a_refusal_from_the_start_is_a_mistake() -> None:
    """A wrong password would be waited out for ever."""
    world = World()
    await world.post(MemberRefused(SourceRefuses("no right to join the group")))
    assert isinstance(world.lifecycle.error, Mistake)


async def test_a_refusal_later_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who changes a password in Kafka would end all daemons."""
    world = World()
    monkeypatch.setattr("tickloom.daemon.outages._TRUSTED_SECONDS", 0)
    world.outages.session_opened()
    await world.post(MemberRefused(SourceRefuses("no right to join the group")))
    assert not world.lifecycle.stopping


async def test_events_of_a_closed_loop_do_not_block_the_member() -> None:
    """The member's thread would wait for a loop that has gone, and the process would hang at its end."""
    done = threading.Event()

    async def make() -> World:
        return World()

    def run() -> None:
        world = asyncio.run(make())
        world.group.post(Revoked(done))

    await asyncio.get_running_loop().run_in_executor(None, run)
    assert done.is_set()
