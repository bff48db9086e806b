"""Codecs: a new format is one module, and the domain's checks treat its values like those of any other."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.csv_codec import Csv
from tests.readers import BOUNDS, RECORD_MS, Verdict, bit_pattern, bits, chunk, one_by_one, verdicts
from tickloom.core.codecs.codec import Columns, Fault, Fields, read_each
from tickloom.core.decode import decode
from tickloom.core.model import FEEDS, Feed, Side
from tickloom.synthetic import TickSettings, history

SIDES = pytest.mark.parametrize("side", list(Side))
STAMP = "2026-09-21T14:13:20Z"
LONG = "X" * 65
PRICES = {
    b"A,2026-09-21T14:13:20Z,1.5,,,": ("A", RECORD_MS * 1_000, 1.5, None, None, None),
    b'"B,C",1790000000000,-2e3,1,3,2.5': ("B,C", RECORD_MS * 1_000, -2_000.0, 1.0, 3.0, 2.5),
    None: "empty",
    b"": "empty",
    b"A,2026-09-21T14:13:20Z,1.5": "schema",
    b"A,2026-09-21T14:13:20Z,x,,,": "schema",
    b"A,2026-09-21T14:13:20Z,,,,": "schema",
    b"A,2026-09-21T14:13:20Z,NaN,,,": "schema",
    b"\xff,2026-09-21T14:13:20Z,1.5,,,": "schema",
    b'{"symbol":"A","price":1.5,"timestamp":"2026-09-21T14:13:20Z"}': "schema",
    b",2026-09-21T14:13:20Z,1.5,,,": "bad_symbol",
    b"%s,2026-09-21T14:13:20Z,1.5,,," % LONG.encode(): "bad_symbol",
    b"A\x00B,2026-09-21T14:13:20Z,1.5,,,": "bad_symbol",
    b"A,2026-09-21T14:13:20Z,1e400,,,": "bad_number",
    b"A,2026-09-21T14:13:20Z,1.5,,2e15,": "bad_number",
    b"A,yesterday,1.5,,,": "bad_timestamp",
    b"A,,1.5,,,": "bad_timestamp",
    b"A,1,1.5,,,": "out_of_bounds",
    b"A,2026-09-21T14:13:20Z,1.5,,1,2": "inconsistent",
}
VOLUMES = {
    b"A,2026-09-21 14:13:20,0": ("A", RECORD_MS * 1_000, 0.0),
    b"A,2026-09-21T14:13:20Z,-1": "bad_number",
    b"A,2026-09-21T14:13:20Z,1,2": "schema",
}
SEVERAL_FAULTS = {
    "schema": ("", "yesterday", "x", "1", "2"),
    "bad_symbol": ("", "yesterday", "9e15", "1", "2"),
    "bad_number": ("A", "yesterday", "9e15", "1", "2"),
    "bad_timestamp": ("A", "yesterday", "1.5", "1", "2"),
    "out_of_bounds": ("A", "2020-01-01T00:00:00Z", "1.5", "1", "2"),
    "inconsistent": ("A", STAMP, "1.5", "1", "2"),
}
"""Symbol, timestamp, price, high and low, with every later fault in them, too."""


def as_csv(side: Side, value: bytes) -> bytes:
    """One of the generator's JSON values as a line."""
    fields: dict[str, Any] = msgspec.json.decode(value)
    names = ("symbol", "timestamp", *FEEDS[side].numbers)
    return ",".join(str(fields.get(name, "")) for name in names).encode()


@pytest.mark.parametrize(("side", "values"), [(Side.PRICES, PRICES), (Side.VOLUMES, VOLUMES)])
def test_a_format_is_one_module(side: Side, values: dict[bytes | None, Verdict]) -> None:
    """Without it a new format would be new checks, and its rows would keep other rules than those of JSON."""
    found = verdicts(decode(chunk(side, tuple(values)), BOUNDS, Csv()))
    wanted = [row if isinstance(row, str) else tuple(map(bit_pattern, row)) for row in values.values()]
    assert dict(zip(values, found, strict=True)) == dict(zip(values, wanted, strict=True))


@SIDES
def test_the_same_ticks_give_the_same_rows(side: Side) -> None:
    """A feed that moves from JSON to another format must go on with the very same table."""
    ticks = [
        tick
        for tick in history(TickSettings(symbols=20), 300, 0.5, datetime(2026, 3, 1, 12, tzinfo=UTC))
        if tick.topic_side == side
    ]
    values, times = [tick.value or b"" for tick in ticks], [tick.timestamp_ms for tick in ticks]
    in_json = decode(chunk(side, values, times), BOUNDS)
    in_csv = decode(chunk(side, [as_csv(side, value) for value in values], times), BOUNDS, Csv())
    assert len(in_json.rows) == 300
    assert in_csv.rows.schema == in_json.rows.schema
    assert bits(in_csv.rows) == bits(in_json.rows)


@pytest.mark.parametrize("reason", SEVERAL_FAULTS)
def test_the_first_reason_counts_in_every_format(reason: str) -> None:
    """The same mistake of a producer must not be counted under another reason because of its format."""
    symbol, time, price, high, low = SEVERAL_FAULTS[reason]
    line = f"{symbol},{time},{price},,{high},{low}".encode()
    number = '"x"' if price == "x" else price
    message = b'{"symbol":"%s","timestamp":"%s","price":%s,"high_price":%s,"low_price":%s}' % tuple(
        part.encode() for part in (symbol, time, number, high, low)
    )
    assert verdicts(decode(chunk(Side.PRICES, [line]), BOUNDS, Csv())) == [reason]
    assert verdicts(decode(chunk(Side.PRICES, [message]), BOUNDS)) == [reason]
    assert one_by_one(chunk(Side.PRICES, [message]), BOUNDS) == [reason]


class _WithoutValue:
    """A codec whose format lets a required number be null or NaN, and which has forgotten about it."""

    def __init__(self, numbers: dict[str, float]) -> None:
        self._numbers = numbers

    def read(self, feed: Feed, values: Sequence[bytes]) -> Columns:
        return read_each(feed, values, self._fields)

    def _fields(self, _: Feed, value: bytes) -> Fields | Fault:
        return Fields(value.decode(), RECORD_MS * 1_000, self._numbers)


@pytest.mark.parametrize("numbers", [{}, {"price": float("nan")}, {"price": float("-inf")}])
def test_a_row_always_has_its_value(numbers: dict[str, float]) -> None:
    """A NULL or a NaN would spread through the moving averages of its symbol."""
    assert verdicts(decode(chunk(Side.PRICES, [b"A"]), BOUNDS, _WithoutValue(numbers))) == ["bad_number"]
