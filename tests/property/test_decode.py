"""Decode is total and exact: every input is a row or a reject, and all its readers say the same."""

import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import reference
from tickloom.model import Chunk, Reason, Side
from tickloom.stages.decode import EventBounds, _decode_at_once, decode, decode_strictly
from tickloom.timestamps import parse_column, parse_number, parse_text

RECORD_MS = 1_790_000_000_000
BOUNDS = EventBounds(86_400_000_000, 31 * 86_400_000_000)


class Message:
    """A Kafka message as far as decode asks."""

    def key(self) -> bytes:
        return b"key"

    def headers(self) -> None:
        return None


def chunk(side: Side, values: list[bytes | None]) -> Chunk:
    size = len(values)
    return Chunk(side, "topic", [Message()] * size, values, [0] * size, list(range(size)), [RECORD_MS] * size)


STAMPS = st.one_of(
    st.integers(-40 * 86_400_000_000, 2 * 86_400_000_000).map(
        lambda micros: (datetime.fromtimestamp(RECORD_MS / 1000, UTC) + timedelta(microseconds=micros)).isoformat()
    ),
    st.sampled_from(
        [1_790_000_000, 1_790_000_000.123456789, 1_790_000_000_000, 1_790_000_000_000_000, 1_790_000_000_000_000_001]
    ),
    st.sampled_from(
        ["2026-09-21T14:13:20Z", "2026-09-21 14:13:20.1234567+02:00", "2026-9-21T14:13:20", "", "nonsense"]
    ),
    st.sampled_from([0, -5, None, True, [], {}]),
)
NUMBERS = st.one_of(
    st.floats(-1e16, 1e16),
    st.integers(-10, 10**17),
    st.sampled_from([0, -0.0, 1e15, 1.0000001e15, "1", True, None, [], 5e-324, 0.1, 2**53 + 1]),
)
SYMBOLS = st.one_of(
    st.sampled_from(
        ["AAPL", "", "600519", "-1", "true", "{", "a\nb", "x" * 64, "x" * 65, "\x00", "Ünï", "\x7f", "\u0085"]
    ),
    st.text(max_size=5),
    st.sampled_from([600519, True, None, ["A"]]),
)


@st.composite
def values(draw: st.DrawFn, side: Side) -> bytes | None:
    """One message's value: mostly a document, sometimes bent."""
    value = "price" if side is Side.PRICES else "volume"
    fields: list[tuple[str, Any]] = [("symbol", draw(SYMBOLS)), (value, draw(NUMBERS)), ("timestamp", draw(STAMPS))]
    for name in ("open_price", "high_price", "low_price", "other"):
        if draw(st.integers(0, 3)) == 0:
            fields.append((name, draw(NUMBERS)))
    if draw(st.integers(0, 9)) == 0:
        fields.append(draw(st.sampled_from(fields)))
    if draw(st.integers(0, 9)) == 0:
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    ascii_only, space = draw(st.booleans()), draw(st.sampled_from([" ", "", "\n", "\t "]))
    members = (f"{json.dumps(k)}:{space}{json.dumps(v, ensure_ascii=ascii_only)}" for k, v in fields)
    raw = ("{" + ",".join(members) + "}").encode("utf-8", "surrogatepass")
    match draw(st.integers(0, 12)):
        case 0:
            raw = raw[: draw(st.integers(0, len(raw)))]
        case 1:
            at = draw(st.integers(0, len(raw) - 1))
            raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + 1 :]
        case 2:
            raw = raw + draw(st.sampled_from([b"\n", b" ", b"x", raw, b"\n" + raw, b",", b"\x00"]))
        case 3:
            raw = raw.replace(
                b"1", draw(st.sampled_from([b"1e400", b"NaN", b"01", b"1.", b"+1", b"1e-400", b"9" * 30])), 1
            )
        case _:
            pass
    return draw(st.sampled_from([raw] * 19 + [None]))


def plain(side: Side, index: int) -> bytes:
    value = (
        {"price": 1.5 + index, "open_price": 1, "high_price": 3.25, "low_price": 0.1}
        if side is Side.PRICES
        else {"volume": index}
    )
    return json.dumps({"symbol": f"S{index}", **value, "timestamp": "2026-09-21T14:13:20.000001Z"}).encode()


def bits(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    return [tuple(struct.pack("d", x) if isinstance(x, float) else x for x in row) for row in frame.rows()]


@pytest.mark.parametrize("side", list(Side))
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_readers_agree(side: Side, data: st.DataObject) -> None:
    """A row that one reader takes and the other refuses would depend on its neighbours in the chunk."""
    found = data.draw(st.lists(values(side), min_size=1, max_size=4))
    clean = [plain(side, index) for index in range(data.draw(st.integers(0, 3)))]
    mixed = chunk(side, [*clean, *found])
    fast, strict = decode(mixed, BOUNDS), decode_strictly(mixed, BOUNDS)
    assert bits(fast.rows) == bits(strict.rows)
    assert fast.rejects == strict.rejects
    assert len(strict.rows) + len(strict.rejects) == len(mixed.values)


@pytest.mark.parametrize("side", list(Side))
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_verdict_is_the_contracts(side: Side, data: st.DataObject) -> None:
    """A wrong reason sends the operator to the wrong place; a wrong row is a wrong table."""
    value = data.draw(values(side))
    decoded = decode(chunk(side, [value]), BOUNDS)
    verdict = reference.reason_of(reference.Record(side.value, "topic", 0, 0, b"key", value, RECORD_MS))
    if isinstance(verdict, str):
        assert [(reject.reason.value, reject.value) for reject in decoded.rejects] == [(verdict, value)]
    else:
        assert decoded.rejects == []
        row = decoded.rows.row(0, named=True)
        names = ("symbol", "value", *(name for name in verdict if name.endswith("_price")))
        assert {name: row[name] for name in names} == {name: verdict[name] for name in names}
        assert row["ts"] == verdict["micros"]


@given(value=st.binary(max_size=60))
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(b'{"symbol":"A","price":1,"price":2,"timestamp":"2026-09-21T14:13:20Z"}')
@example(b"\xff\xfe")
@settings(max_examples=300, deadline=None)
def test_any_bytes(value: bytes) -> None:
    """One message that raises would stop the daemon, again and again."""
    decoded = decode(chunk(Side.PRICES, [value]), BOUNDS)
    assert len(decoded.rows) + len(decoded.rejects) == 1


@pytest.mark.parametrize("side", list(Side))
def test_the_fast_reader_is_taken(side: Side) -> None:
    """Without it decode costs several times as much."""
    assert _decode_at_once(chunk(side, [plain(side, index) for index in range(100)]), BOUNDS) is not None


def test_every_reason_can_come() -> None:
    """A reason that never comes hides another."""
    stamp = b'"timestamp":"2026-09-21T14:13:20Z"'
    cases = {
        None: Reason.EMPTY,
        b"{": Reason.NOT_JSON,
        b'{"symbol":"A",%s}' % stamp: Reason.SCHEMA,
        b'{"symbol":"","price":1,%s}' % stamp: Reason.BAD_SYMBOL,
        b'{"symbol":"A","price":1e400,%s}' % stamp: Reason.BAD_NUMBER,
        b'{"symbol":"A","price":1,"timestamp":"x"}': Reason.BAD_TIMESTAMP,
        b'{"symbol":"A","price":1,"timestamp":1}': Reason.OUT_OF_BOUNDS,
        b'{"symbol":"A","price":1,"high_price":1,"low_price":2,%s}' % stamp: Reason.INCONSISTENT,
    }
    decoded = decode(chunk(Side.PRICES, list(cases)), BOUNDS)
    assert {reject.value: reject.reason for reject in decoded.rejects} == cases


@given(texts=st.lists(STAMPS.filter(lambda stamp: isinstance(stamp, str)), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_times_agree(texts: list[str]) -> None:
    """A time must not depend on the times beside it."""
    column = parse_column(pl.Series(texts))
    single = [parse_text(text) for text in texts]
    assert column is None or column.tolist() == single


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("2024-02-29T00:00:00Z", True),
        ("2023-02-29T00:00:00Z", False),
        ("2100-02-29T00:00:00Z", False),
        ("0000-01-01T00:00:00Z", False),
        ("2026-04-31T00:00:00Z", False),
        ("2026-12-31T23:59:60Z", False),
        ("2026-12-31T24:00:00Z", False),
        ("9999-12-31T23:59:59.999999999Z", True),
        ("0001-01-01T00:00:00Z", True),
        ("2026-12-31T23:59: 9Z", False),
    ],
)
def test_calendar(text: str, good: bool) -> None:
    """A day that does not exist would become another one."""
    assert (parse_text(text) is not None) == good
    column = parse_column(pl.Series([text]))
    assert (column is not None) == good
    assert reference._iso(text) == parse_text(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20))
def test_epoch_numbers(number: Any) -> None:
    """Digits past the microsecond are cut, never rounded into the next one."""
    assert parse_number(str(number)) == reference._epoch(str(number)) or abs(reference._epoch(str(number))) >= 10**18


@pytest.mark.parametrize(
    ("literal", "micros"),
    [
        ("1e400790000000000000001", 2**63 - 1),
        ("1e-400790000000000000001", 0),
        ("0e999999999999", 0),
        ("9" * 100_000, 2**63 - 1),
        ("1790000000.1234569" + "9" * 50, 1_790_000_000_123_456),
        ("179e7", 1_790_000_000_000_000),
        ("1790000000123456789", 1_790_000_000_123_456),
        ("-1.5", -1_500_000),
        ("0.0000001", 0),
        ("99999999999", 99_999_999_999_000_000),
        ("100000000000", 100_000_000_000_000),
    ],
)
def test_epoch_extremes(literal: str, micros: int) -> None:
    """One number with a mad power would stop the daemon, or keep it busy for hours."""
    assert parse_number(literal) == micros
