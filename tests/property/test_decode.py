"""Decode is total and exact: every input becomes a row or a reject, and all readers agree with the judge."""

import json
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import hard_cases, reference
from tests.readers import BOUNDS, MANY, RECORD_MS, STAMP, VALUE, chunk, disagreements, one_by_one, plain, verdicts
from tickloom.core.checks import EventBounds
from tickloom.core.codecs import json as codec
from tickloom.core.codecs.codec import Fault, Fields
from tickloom.core.decode import decode
from tickloom.core.model import Feed, Reason, Side
from tickloom.core.timestamps import parse_alike

SIDES = pytest.mark.parametrize("side", list(Side))
DAY_MICROS = 86_400_000_000

DECIMALS = st.builds(
    lambda *parts: "".join(parts).encode(),
    st.sampled_from(["", "-"]),
    st.one_of(st.just("0"), st.integers(1, 10**16).map(str), st.integers(1, 10**40).map(str)),
    st.one_of(st.just(""), st.text("0123456789", min_size=1, max_size=40).map(lambda digits: f".{digits}")),
    st.one_of(
        st.just(""),
        st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 400)),
    ),
)
FLOATS = st.floats(-1e15, 1e15).map(lambda number: repr(number).encode())
TINY = st.floats(-1e-300, 1e-300).map(lambda number: repr(number).encode())
ODD = st.sampled_from(hard_cases.TEXTS).filter(lambda text: len(text) < 300)
NUMBERS = st.one_of(FLOATS, FLOATS, DECIMALS, TINY, st.sampled_from(hard_cases.NUMBERS), ODD)
SYMBOLS = st.one_of(
    st.sampled_from([b'"AAPL"', b'"a"', b'"BRK.B"', b'"SYME1234567890123"']),
    st.builds(lambda text, ascii_only: written(text, ascii_only), st.text(max_size=66), st.booleans()),
    st.sampled_from(hard_cases.STRINGS),
    ODD,
)
EDGES = [0, 1, -1, -BOUNDS.max_age, -BOUNDS.max_age - 1, BOUNDS.max_ahead, BOUNDS.max_ahead + 1]
FORMS = [
    lambda moment: moment.isoformat() + "Z",
    lambda moment: moment.isoformat(sep=" "),
    lambda moment: moment.isoformat() + "+00:00",
]
SPACE = st.one_of(
    st.just(b""),
    st.just(b""),
    st.sampled_from([b" ", b"\t", b"\r", b"\n", b"\x0b", b"\x00", b"\xc2\xa0", b"\xef\xbb\xbf"]),
)
KEYS = st.sampled_from(
    [
        b'"symbol"',
        b'"price"',
        b'"volume"',
        b'"timestamp"',
        b'"high_price"',
        b'"low_price"',
        b'"sym\\u0062ol"',
        b'"Symbol"',
        b'""',
    ]
)
RECORD_TIMES = st.one_of(
    st.just(RECORD_MS),
    st.just(RECORD_MS),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-1, 0, -(2**63), 2**63 - 1, 2**51, -(2**51), 2**51 - 1, 9_223_372_036_854_775]),
    st.builds(
        lambda end, away: end // 1_000 + away,
        st.sampled_from([reference.FIRST, reference.LAST]),
        st.integers(-100_000, 100_000),
    ),
)


def written(value: Any, ascii_only: bool) -> bytes:
    """As JSON; lone surrogates stay as they are."""
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@st.composite
def times(draw: st.DrawFn, record_ms: int) -> bytes:
    """A text or a number: near the record's time, at a limit of what is allowed, or odd."""
    match draw(st.integers(0, 9)):
        case 0:
            return draw(st.sampled_from(hard_cases.TIMES))
        case 1:
            return draw(ODD)
        case kind:
            away = draw(st.one_of(st.sampled_from(EDGES), st.integers(-40 * DAY_MICROS, 2 * DAY_MICROS)))
            micros = record_ms * 1_000 + away
            if kind == 2 or not reference.FIRST <= micros < reference.LAST:
                return str(micros * 1_000 + draw(st.integers(0, 999)) if abs(micros) >= 10**14 else micros).encode()
            return written(draw(st.sampled_from(FORMS))(datetime(1970, 1, 1) + timedelta(microseconds=micros)), True)


@st.composite
def tokens(draw: st.DrawFn, side: Side, record_ms: int) -> list[bytes]:
    """A message as the list of its parts: mostly the fields of the side, with any contents."""
    fields = [
        (b'"symbol"', draw(SYMBOLS)),
        (b'"%s"' % VALUE[side], draw(NUMBERS)),
        (b'"timestamp"', draw(times(record_ms))),
    ]
    for name in (b'"open_price"', b'"high_price"', b'"low_price"', b'"other"'):
        if draw(st.integers(0, 3)) == 0:
            fields.append((name, draw(NUMBERS)))
    if draw(st.integers(0, 9)) == 0:
        fields.append((draw(KEYS), draw(st.one_of(NUMBERS, SYMBOLS))))
    if draw(st.integers(0, 9)) == 0:
        fields.append(draw(st.sampled_from(fields)))
    if draw(st.integers(0, 3)) == 0:
        fields = draw(st.permutations(fields))
    parts = [part for name, held in fields for part in (b",", name, b":", held)]
    return [b"{", *parts[1:], b"}"]


@st.composite
def values(draw: st.DrawFn, side: Side, record_ms: int = RECORD_MS) -> bytes | None:
    """One message's value: a good one, or one with changes in its parts or its bytes."""
    parts = draw(tokens(side, record_ms))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 4]))):
        at = draw(st.integers(0, len(parts) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                parts[at : at + 1] = []
            case 1:
                parts[at:at] = [parts[at]]
            case 2:
                parts[at] = draw(ODD)
            case 3:
                parts[at:at] = [draw(SPACE)]
            case _:
                parts[at:at] = draw(tokens(side, record_ms))
        parts = parts or [b""]
    raw = b"".join(parts)
    at = draw(st.integers(0, len(raw)))
    match draw(st.integers(0, 15)):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 2)) :]
        case 2:
            return raw[:at] + draw(SPACE) + raw[at:]
        case 3:
            return (
                draw(SPACE) + raw + draw(st.sampled_from([b"\n", b" ", b"x", raw, b"\n" + raw, b",", b"\x00", b"\r"]))
            )
        case 4:
            return draw(st.sampled_from([None, b"", draw(st.binary(max_size=80))]))
        case 5:
            return raw.replace(b'"symbol"', b'"symbol"' + b" " * draw(st.integers(0, 1_500)), 1)
        case _:
            return raw


@SIDES
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_every_reader_says_what_the_judge_says(side: Side, data: st.DataObject) -> None:
    """A row that depended on its neighbours would make the tables wrong; a wrong reason sends the operator astray."""
    drawn = data.draw(st.lists(values(side), min_size=1, max_size=4))
    clean = [plain(side, index) for index in range(data.draw(st.integers(0, 3)))]
    assert (
        disagreements(side, data.draw(st.permutations([*clean, *drawn])) * data.draw(st.sampled_from([1, MANY]))) == []
    )


@SIDES
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_records_time(side: Side, data: st.DataObject) -> None:
    """A record from the year 33658, from before 1970, or without a time would stop the daemon at every start."""
    at = data.draw(st.lists(RECORD_TIMES, min_size=1, max_size=3))
    assert disagreements(side, [data.draw(values(side, record_ms)) for record_ms in at], at) == []


@SIDES
@given(numbers=st.lists(st.one_of(FLOATS, DECIMALS, TINY, st.sampled_from(hard_cases.NUMBERS)), min_size=1, max_size=8))
@settings(max_examples=250, deadline=None)
def test_numbers_to_the_last_bit(side: Side, numbers: list[bytes]) -> None:
    """If neighbours changed how a price is rounded, a replay would differ from the table that it replaces."""
    drawn = [b'{"symbol":"S","%s":%s,"timestamp":%s}' % (VALUE[side], number, STAMP) for number in numbers]
    assert disagreements(side, drawn) == []


@given(drawn=st.lists(st.one_of(st.none(), st.binary(max_size=60)), min_size=1, max_size=5))
@example([b"\xff\xfe"])
@example([b"{", b"}"])
@settings(max_examples=400, deadline=None)
def test_any_bytes(drawn: list[bytes | None]) -> None:
    """One message that raised an exception would stop the daemon again and again."""
    assert disagreements(Side.PRICES, drawn) == []


@given(ahead=st.integers(0, 2**80), age=st.integers(0, 2**80), record_ms=RECORD_TIMES)
@example(ahead=2**63, age=2**64, record_ms=RECORD_MS)
@settings(max_examples=200, deadline=None)
def test_any_bounds(ahead: int, age: int, record_ms: int) -> None:
    """A user who switches the bounds off with a large number would have a daemon that ends at the first message."""
    alone = chunk(Side.PRICES, [plain(Side.PRICES)], [record_ms])
    bounds = EventBounds(ahead, age)
    assert verdicts(decode(alone, bounds)) == one_by_one(alone, bounds)


ORDINARY = {
    "plain": b'{"symbol":"SYM0001","%s":2.5,"timestamp":"2026-09-21T14:13:20.000001Z"}',
    "spaces": b'{ "symbol" : "A", "%s" : 1e-05 , "timestamp" : "2026-09-21 14:13:20" }',
    "pretty": b'{\n  "symbol": "A",\n  "%s": 100,\n  "timestamp": "2026-09-20T23:00:00+00:00"\n}',
    "another order": b'{"timestamp":"2026-09-21T19:43:20.123456789+05:30","%s":0,"symbol":"x"}',
    "epoch seconds": b'{"symbol":"7203.T","%s":1,"timestamp":1790000000}',
    "epoch fraction": b'{"symbol":"600519","%s":1,"timestamp":1790000000.123456}',
    "epoch exponent": b'{"symbol":"A","%s":1,"timestamp":1.790000000123E12}',
    "epoch ms": b'{"symbol":"BTC\\/USD","%s":1,"timestamp":1790000000000}',
    "epoch ns": b'{"symbol":"Z\\u00fcrich","%s":1,"timestamp":1790000000000000001}',
    "not ASCII": '{"symbol":"日本","%s":1,"timestamp":"2026-09-21T14:13Z"}'.encode(),
    "unknown fields": b'{"symbol":"A","venue":"XNYS","c":[1,{"a":null}],"ok":true,"%s":1,"timestamp":"2026-09-21T14:13:20Z"}',
    "long": b'{"symbol":"A","note":"%s","%%s":1,"timestamp":"2026-09-21T10:13:20-0400"}' % (b"x" * 2_000),
    "escapes": b'{"symbol":"A","note":"\\"\\n\\\\","%s":1,"timestamp":"2026-09-21T14:13:20.5Z"}',
}


@SIDES
@pytest.mark.parametrize("shape", ORDINARY)
@pytest.mark.parametrize("bad", [None, b"", b"hello", b'{"symbol":"A"}', b"\xff"])
def test_ordinary_messages_are_read_in_columns(
    side: Side, shape: str, bad: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If ordinary messages were read one by one, decode would silently become ten times slower."""
    alike = [ORDINARY[shape] % VALUE[side]] * 30
    together = chunk(side, [*alike, bad, *alike])
    wanted = one_by_one(together, BOUNDS)
    read, read_alone = codec.fields_of, list[bytes]()

    def fields_of(feed: Feed, value: bytes) -> Fields | Fault:
        read_alone.append(value)
        return read(feed, value)

    monkeypatch.setattr(codec, "fields_of", fields_of)
    assert verdicts(decode(together, BOUNDS)) == wanted
    assert set(read_alone) <= {bad}
    times = [msgspec.json.decode(ORDINARY[shape] % VALUE[side], type=dict[str, msgspec.Raw])["timestamp"]] * 30
    assert parse_alike(times)[1].all(), "times are parsed one by one"


def test_no_messages() -> None:
    """An empty chunk must not end the daemon."""
    assert verdicts(decode(chunk(Side.PRICES, []), BOUNDS)) == []


def test_every_reason_can_come() -> None:
    """A reason that never occurs would hide another one."""
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
