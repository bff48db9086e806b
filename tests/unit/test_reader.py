"""The reading thread: what it may hold, whose turn it is, and what a gap in the log means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickloom.core.model import Gap, Side, TopicPartition
from tickloom.errors import LogLost
from tickloom.settings import GapPolicy, Settings
from tickloom.source.reader import ByteBudget, Reader, find_gap

AT = TopicPartition("p", 0)


@given(
    sizes=st.lists(st.integers(0, 30), max_size=40),
    takes=st.lists(st.booleans(), max_size=80),
    max_chunks=st.integers(1, 4),
    max_bytes=st.integers(1, 40),
)
def test_the_byte_budget_bounds_what_is_held(
    sizes: list[int], takes: list[bool], max_chunks: int, max_bytes: int
) -> None:
    """Messages of a megabyte, read faster than Postgres takes them, would fill the memory; or nothing would move."""
    budget, inside = ByteBudget(max_chunks, max_bytes), list[int]()
    for size, take in zip(sizes, takes, strict=False):
        if take and inside:
            budget.give_back()
            inside.pop(0)
        fits = not inside or (len(inside) < max_chunks and sum(inside) + size <= max_bytes)
        assert budget.take(size, 0) is fits
        inside += [size] if fits else []


@pytest.mark.parametrize("busy", list(Side))
def test_a_busy_side_does_not_keep_the_other_waiting(busy: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that arrive would be seen only when the other topic pauses for breath: seconds late, or never."""
    reader = Reader(Settings(), frozenset())
    reader._newest_ms[busy] = {0: 2}  # and both sides' logs are read to their ends
    asked: list[Side] = []

    def read(side: Side, _: float) -> bool:
        asked.append(side)
        if len(asked) == 40:
            reader._stop.set()
        return side is busy

    monkeypatch.setattr(reader, "_read", read)
    reader._run()
    reader.stop()
    assert asked.count(busy.other) == 20


def test_gaps() -> None:
    """Offsets lost to retention must never be skipped in silence."""
    assert find_gap(AT, 5, 0, 9, GapPolicy.HALT) is None
    assert find_gap(AT, 5, 7, 9, GapPolicy.CONTINUE) == Gap(AT, 5, 7)
    with pytest.raises(LogLost, match="TICKLOOM_GAP_POLICY=continue"):
        find_gap(AT, 5, 7, 9, GapPolicy.HALT)
    with pytest.raises(LogLost, match="recreated or truncated"):
        find_gap(AT, 10, 0, 9, GapPolicy.CONTINUE)
