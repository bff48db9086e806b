"""How long to wait between attempts."""

import itertools
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tickloom.retry import Backoff, RetryPolicy


@given(seed=st.integers(), first=st.floats(0.01, 5), longest=st.floats(5, 60))
def test_waits_grow_up_to_a_limit(seed: int, first: float, longest: float) -> None:
    """Waits that do not grow hammer a server that is starting; waits without jitter all come at once."""
    waits = list(itertools.islice(RetryPolicy(first, longest).waits(Random(seed)), 20))
    assert all(0 < wait <= longest for wait in waits)
    assert waits[-1] >= longest / 2
    assert len(set(waits)) == 20


def test_a_success_makes_waits_short_again() -> None:
    """After one long outage each small one would stop the flow for a minute."""
    backoff = Backoff(RetryPolicy(1, 64), Random(1))
    waits = [backoff.failed() for _ in range(7)]
    assert waits == sorted(waits)
    assert waits[-1] > 32
    backoff.reset()
    assert backoff.failed() <= 1
