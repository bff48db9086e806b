"""For how long the server's table of locks is large enough."""

import re

import pytest

from tickloom.errors import TickloomError
from tickloom.settings import Partitioning
from tickloom.store.locks import LockTable, judge_locks

HOURLY = dict.fromkeys(("stock_prices", "stock_volumes", "stock_analytics_data"), Partitioning.HOURLY)


@pytest.mark.parametrize(
    ("locks", "partitions", "months"), [(64, 24, 4), (64, 24 * 30, 3), (64, 24 * 60, 2), (640, 24 * 365, 32)]
)
def test_check_says_for_how_long_the_locks_will_do(locks: int, partitions: int, months: int) -> None:
    """A dashboard that breaks after four months, with an error about memory, would be nobody's fault."""
    report = judge_locks(LockTable(locks, 100), dict.fromkeys(HOURLY, partitions), HOURLY)
    assert f"{partitions:,} partitions" in report
    assert f"enough for {months} more months" in report


@pytest.mark.parametrize(("locks", "partitions", "said"), [(64, 24 * 110, "within a month"), (10, 24 * 60, "already")])
def test_check_says_when_the_locks_will_not_do(locks: int, partitions: int, said: str) -> None:
    """The day on which queries begin to fail would come without a warning, and without the number to set."""
    with pytest.raises(TickloomError, match=said) as raised:
        judge_locks(LockTable(locks, 100), dict.fromkeys(HOURLY, partitions), HOURLY)
    found = re.search(r"max_locks_per_transaction = (\d+)", str(raised.value))
    assert found
    enough = judge_locks(LockTable(int(found[1]), 100), dict.fromkeys(HOURLY, partitions), HOURLY)
    assert int(re.findall(r"enough for (\d+) more months", enough)[0]) >= 12


def test_tables_by_the_day_have_room_for_decades() -> None:
    """A warning that comes too early is not read when it is due."""
    daily = dict.fromkeys(HOURLY, Partitioning.DAILY)
    assert "more months" in judge_locks(LockTable(64, 100), dict.fromkeys(daily, 365), daily)
