"""Everything breaks, alone and mixed, while replicas work: the short form of ``make soak``."""

import os

from tests.acceptance.chaos import FAULTS, chaos


def test_whatever_fails() -> None:
    """Some mixture of failures would leave a wrong number in the tables, and nobody would notice."""
    seed = int(os.environ.get("TICKLOOM_TEST_SEED", "11"))
    with chaos(seed) as world:
        outcome = world.run(seconds=60)
    print(f"seed {seed}: {outcome}")
    assert {fault.__doc__ for fault in FAULTS} <= outcome.faults.keys()
    assert outcome.messages > 10_000
    assert outcome.wrong == []
