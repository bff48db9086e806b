"""Names and bounds of partitions, and what a layout says of them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickloom.core.partitioning import (
    FILLED,
    Layout,
    Partition,
    Range,
    partition_at,
    partition_named,
    partitions_for,
    runs_of,
)
from tickloom.core.timestamps import LATEST, micros_of
from tickloom.settings import Partitioning

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
WIDTHS = [Partitioning.HOURLY, Partitioning.DAILY, Partitioning.MONTHLY]


@pytest.mark.parametrize("width", WIDTHS)
@given(moment=MOMENTS)
def test_partitions_are_half_open_and_contiguous(width: Partitioning, moment: datetime) -> None:
    """A row between two partitions could not be stored; one in two would stop their creation."""
    found = partition_at("t", width, moment)
    assert found.start <= moment < found.stop
    assert partition_at("t", width, found.start) == found
    after = partition_at("t", width, found.stop)
    assert after.start == found.stop
    assert after.name > found.name


@pytest.mark.parametrize(
    ("width", "name", "stop"),
    [
        (Partitioning.HOURLY, "stock_prices_2026123123", datetime(2027, 1, 1, tzinfo=UTC)),
        (Partitioning.DAILY, "stock_prices_20261231", datetime(2027, 1, 1, tzinfo=UTC)),
        (Partitioning.MONTHLY, "stock_prices_202612", datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_partition_names(width: Partitioning, name: str, stop: datetime) -> None:
    """Operators find and drop partitions by name."""
    found = partition_at("stock_prices", width, datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert (found.name, found.stop) == (name, stop)


@pytest.mark.parametrize("width", WIDTHS)
@given(moments=st.lists(MOMENTS, min_size=1, max_size=20))
def test_partitions_for_rows(width: Partitioning, moments: list[datetime]) -> None:
    """A partition that is not made is a batch that is refused."""
    micros = np.array([(m - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for m in moments])
    assert partitions_for("t", width, micros) == sorted({partition_at("t", width, m) for m in moments})


@pytest.mark.parametrize("width", WIDTHS)
@given(moment=MOMENTS)
def test_a_name_leads_back_to_its_partition(width: Partitioning, moment: datetime) -> None:
    """A partition that was detached would not be recognised, and be made a second time, empty."""
    found = partition_at("t", width, moment)
    assert partition_named("t", found.name) == found
    assert partition_named("t", f"{found.name}_old") is None


def test_the_statement_that_makes_a_partition_by_hand() -> None:
    """A pasted statement with wrong bounds would leave a hole in the table."""
    assert partition_at("t", Partitioning.DAILY, datetime(2026, 11, 24, 7, tzinfo=UTC)).ddl == (
        "CREATE TABLE t_20261124 PARTITION OF t FOR VALUES FROM ('2026-11-24 00:00:00+00') TO ('2026-11-25 00:00:00+00')"
    )


DAY = datetime(2026, 11, 24, tzinfo=UTC)


def hours(*numbers: int) -> Layout:
    """A layout of hourly partitions of one day."""
    parts = [partition_at("t", Partitioning.HOURLY, DAY + timedelta(hours=number)) for number in numbers]
    nothing = np.array([], dtype=np.int64)
    return Layout([], nothing, nothing, np.array([], dtype=np.int8)).with_parts(parts)


def at(hour: float) -> int:
    return micros_of(DAY + timedelta(hours=hour))


def test_a_layout_finds_the_partition_of_a_time() -> None:
    """A row that is looked for in the wrong partition is not found, and written twice."""
    layout = hours(5, 1, 2)
    assert layout.names == ["t_2026112401", "t_2026112402", "t_2026112405"]
    assert layout.at(np.array([at(0.9), at(1), at(2.5), at(3), at(5), at(6)])).tolist() == [-1, 0, 1, -1, 2, -1]
    assert layout.within(np.array([at(0), at(1.5), at(3)]), np.array([at(9), at(2.5), at(5)])).tolist() == [3, 2, 0]
    assert layout.contiguous_until(at(1.5)) == at(3)
    assert layout.contiguous_until(at(4)) == at(4)
    assert Layout.of_one().contiguous_until(at(4)) == LATEST
    assert Layout.of_one().filled.tolist() == [FILLED]


def test_a_layout_keeps_what_it_has() -> None:
    """A partition that two replicas make at once would be in the layout twice, and its rows be counted twice."""
    layout = hours(1, 2)
    layout.filled[0] = FILLED
    again = layout.with_parts(
        [Partition("t", DAY + timedelta(hours=n), DAY + timedelta(hours=n + 1), "x") for n in (1, 3)]
    )
    assert again.names == ["t_2026112401", "t_2026112402", "x"]
    assert again.filled.tolist() == [FILLED, -1, -1]


def test_holes_beside_partitions_of_another_width() -> None:
    """A daily partition that cannot be made beside hourly ones would stop the flow at midnight, without a word before."""
    assert hours(1, 2, 5).holes(Partitioning.DAILY, at(0)) == [
        Range(at(0), at(1)),
        Range(at(3), at(5)),
        Range(at(6), at(24)),
    ]
    assert hours(1, 2, 5).holes(Partitioning.HOURLY, at(0)) == []
    assert hours(1, 2, 5).holes(Partitioning.DAILY, at(24)) == []


def test_runs_join_neighbours() -> None:
    """One statement a partition, where one for many will do, is slow; one over a gap locks more than it needs."""
    assert runs_of([Range(0, 1), Range(1, 3), Range(4, 5)]) == [Range(0, 3), Range(4, 5)]
