"""A stream that is not what we think it is, and a table that refuses everything, are mistakes and not bad data."""

from dataclasses import replace

import pytest

from tests.builders import decoded_at
from tickloom.core.quality import RefusalWatch, RejectLimits, RejectWatch, Verdict
from tickloom.errors import TooManyRejects


def test_flood_of_rejects() -> None:
    """The wrong topic would fill the dead letters."""
    watch = RejectWatch(RejectLimits(0.5, 10))
    watch.see(decoded_at(list(range(9)), bad=9))
    with pytest.raises(TooManyRejects, match="schema 10"):
        watch.see(decoded_at([9], bad=1))


def test_a_side_of_rejects() -> None:
    """Of both topics together a bad one is exactly half: it would be copied into the dead letters for ever."""
    watch = RejectWatch(RejectLimits(0.5, 10))
    good = decoded_at(list(range(20)), bad=0)
    watch.see(replace(good, chunk=replace(good.chunk, side=good.chunk.side.other)))
    with pytest.raises(TooManyRejects, match="schema 10"):
        watch.see(decoded_at(list(range(10)), bad=10))


def test_whose_fault_a_refusal_is() -> None:
    """A table that refuses everything would turn a whole feed into dead letters; an odd row would stop it."""
    watch = RefusalWatch(RejectLimits(0.5, 1_000))
    assert watch.judge("t", tried=1, refused=1) is Verdict.UNCLEAR
    assert watch.judge("t", tried=10, refused=10) is Verdict.TABLE
    assert watch.judge("t", tried=10, refused=9) is Verdict.DATA
    assert watch.judge("t", tried=2_000, refused=1_000) is Verdict.DATA
    assert watch.judge("t", tried=2_000, refused=1_001) is Verdict.TABLE
    watch.note({"t": 6}, {"t": 6})
    assert watch.judge("other", tried=6, refused=6) is Verdict.UNCLEAR
    assert watch.judge("t", tried=6, refused=6) is Verdict.TABLE, "those before count, too"
    watch.note({"t": 1}, {})
    assert watch.judge("t", tried=6, refused=6) is Verdict.UNCLEAR, "it takes rows"
    whatever = RefusalWatch(RejectLimits(1, 1_000))
    assert whatever.judge("t", tried=5_000, refused=5_000) is Verdict.DATA
