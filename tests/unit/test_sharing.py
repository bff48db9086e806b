"""Who may read what, as a pure function of the assignment, the partition counts and how it stood."""

from dataclasses import replace

import pytest

from tickloom.core.model import TopicPartition
from tickloom.errors import NotCopartitioned
from tickloom.settings import Settings
from tickloom.store.sharing import Policy, Sharing, Stance, View, decide

SETTINGS = Settings(share_after_seconds=60)
STOOD = Sharing(era=7, prices=4, volumes=4)


def view(prices: set[int], volumes: set[int], counts: tuple[int, int] = (4, 4), stance: Stance | None = None) -> View:
    """What a replica sees that has these partitions."""
    assigned = frozenset(
        {TopicPartition("stock_prices", n) for n in prices} | {TopicPartition("stock_volumes", n) for n in volumes}
    )
    names = ("stock_prices", "stock_volumes")
    return View(assigned, dict(zip(names, counts, strict=True)), SETTINGS, stance or Stance())


FIRST_HALF, SECOND_HALF = view({0, 1}, {0, 1}), view({2, 3}, {2, 3})


@pytest.mark.parametrize("stood", [None, STOOD, replace(STOOD, torn="A"), replace(STOOD, alone_seconds=1.0)])
def test_who_has_everything_reads_everything(stood: Sharing | None) -> None:
    """One replica needs no keys and no equal counts."""
    policy, now = decide(stood, view(set(range(4)), set(range(6)), (4, 6)))
    assert policy is Policy.EVERYTHING
    assert now.torn is None
    assert (now.prices, now.volumes) == (4, 6)


@pytest.mark.parametrize("stood", [None, STOOD])
@pytest.mark.parametrize("mine", [FIRST_HALF, SECOND_HALF])
def test_equal_numbers_of_equal_counts_are_shared(stood: Sharing | None, mine: View) -> None:
    """Otherwise nobody could use two machines."""
    assert decide(stood, mine)[0] is Policy.SHARED


def test_topics_that_cannot_be_shared() -> None:
    """A replica with but one half of a symbol would join nothing, for ever."""
    unequal = view({0, 1}, {0, 1, 2}, (4, 6))
    for stood in (None, Sharing(1, 4, 6)):
        with pytest.raises(NotCopartitioned, match="same number"):
            decide(stood, unequal)
    with pytest.raises(NotCopartitioned, match="range"):
        decide(STOOD, view({0, 1}, {2, 3}))
    with pytest.raises(NotCopartitioned, match="'A' comes in two partitions"):
        decide(replace(STOOD, torn="A"), FIRST_HALF)


def test_who_cannot_share_and_was_first_goes_on() -> None:
    """Two that both had worked alone would wait for each other for ever."""
    for stood in (STOOD, replace(STOOD, torn="A")):
        assert decide(stood, replace(FIRST_HALF, stance=Stance(insists=True)))[0] is Policy.ALONE
        assert decide(stood, replace(SECOND_HALF, stance=Stance(insists=True)))[0] is Policy.STANDBY


@pytest.mark.parametrize("counts", [(8, 8), (8, 4), (4, 6)])
def test_one_reads_all_once_partitions_are_added(counts: tuple[int, int]) -> None:
    """A symbol that moves would be read by two replicas at once, its older messages by the one, its newer by the other."""
    policy, now = decide(STOOD, view({0, 1}, {0, 1}, counts))
    assert policy is Policy.ALONE
    assert (now.prices, now.volumes) == counts
    assert now.raised
    assert now.alone_seconds == 0
    assert decide(now, view({2, 3}, {2, 3}, counts)) == (Policy.STANDBY, now)


def test_when_they_share_again() -> None:
    """Too early, and producers that have not heard of the new partitions tear symbols apart; never, and a scale-out is none."""
    stood = replace(STOOD, raised=True, alone_seconds=61.0)
    ready = Stance(caught_up=True)
    assert decide(stood, FIRST_HALF)[0] is Policy.ALONE, "it has not yet read what lay in the old partitions"
    assert decide(stood, replace(SECOND_HALF, stance=ready))[0] is Policy.STANDBY, "it does not lead"
    assert decide(replace(stood, alone_seconds=59.0), replace(FIRST_HALF, stance=ready))[0] is Policy.ALONE
    unequal = replace(stood, volumes=6)
    assert decide(unequal, view({0, 1}, {0, 1}, (4, 6), ready))[0] is Policy.ALONE
    policy, now = decide(stood, replace(FIRST_HALF, stance=ready))
    assert policy is Policy.SHARED
    assert now.alone_seconds is None
    assert now.raised
    assert decide(now, SECOND_HALF)[0] is Policy.SHARED
