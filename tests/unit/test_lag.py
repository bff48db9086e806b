"""The backlog and its age, which follow the log's end and the clock, and not only commits."""

from tickloom.core.model import TopicPartition
from tickloom.source.lag import Backlog, End

A, B = TopicPartition("prices", 0), TopicPartition("prices", 1)


def backlog(ends: dict[TopicPartition, End], positions: dict[TopicPartition, int], now: float = 100) -> Backlog:
    made = Backlog()
    made.own([A, B])
    made.committed(positions)
    made.ends(ends, now)
    return made


def test_lag_moves_with_the_end_of_the_log() -> None:
    """A partition that is in no batch would show no lag, however much waits in it."""
    one = backlog({A: End(10, 10), B: End(0, 0)}, {A: 10, B: 0})
    assert one.messages() == {A: 0, B: 0}
    one.ends({A: End(10, 10), B: End(7, 7)}, 102)
    assert one.messages() == {A: 0, B: 7}
    assert one.seconds(105, 0) == {A: 0, B: 3}
    one.ends({A: End(10, 10), B: End(9, 9)}, 110)
    assert one.seconds(112, 0) == {A: 0, B: 10}, "the oldest counts"
    one.committed({B: 7})
    assert one.seconds(112, 0) == {A: 0, B: 2}
    one.committed({B: 9})
    assert one.seconds(112, 0) == {A: 0, B: 0}


def test_a_backlog_from_before_is_as_old_as_its_records() -> None:
    """After an outage of a day the lag would begin at 0 s again."""
    one = backlog({A: End(100, 100)}, {A: 10})
    assert one.seconds(107, 86_400) == {A: 7}, "all that is known is that it was there"
    one.committed({A: 20}, {A: 1_000})
    assert one.seconds(107, 86_400) == {A: 86_399}
    one.committed({A: 100}, {A: 86_000_000})
    assert one.seconds(107, 86_400) == {A: 0}


def test_what_is_not_known_is_left_out() -> None:
    """A lag of 0 while the broker is away, or of a partition that belongs to another replica, would be a lie."""
    one = backlog({A: End(10, 10)}, {A: 5, B: 5})
    assert one.messages() == {A: 5}
    one.ends_unknown()
    assert one.messages() == one.seconds(1, 1) == {}
    one.ends({A: End(10, 10), B: End(10, 10)}, 120)
    one.own([B])
    assert one.messages() == {B: 5}
    one.committed({A: 7})
    assert one.owned == {B}


def test_an_open_transaction_is_no_lag() -> None:
    """A healthy daemon would be killed for messages that nobody can read."""
    one = backlog({A: End(5, 15), B: End(5, 5)}, {A: 5, B: 5})
    assert one.messages() == {A: 0, B: 0}
    one.ends({A: End(5, 25)}, 130)
    (held,) = one.open_transactions(131).values()
    assert (held.messages, held.seconds) == (20, 31)
    one.ends({A: End(17, 25)}, 140)
    (held,) = one.open_transactions(141).values()
    assert (held.messages, held.seconds) == (8, 1), "another one"
    one.ends({A: End(25, 25)}, 150)
    assert one.open_transactions(151) == {}


def test_memory_is_bounded_in_a_long_outage() -> None:
    """A day of questions about a hundred partitions would fill the memory."""
    one = backlog({A: End(0, 0)}, {A: 0})
    for step in range(1, 50_000):
        one.ends({A: End(step, step)}, 100 + step)
    assert len(one._partitions[A].sightings) <= 129
    assert one.seconds(50_100, 0)[A] == 50_100 - 101
