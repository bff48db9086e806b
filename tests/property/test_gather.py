"""A chunk that is cut is still the same messages, in the same order, each as a row or a reject."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tests.readers import BOUNDS, RECORD_MS, VALUE, bits, chunk
from tickloom.core.decode import decode
from tickloom.core.gather import BatchLimits, parts_of
from tickloom.core.model import Side

HOUR = 3_600_000_000


@given(
    hours=st.lists(st.one_of(st.none(), st.integers(-20, 0)), max_size=60),
    side=st.sampled_from(Side),
    most_spans=st.integers(1, 9),
    most_messages=st.integers(1, 70),
)
def test_parts_are_the_whole(hours: list[int | None], side: Side, most_spans: int, most_messages: int) -> None:
    """A message that is lost or doubled at a cut would be a wrong ledger; too wide a part could not be loaded."""
    values = [
        b"no" if hour is None else b'{"symbol":"A","%s":1,"timestamp":%d}' % (VALUE[side], RECORD_MS + hour * 3_600_000)
        for hour in hours
    ]
    whole = decode(chunk(side, values), BOUNDS)
    parts = parts_of(whole, BatchLimits(most_messages, 1 << 62, 1, most_spans, HOUR))
    assert bits(pl.concat([part.rows for part in parts])) == bits(whole.rows)
    assert [reject for part in parts for reject in part.rejects] == whole.rejects
    assert [value for part in parts for value in part.chunk.values] == values
    for part in parts:
        offsets = part.chunk.offsets.tolist()
        assert sorted([*part.rows["offset"], *(reject.offset for reject in part.rejects)]) == offsets
        assert len(offsets) <= most_messages
        assert len({ts // HOUR for ts in part.rows["ts"]}) <= most_spans
