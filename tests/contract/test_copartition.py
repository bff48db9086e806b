"""How replicas share the topics, as the database keeps it: against a real Postgres."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.views import FIRST_HALF, SECOND_HALF, SETTINGS, view
from tickloom.core.copy_binary import SIGNATURE
from tickloom.core.model import Progress, TopicPartition
from tickloom.errors import Fenced, LockHeld, NotCopartitioned, StandBy, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store import copartition, history, ledger
from tickloom.store.copartition import Role, Stance, View
from tickloom.store.postgres import Connection, connect

CAUGHT_UP = Stance(caught_up=True)
AT_ONCE = SETTINGS.model_copy(update={"share_after_seconds": 0.0})


async def enter(connection: Connection, mine: View, owner: str = "me") -> copartition.Entered:
    return await copartition.enter(connection, mine, dict.fromkeys(mine.may_read, 0), owner)


async def move(connection: Connection, claims: dict[TopicPartition, ledger.Claim], at: TopicPartition) -> None:
    """Commit one message of a partition, as the replica that holds these claims."""
    async with connection.transaction():
        await ledger.compare_and_set(connection, {at: Progress(0, 1)}, {at: claims[at].epoch}, {})


async def test_a_symbol_has_one_home(connection: Connection, settings: Settings) -> None:
    """Replicas with one half of a symbol each would never join its pairs, and nobody would know."""
    assert await copartition.settle_homes(connection, {"B": 1, "A": 0}) is None
    assert await copartition.settle_homes(connection, {"A": 0, "C": 0}) is None
    assert await copartition.settle_homes(connection, {"A": 1}) == "A"
    other = await connect(settings)
    try:
        async with connection.transaction():
            assert await copartition.settle_homes(connection, {"D": 0}) is None
            waiting = asyncio.create_task(copartition.settle_homes(other, {"D": 1}))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert await waiting == "D"
    finally:
        await other.close()


async def test_a_symbol_with_a_home_and_no_rows_is_new(connection: Connection) -> None:
    """Postgres would search every partition of the tables for the symbol."""
    await copartition.settle_homes(connection, {"A": 0})
    assert await connection.fetch(history._KNOWN, ["A"]) == []


async def test_all_replicas_learn_of_a_torn_symbol(connection: Connection) -> None:
    """Only one of the two sees that a symbol is torn; the other would go on with its half."""
    await enter(connection, FIRST_HALF)
    entered = await enter(connection, SECOND_HALF)
    assert entered.role is Role.SHARED
    await copartition.note_torn(connection, entered.era, "A")
    for mine in (FIRST_HALF, SECOND_HALF):
        with pytest.raises(NotCopartitioned, match="'A' comes in two partitions"):
            await enter(connection, mine)
    alone = await enter(connection, view(set(range(4)), set(range(4))))
    assert alone.role is Role.EVERYTHING
    assert (await enter(connection, FIRST_HALF)).role is Role.SHARED


async def test_an_era_of_one_reader_fences_all_others(connection: Connection) -> None:
    """A replica that decided by an older era would write beside the one that reads everything."""
    first, second = await enter(connection, FIRST_HALF), await enter(connection, SECOND_HALF)
    await copartition.settle_homes(connection, {"A": 0})
    raised = replace(FIRST_HALF, counts=dict.fromkeys(FIRST_HALF.counts, 8), settings=AT_ONCE)
    alone = await enter(connection, raised)
    assert alone.role is Role.ALONE
    assert len(alone.claims) == 16
    assert alone.era > second.era
    for claims in (first.claims, second.claims):
        with pytest.raises(Fenced):
            await move(connection, dict(claims), min(claims))
    with pytest.raises(StandBy) as standing_by:
        await enter(connection, replace(raised, assigned=SECOND_HALF.assigned))
    assert standing_by.value.era == alone.era

    mine = frozenset(at for at in raised.everything if at.partition < 4)
    shared = await enter(connection, replace(raised, assigned=mine, stance=CAUGHT_UP))
    assert shared.role is Role.SHARED
    assert shared.claims.keys() == mine
    with pytest.raises(Fenced):  # also in the partitions that are no longer its own
        await move(connection, dict(alone.claims), max(alone.claims))
    assert await copartition.settle_homes(connection, {"A": 5}) is None, "homes are forgotten"


async def test_torn_after_a_raise_begins_another_such_era(connection: Connection) -> None:
    """A producer that had not heard of the new partitions would stop all replicas."""
    await enter(connection, FIRST_HALF)
    raised = replace(FIRST_HALF, counts=dict.fromkeys(FIRST_HALF.counts, 8), settings=AT_ONCE)
    await enter(connection, raised)
    shared = await enter(connection, replace(raised, stance=CAUGHT_UP))
    assert shared.role is Role.SHARED
    await copartition.note_torn(connection, shared.era, "A")
    with pytest.raises(StandBy):
        await enter(connection, replace(raised, assigned=SECOND_HALF.assigned))
    assert (await enter(connection, raised)).role is Role.ALONE


@pytest.mark.parametrize("in_a_statement", [False, True])
async def test_a_replica_that_sleeps_in_a_take_over(
    connection: Connection, settings: Settings, in_a_statement: bool
) -> None:
    """Nobody could take anything over until the sleeper wakes up: for a minute, if it sleeps between two messages of a
    statement, which Postgres calls active.
    """
    await enter(connection, FIRST_HALF)
    asleep = await connect(settings, ledger.session_name("sleeper"))
    await asleep.execute("CREATE TEMP TABLE rows (line text); BEGIN")
    await asleep.fetchrow(copartition._LOCK)
    half = asyncio.create_task(asleep.copy_in((None, "rows"), ["line"], never(), 8)) if in_a_statement else None
    try:
        with pytest.raises(LockHeld):
            await enter(connection, SECOND_HALF)
        assert (await enter(connection, SECOND_HALF)).role is Role.SHARED
    finally:
        asleep.terminate()
        if half is not None:
            with pytest.raises(StoreUnavailable):
                await half


async def never() -> AsyncIterator[bytes]:
    """The beginning of a COPY stream that does not go on."""
    yield SIGNATURE
    await asyncio.Event().wait()
