"""JSON's hard cases, in every place of a message: all readers agree with the judge, quickly, and none raises."""

import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import hard_cases, readers
from tests.readers import BOUNDS, STAMP, chunk, disagreements, plain, verdicts
from tickloom.core.decode import decode
from tickloom.core.model import Side

SIDES = pytest.mark.parametrize("side", list(Side))
BENT = {side: [value for text in hard_cases.TEXTS for value in hard_cases.bent(text, side)] for side in Side}
SHORT_BYTES = 1_024
SHORT = {side: [value for value in values if len(value) <= SHORT_BYTES] for side, values in BENT.items()}
LITERALS = [text.decode() for text in hard_cases.TEXTS if readers.JSON_NUMBER.fullmatch(text.decode(errors="replace"))]
MEGABYTE = 1_000_000


def name(text: bytes) -> str:
    """A test's name."""
    return readers.shown(text)[2:40]


@SIDES
@pytest.mark.parametrize("text", hard_cases.TEXTS, ids=name)
def test_in_every_place(text: bytes, side: Side) -> None:
    """Otherwise an odd number, text or bracket would become a wrong row or a wrong reason, or would end the daemon."""
    assert disagreements(side, list(hard_cases.bent(text, side))) == []


@SIDES
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_among_others(side: Side, data: st.DataObject) -> None:
    """Otherwise a hard case could hide among good messages, or two of them could cancel each other out."""
    values = data.draw(st.lists(st.sampled_from(SHORT[side]), min_size=1, max_size=4))
    at = data.draw(st.integers(0, len(values)))
    assert disagreements(side, [*values[:at], plain(side), *values[at:]]) == []


@SIDES
def test_broken_apart(side: Side) -> None:
    """Otherwise two bad messages could become two rows, because a reader of lines cuts them differently from the log."""
    for values in hard_cases.broken_apart(side):
        assert disagreements(side, values) == []


@SIDES
def test_compressed(side: Side) -> None:
    """Otherwise bytes that no other consumer takes for JSON would be rows, and a small message could unpack to fill memory."""
    for values in hard_cases.compressed(side):
        assert disagreements(side, values) == []


@pytest.mark.parametrize("literal", LITERALS, ids=lambda literal: literal[:40])
def test_numbers_as_times(literal: str) -> None:
    """Otherwise the same number, written in another way, would be another instant."""
    assert readers.number_disagreements(literal) == []


@pytest.mark.parametrize(
    "text",
    [
        *(b"[" * MEGABYTE, b"[]," * (MEGABYTE // 3), b'{"a":' * (MEGABYTE // 5), b'"' + b"\\" * MEGABYTE + b'"'),
        *(b'["' + b'\\"' * (MEGABYTE // 2) + b"[" * 600, b'"' * MEGABYTE, b'["",' + b'"[",' * (MEGABYTE // 4) + b'""]'),
        *(
            b"9" * MEGABYTE,
            b"0." + b"0" * MEGABYTE + b"1",
            b"1e" + b"0" * MEGABYTE + b"1",
            b"-" * MEGABYTE,
            b" " * MEGABYTE,
        ),
        *(b"1790000000" + b"0" * MEGABYTE + b"e-1000000", b'"2026-09-21T14:13:20.' + b"1" * MEGABYTE + b'Z"'),
        *(
            b'"' + b"A" * MEGABYTE + b'"',
            b'"' + b"\\u0041" * (MEGABYTE // 6) + b'"',
            b"\xff" * MEGABYTE,
            b"\x00" * MEGABYTE,
        ),
        *(
            b"{" + b",".join(b'"k%d":%d' % (number, number) for number in range(80_000)) + b"}",
            b'{"":0,' * (MEGABYTE // 6),
        ),
    ],
    ids=name,
)
def test_a_megabyte(text: bytes) -> None:
    """Otherwise one large message could keep the daemon busy for hours: some ways to read are quadratic."""
    bent = list(hard_cases.bent(text, Side.PRICES))
    values = [bent[place] for place in (0, 3, 4, 5, 8)]  # alone, symbol, price, timestamp, an unknown field
    begun = time.process_time()
    found = verdicts(decode(chunk(Side.PRICES, values), BOUNDS))
    assert time.process_time() - begun < 20
    assert found == [readers.judged(Side.PRICES, value) for value in values]


@pytest.mark.parametrize("depth", [10, 256, 511, 512, 513, 900, 1_000, 3_000])
@pytest.mark.parametrize("frames", [0, 200, 350])
def test_depth_is_bounded_alike_wherever_the_caller_stands(depth: int, frames: int) -> None:
    """Otherwise a replica with another Python version, or a deeper stack, would make other tables from the same log."""
    nested = b'{"symbol":"S","price":1,"timestamp":%s,"x":' % STAMP + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    def descend(frames: int) -> list[readers.Verdict]:
        return descend(frames - 1) if frames else verdicts(decode(chunk(Side.PRICES, [nested]), BOUNDS))

    (found,) = descend(frames)
    assert (found == "not_json") == (depth > 512)


def test_a_panic_of_polars_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a panic in a library, which is not an ``Exception`` in Python, would kill the daemon at every start."""

    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("index out of bounds")

    monkeypatch.setattr(pl, "read_ndjson", panic)
    assert disagreements(Side.PRICES, [plain(Side.PRICES)]) == []
