"""A shape changes how a message is written, never what it means."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import Record, reason_of
from tickloom.shapes import SHAPES, Reshaper, Shape
from tickloom.synthetic import SIDES, Tick, TopicSide, iso

FIRST, LAST = 100_000_000_000_000, 99_999_999_999_999_999
"""From 1973 to 5138, in microseconds: where the magnitude of an epoch number tells its unit, whichever it is."""
MINUTE = 60_000_000


def plain(side: TopicSide, symbol: int, cents: int, micros: int) -> Tick:
    name, text = ("price" if side == "prices" else "volume"), f"SYM{symbol:04d}"
    more = f',"open_price":{cents / 100:.2f},"low_price":-{cents}' if side == "prices" else ""
    value = f'{{"symbol":"{text}","{name}":{cents / 100:.2f},"timestamp":"{iso(micros)}"{more}}}'
    return Tick(side, text.encode(), value.encode(), micros // 1_000)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda shape: shape.name)
@settings(max_examples=15)  # of each shape, up to 20 messages
@given(
    messages=st.lists(
        st.tuples(st.sampled_from(SIDES), st.integers(0, 99_999), st.integers(1, 10**9), st.integers(FIRST, LAST)),
        min_size=1,
        max_size=20,
    )
)
def test_every_shape_means_the_same_row(shape: Shape, messages: list[tuple[TopicSide, int, int, int]]) -> None:
    """Otherwise the shapes would be measured on different work, not on different writing."""
    reshaper = Reshaper(shape)
    for side, symbol, cents, micros in messages:
        tick = plain(side, symbol, cents, micros)
        bad = reshaper.bad
        after = reshaper.rewrite(tick)
        was, is_now = (
            reason_of(Record(side, side, 0, 0, one.key, one.value, one.timestamp_ms)) for one in (tick, after)
        )
        if reshaper.bad > bad:
            assert isinstance(is_now, str)
            continue
        assert isinstance(was, dict)
        assert isinstance(is_now, dict)
        cut = was["micros"] - is_now["micros"]
        assert 0 <= cut < MINUTE if shape.cuts_times else cut == 0
        assert is_now == was | {"symbol": shape.symbol(symbol), "micros": is_now["micros"]}
        assert reshaper.key == (side, is_now["symbol"], is_now["micros"])
