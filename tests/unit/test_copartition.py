"""Which replica may read what: the decision, as a pure function, and the two policies that come from it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import polars as pl
import pytest

from tests.views import FIRST_HALF, SECOND_HALF, SETTINGS, view
from tickloom.core.join import symbols_of
from tickloom.core.model import Batch, Chunk, Side, rows_schema
from tickloom.errors import AwayFromHome, NotCopartitioned
from tickloom.store.copartition import Entered, Role, Sharing, Stance, Symbols, View, decide
from tickloom.store.postgres import Connection

T = TypeVar("T")

STOOD = Sharing(era=7, prices=4, volumes=4)


@pytest.mark.parametrize("stood", [None, STOOD, replace(STOOD, torn="A"), replace(STOOD, alone_seconds=1.0)])
def test_a_replica_that_has_everything_reads_everything(stood: Sharing | None) -> None:
    """One replica alone could not read topics without keys, or with unequal counts."""
    role, now = decide(stood, view(set(range(4)), set(range(6)), (4, 6)))
    assert role is Role.EVERYTHING
    assert now.torn is None
    assert (now.prices, now.volumes) == (4, 6)


@pytest.mark.parametrize("stood", [None, STOOD])
@pytest.mark.parametrize("mine", [FIRST_HALF, SECOND_HALF])
def test_equal_numbers_of_equal_counts_are_shared(stood: Sharing | None, mine: View) -> None:
    """Nobody could use two machines."""
    assert decide(stood, mine)[0] is Role.SHARED


def test_topics_that_cannot_be_shared() -> None:
    """A replica with only one half of a symbol would join nothing, for ever."""
    unequal = view({0, 1}, {0, 1, 2}, (4, 6))
    for stood in (None, Sharing(1, 4, 6)):
        with pytest.raises(NotCopartitioned, match="same number"):
            decide(stood, unequal)
    with pytest.raises(NotCopartitioned, match="range"):
        decide(STOOD, view({0, 1}, {2, 3}))
    with pytest.raises(NotCopartitioned, match="'A' comes in two partitions"):
        decide(replace(STOOD, torn="A"), FIRST_HALF)


def test_the_first_replica_goes_on_where_it_cannot_share() -> None:
    """Two replicas that had both worked alone would wait for each other for ever."""
    for stood in (STOOD, replace(STOOD, torn="A")):
        assert decide(stood, replace(FIRST_HALF, stance=Stance(insists=True)))[0] is Role.ALONE
        assert decide(stood, replace(SECOND_HALF, stance=Stance(insists=True)))[0] is Role.STANDBY


@pytest.mark.parametrize("counts", [(8, 8), (8, 4), (4, 6)])
def test_one_reads_all_once_partitions_are_added(counts: tuple[int, int]) -> None:
    """Two replicas would read a symbol that moves at once: one its older messages, the other its newer ones."""
    role, now = decide(STOOD, view({0, 1}, {0, 1}, counts))
    assert role is Role.ALONE
    assert (now.prices, now.volumes) == counts
    assert now.raised
    assert now.alone_seconds == 0
    assert decide(now, view({2, 3}, {2, 3}, counts)) == (Role.STANDBY, now)


def test_when_they_share_again() -> None:
    """Too early, and producers that do not know the new partitions yet tear symbols apart; never, and a second machine is useless."""
    stood = replace(STOOD, raised=True, alone_seconds=61.0)
    ready = Stance(caught_up=True)
    assert decide(stood, FIRST_HALF)[0] is Role.ALONE, "it has not yet read what lay in the old partitions"
    assert decide(stood, replace(SECOND_HALF, stance=ready))[0] is Role.STANDBY, "it does not lead"
    assert decide(replace(stood, alone_seconds=59.0), replace(FIRST_HALF, stance=ready))[0] is Role.ALONE
    unequal = replace(stood, volumes=6)
    assert decide(unequal, view({0, 1}, {0, 1}, (4, 6), ready))[0] is Role.ALONE
    role, now = decide(stood, replace(FIRST_HALF, stance=ready))
    assert role is Role.SHARED
    assert now.alone_seconds is None
    assert now.raised
    assert decide(now, SECOND_HALF)[0] is Role.SHARED


class Answers:
    """A database in which symbols are at home where it was made to say; it counts how often it is asked."""

    def __init__(self, away: str | None = None) -> None:
        self.asked: list[str] = []
        self._away = away

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        class Session:
            async def fetch(_, *__: object) -> list[Any]:
                return []

            async def execute(_, query: str, *__: object, **___: object) -> str:
                self.asked.append("torn" if "torn" in query else query)
                return ""

            async def fetchval(_, *__: object) -> str | None:
                self.asked.append("homes")
                return self._away

        return await work(Connection(Session()))


class Message:
    """One of a chunk, with its key."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key

    def key(self) -> bytes | None:
        return self._key


def chunk_with_keys(*keys: bytes | None) -> Chunk:
    zeros = [0] * len(keys)
    messages: Any = [Message(key) for key in keys]
    return Chunk(Side.PRICES, "stock_prices", messages, [b""] * len(keys), zeros, zeros, zeros)  # type: ignore[arg-type]


def batch_of(**partitions: int) -> tuple[Batch, Symbols]:
    """A batch of one price a symbol, each in its partition."""
    columns: dict[str, list[Any]] = {name: [0] * len(partitions) for name in rows_schema(Side.PRICES)}
    columns |= {"symbol": list(partitions), "partition": list(partitions.values())}
    rows = {
        Side.PRICES: pl.DataFrame(columns, schema=rows_schema(Side.PRICES)),
        Side.VOLUMES: pl.DataFrame(schema=rows_schema(Side.VOLUMES)),
    }
    batch = Batch(rows, [], [], [], {}, len(partitions), 0.0)

    async def symbols() -> pl.Series:
        return symbols_of(batch)

    return batch, symbols


def entered(role: Role, *, shares_later: bool = False) -> Entered:
    return Entered(role, 7, {}, shares_later)


async def test_alone_neither_keys_nor_homes_count() -> None:
    """One replica could not read topics whose messages have no keys."""
    database = Answers(away="A")
    for role in (Role.EVERYTHING, Role.ALONE):
        policy = entered(role).policy(SETTINGS, database)
        await policy.admit(chunk_with_keys(b"A", None))
        await policy.check_homes(*batch_of(A=3))
        assert policy.era == (None if role is Role.EVERYTHING else 7)
    assert database.asked == []


async def test_a_replica_that_shares_needs_keys() -> None:
    """Messages without a key are in any partition: their symbol's pairs would never meet."""
    policy = entered(Role.SHARED).policy(SETTINGS, Answers())
    await policy.admit(chunk_with_keys(b"A", b""))
    with pytest.raises(NotCopartitioned, match="without a key"):
        await policy.admit(chunk_with_keys(b"A", None))


async def test_homes_are_asked_for_once() -> None:
    """Every batch of every replica would wait for the database."""
    database = Answers()
    policy = entered(Role.SHARED).policy(SETTINGS, database)
    await policy.check_homes(*batch_of(A=0, B=1))
    await policy.check_homes(*batch_of(B=1))
    assert database.asked == ["homes"]
    with pytest.raises(AwayFromHome, match="'B'"):
        await policy.check_homes(*batch_of(B=0))
    assert database.asked == ["homes", "torn"], "all replicas learn of it"


async def test_a_symbol_that_another_replica_has() -> None:
    """Two replicas would write half of its rows each."""
    database = Answers(away="A")
    with pytest.raises(AwayFromHome, match="'A'"):
        await entered(Role.SHARED).policy(SETTINGS, database).check_homes(*batch_of(A=0))
    assert database.asked == ["homes", "torn"]


async def test_remembered_homes_are_bounded() -> None:
    """Symbols without end would fill the memory."""
    database = Answers()
    policy = entered(Role.SHARED).policy(SETTINGS.model_copy(update={"cache_max_symbols": 1}), database)
    for batch in (batch_of(A=0, B=0), batch_of(C=0), batch_of(A=0)):
        await policy.check_homes(*batch)
    assert database.asked == ["homes"] * 3


def test_who_asks_whether_to_share_again() -> None:
    """A replica that cannot share would stop all others again and again; one that never asks keeps them standing by."""
    over = replace(STOOD, raised=True, alone_seconds=61.0)
    database = Answers()
    assert entered(Role.ALONE, shares_later=True).policy(SETTINGS, database).may_share(over)
    assert not entered(Role.ALONE, shares_later=True).policy(SETTINGS, database).may_share(STOOD)
    assert not entered(Role.ALONE).policy(SETTINGS, database).may_share(over)
    assert not entered(Role.SHARED).policy(SETTINGS, database).may_share(over)
