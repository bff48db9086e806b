"""The judge: what the tables must hold for a log, by the standard library and one SQL query a table.

It imports nothing of the project: the rules are written a second time, plainly and slowly.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

DAY = 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = (datetime(2, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
LAST = (datetime(9999, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
MAX_DEPTH = 512
VALUE = {"prices": "price", "volumes": "volume"}
OPTIONAL = {"prices": ("open_price", "high_price", "low_price"), "volumes": ()}
ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)


@dataclass(frozen=True)
class Record:
    """A message as it lies in the log."""

    side: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


class _Number(str):
    """A JSON number as it was written."""


def reason_of(record: Record, max_ahead: float = DAY, max_age: float = 31 * DAY) -> str | dict[str, Any]:
    """The reason why a record is bad, or its row."""
    if not record.value:
        return "empty"
    document = _parse(record.value)
    if not isinstance(document, dict):
        return "not_json"
    required = VALUE[record.side]
    names = [required, *(name for name in OPTIONAL[record.side] if document.get(name) is not None)]
    if type(document.get("symbol")) is not str or type(document.get("timestamp")) not in (str, _Number):
        return "schema"
    if any(type(document.get(name)) is not _Number for name in names):
        return "schema"
    symbol = document["symbol"]
    if not 1 <= len(symbol) <= 64 or any(ord(char) < 32 or 127 <= ord(char) <= 159 for char in symbol):
        return "bad_symbol"
    numbers = {name: float(document[name]) for name in names}
    if any(abs(number) > 1e15 for number in numbers.values()) or (required == "volume" and numbers["volume"] < 0):
        return "bad_number"
    stamp = document["timestamp"]
    micros = _epoch(stamp) if isinstance(stamp, _Number) else _iso(stamp)
    if micros is None:
        return "bad_timestamp"
    if not FIRST <= micros < LAST:
        return "out_of_bounds"
    record_micros = record.timestamp_ms * 1000
    if micros > record_micros + max_ahead * 1_000_000 or micros < record_micros - max_age * 1_000_000:
        return "out_of_bounds"
    if "high_price" in numbers and "low_price" in numbers and numbers["high_price"] < numbers["low_price"]:
        return "inconsistent"
    return {
        "symbol": symbol,
        "micros": micros,
        "value": numbers[required],
        **{k: numbers.get(k) for k in OPTIONAL[record.side]},
    }


def _parse(value: bytes) -> Any:
    def refuse(_: str) -> Any:
        raise ValueError("not JSON")

    try:
        text = value.decode("utf-8")
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
            return None
        document = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=refuse)
        texts = json.loads(text, parse_float=str, parse_int=str, object_pairs_hook=_flat)
        json.dumps(texts, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text, wherever it stands
    except (ValueError, RecursionError):
        return None
    return document


def _flat(pairs: list[tuple[str, Any]]) -> list[Any]:
    return [part for pair in pairs for part in pair]


def _depth(text: str) -> int:
    """How many brackets are open at once, at most, outside of strings."""
    deepest = depth = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def _iso(text: str) -> int | None:
    match = ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(*map(int, (year, month, day, hour, minute, second or 0)))
    except ValueError:
        return None
    micros = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1) + int(((fraction or "") + "000000")[:6])
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        if int(digits[:2]) > 23 or int(digits[2:]) > 59:
            return None
        offset = (int(digits[:2]) * 60 + int(digits[2:])) * 60_000_000
        micros += -offset if zone[0] == "+" else offset
    return micros


def _epoch(literal: str) -> int:
    with localcontext() as exact:
        exact.prec = len(literal) + 100
        try:
            number = Decimal(literal)
        except InvalidOperation:  # a power that not even Decimal holds
            return 0 if "e-" in literal.lower() or set(re.split("[eE]", literal)[0]) <= set("-0.") else 10**40
        if number and number.adjusted() > 40:
            return 10**40
        if number and number.adjusted() < -40:
            return 0
        size = abs(number)
        for limit, factor in ((Decimal(10) ** 11, 10**6), (Decimal(10) ** 14, 10**3), (Decimal(10) ** 17, 1)):
            if size < limit:
                return int(number * factor)
        return int(number / 1000)


@dataclass
class Expected:
    """What the tables must hold."""

    tables: dict[str, list[tuple[Any, ...]]]
    dead: dict[tuple[str, int, int], tuple[str, bytes | None, bytes | None]]
    stored: dict[str, int]
    superseded: dict[str, int]


@dataclass
class Judged:
    """A log sorted into rows and rejects."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {"prices": [], "volumes": []})
    dead: dict[tuple[str, int, int], tuple[str, bytes | None, bytes | None]] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)


def judge(log: list[Record]) -> Judged:
    """Sort a log into rows and rejects."""
    judged = Judged()
    latest: dict[tuple[str, int], int] = {}  # record timestamp that a partition has seen
    for record in sorted(log, key=lambda one: (one.topic, one.partition, one.offset)):
        at = (record.topic, record.partition)
        latest[at] = min(max(latest.get(at, 0), record.timestamp_ms), LAST // 1000)
        judged.topics[record.side] = record.topic
        verdict = reason_of(record)
        if isinstance(verdict, str):
            judged.dead[record.topic, record.partition, record.offset] = (verdict, record.key, record.value)
        else:
            optional = [verdict.get(name) for name in ("open_price", "high_price", "low_price")]
            moment = EPOCH + timedelta(microseconds=verdict["micros"])
            row = (verdict["symbol"], moment, verdict["value"], *optional, record.partition, record.offset)
            row = (*row, EPOCH + timedelta(milliseconds=latest[record.topic, record.partition]))
            judged.rows[record.side].append(row)
    return judged


_SIDE = """
    SELECT symbol, ts, value, {optional} avg(value) OVER w AS average, partition, "offset", latest
    FROM (
        SELECT DISTINCT ON (symbol, ts) * FROM pg_temp.valid_{side}
        ORDER BY symbol, ts, latest DESC, "offset" DESC, partition DESC
    ) x
    WINDOW w AS (PARTITION BY symbol ORDER BY ts ROWS {before} PRECEDING)
"""


async def expected(connection: Any, log: list[Record], window: int = 5) -> Expected:
    """What the tables must hold, computed by one SQL query each in temporary tables."""
    return await _expected(connection, judge(log), window)


async def _expected(connection: Any, judged: Judged, window: int) -> Expected:
    tables: dict[str, list[tuple[Any, ...]]] = {}
    queries: dict[str, str] = {}
    for side, rows in judged.rows.items():
        await connection.execute(
            f'CREATE TEMP TABLE IF NOT EXISTS valid_{side} (symbol text COLLATE "C", ts timestamptz, value float8, '
            f'open_price float8, high_price float8, low_price float8, partition int, "offset" bigint, latest timestamptz); '
            f"TRUNCATE pg_temp.valid_{side}"
        )
        await connection.copy_records_to_table(f"valid_{side}", records=rows)
        optional = "open_price, high_price, low_price," if side == "prices" else ""
        queries[side] = _SIDE.format(side=side, optional=optional, before=window - 1)
        found = await connection.fetch(f"{queries[side]} ORDER BY symbol, ts")
        tables[f"stock_{side}"] = [tuple(row) for row in found]
    found = await connection.fetch(
        f"SELECT p.symbol, p.ts, p.value, v.value, p.average, v.average FROM ({queries['prices']}) p "
        f"JOIN ({queries['volumes']}) v USING (symbol, ts) ORDER BY p.symbol, p.ts"
    )
    tables["stock_analytics_data"] = [(*row, _ratio(row[2], row[3])) for row in found]
    stored = {judged.topics[side]: len(tables[f"stock_{side}"]) for side in judged.topics}
    superseded = {judged.topics[side]: len(judged.rows[side]) - stored[judged.topics[side]] for side in judged.topics}
    return Expected(tables, judged.dead, stored, superseded)


ACTUAL = {
    "stock_prices": (
        'symbol, "timestamp", price, open_price, high_price, low_price, price_moving_avg, source_partition, source_offset, '
        "source_timestamp"
    ),
    "stock_volumes": (
        'symbol, "timestamp", volume, trading_volume_moving_avg, source_partition, source_offset, source_timestamp'
    ),
    "stock_analytics_data": (
        'symbol, "timestamp", price, volume, price_moving_avg, trading_volume_moving_avg, price_volume_ratio'
    ),
}


async def differences(connection: Any, log: list[Record], window: int = 5) -> list[str]:
    """Everything that is wrong, in words; empty when all is exact, to the last bit."""
    ends: dict[tuple[str, int], int] = {}
    for record in log:
        at = (record.topic, record.partition)
        ends[at] = max(ends.get(at, 0), record.offset + 1)
    return await differences_from(connection, judge(log), ends, window)


async def differences_from(
    connection: Any, judged: Judged, ends: dict[tuple[str, int], int], window: int = 5
) -> list[str]:
    """The same for a log that is already sorted into rows and rejects; ``ends``: where each partition of it ends."""
    wanted = await _expected(connection, judged, window)
    apart: list[str] = []
    for table, columns in ACTUAL.items():
        rows = [
            tuple(row) for row in await connection.fetch(f'SELECT {columns} FROM {table} ORDER BY symbol, "timestamp"')
        ]
        apart += _compared(table, wanted.tables[table], rows)
    letters = await connection.fetch('SELECT topic, partition, "offset", reason, key, value FROM tickloom.dead_letters')
    dead = {tuple(row)[:3]: tuple(row)[3:] for row in letters}
    apart += _compared("dead letters", sorted(wanted.dead.items()), sorted(dead.items()))
    return apart + await _ledger(connection, ends, wanted)


async def _ledger(connection: Any, ends: dict[tuple[str, int], int], wanted: Expected) -> list[str]:
    apart: list[str] = []
    stored, superseded, dead = Counter[str](), Counter[str](), Counter[str]()
    for row in await connection.fetch("SELECT * FROM tickloom.offsets"):
        counted = row["stored"] + row["superseded"] + row["dead"] + row["skipped"] + row["missing"]
        if row["next_offset"] - row["first_offset"] != counted:
            apart.append(f"the ledger does not add up: {dict(row)}")
        if row["next_offset"] < ends.get((row["topic"], row["partition"]), 0):
            apart.append(f"the ledger ends early: {dict(row)}")
        stored[row["topic"]] += row["stored"]
        superseded[row["topic"]] += row["superseded"]
        dead[row["topic"]] += row["dead"]
    apart += _compared("stored", sorted(wanted.stored.items()), sorted(stored.items()))
    apart += _compared("superseded", sorted(wanted.superseded.items()), sorted(superseded.items()))
    apart += _compared("dead", sorted(Counter(at[0] for at in wanted.dead).items()), sorted((+dead).items()))
    return apart


def _ratio(price: float, volume: float) -> float | None:
    """IEEE division: Postgres raises where the quotient leaves float8."""
    quotient = price / volume if volume else math.inf
    return None if math.isinf(quotient) else quotient


def _compared(what: str, wanted: list[Any], found: list[Any]) -> list[str]:
    if wanted == found:
        return []
    pairs = [(w, f) for w, f in zip(wanted, found, strict=False) if w != f][:3]
    return [f"{what}: {len(wanted)} wanted, {len(found)} found; first differences (wanted, found): {pairs}"]
