"""The readers of JSON and their judge: each message's verdict in one form that can be compared bit for bit."""

import re
import struct
from collections.abc import Sequence
from typing import TypeAlias

import polars as pl

from tests import reference
from tickloom.core.checks import EventBounds, fault_of
from tickloom.core.codecs.codec import Fault
from tickloom.core.codecs.json import fields_of
from tickloom.core.decode import decode
from tickloom.core.model import FEEDS, Chunk, Decoded, Side
from tickloom.core.timestamps import UNREACHABLE, parse_alike, parse_number, parse_text

RECORD_MS = 1_790_000_000_000
BOUNDS = EventBounds(86_400_000_000, 31 * 86_400_000_000)
STAMP = b'"2026-09-21T14:13:20.000001Z"'
VALUE = {Side.PRICES: b"price", Side.VOLUMES: b"volume"}

MANY = 20
"""Enough literals of one form to be parsed at once."""
JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")

Verdict: TypeAlias = str | tuple[object, ...]
"""The reason of a reject, or (symbol, micros, value, optional numbers): floats as their eight bytes."""


class Message:
    """The part of a Kafka message that decode uses."""

    def key(self) -> bytes:
        return b"key"

    def headers(self) -> None:
        return None


def chunk(side: Side, values: Sequence[bytes | None], times: Sequence[int] | None = None) -> Chunk:
    """Messages of one partition; their offsets are their indexes."""
    size = len(values)
    return Chunk(side, "topic", [Message()] * size, values, [0] * size, range(size), times or [RECORD_MS] * size)


def plain(side: Side, index: int = 0) -> bytes:
    """A message that needs no second look."""
    return b'{"symbol":"S%d","%s":%d.5,"timestamp":%s}' % (index, VALUE[side], index, STAMP)


def bits(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    """Rows that are equal only if their floats are, to the last bit."""
    return [tuple(map(bit_pattern, row)) for row in frame.rows()]


def verdicts(decoded: Decoded) -> list[Verdict]:
    """One for each message of the chunk, in order; every message must be one row or one untouched reject."""
    rows = {row[-2]: row[:-3] for row in bits(decoded.rows)}
    rejects = {reject.offset: reject for reject in decoded.rejects}
    values = decoded.chunk.values
    assert len(decoded.rows) == len(rows)
    assert len(decoded.rejects) == len(rejects)
    assert not rows.keys() & rejects.keys()
    assert rows.keys() | rejects.keys() == set(range(len(values))), "a message got lost, or came from nowhere"
    assert [*rows] == sorted(rows)
    assert [*rejects] == sorted(rejects)
    assert all(reject.value is values[offset] for offset, reject in rejects.items())
    return [rejects[index].reason.value if index in rejects else rows[index] for index in range(len(values))]


def one_by_one(together: Chunk, bounds: EventBounds) -> list[Verdict]:
    """The verdicts of the reader of single values and the checks of single rows, without any columns."""
    return [
        _verdict_alone(together.side, value, record_ms, bounds)
        for value, record_ms in zip(together.values, together.timestamps_ms.tolist(), strict=True)
    ]


def _verdict_alone(side: Side, value: bytes | None, record_ms: int, bounds: EventBounds) -> Verdict:
    if not value:
        return "empty"
    feed = FEEDS[side]
    found = fields_of(feed, value)
    fault = found if isinstance(found, Fault) else fault_of(feed, found, record_ms, bounds)
    if isinstance(found, Fault) or fault is not None:
        return fault.reason.value
    return (found.symbol, found.time, *(bit_pattern(found.numbers.get(name)) for name in feed.numbers))


def judged(side: Side, value: bytes | None, record_ms: int = RECORD_MS) -> Verdict:
    """The judge's verdict on one message."""
    verdict = reference.reason_of(reference.Record(side.value, "topic", 0, 0, b"key", value, record_ms))
    if isinstance(verdict, str):
        return verdict
    optional = [verdict[name] for name in reference.OPTIONAL[side.value]]
    return (verdict["symbol"], verdict["micros"], *map(bit_pattern, (verdict["value"], *optional)))


def disagreements(side: Side, values: Sequence[bytes | None], times: Sequence[int] | None = None) -> list[str]:
    """Where the readers differ from the judge: decode on the chunk, decode on each message, and the reader of single values."""
    together = chunk(side, values, times)
    at = together.timestamps_ms.tolist()
    wanted = [judged(side, value, record_ms) for value, record_ms in zip(values, at, strict=True)]
    found = {
        "together": verdicts(decode(together, BOUNDS)),
        "one by one": one_by_one(together, BOUNDS),
        "alone": [
            *(verdicts(decode(chunk(side, [v], [ms]), BOUNDS))[0] for v, ms in zip(values, at, strict=True)),
        ],
    }
    return [
        f"{how}: {shown(value)} at {record_ms} is {verdict}, not {right}"
        for how, given in found.items()
        for value, record_ms, verdict, right in zip(values, at, given, wanted, strict=True)
        if verdict != right
    ]


def time_disagreements(texts: Sequence[str]) -> list[str]:
    """Where the parsers of event times, the single one and that of many, differ from the judge."""
    wanted = [reference._iso(text) for text in texts]
    found = [parse_text(text) for text in texts]
    found_alone = [f"{text!r} is {f}, not {w}" for text, f, w in zip(texts, found, wanted, strict=True) if f != w]
    plain = [text for text in texts if not set(text) & {'"', "\\"} and text.isprintable()]
    return found_alone + [
        f"among others {literal} is {found}, not {right}"
        for literal, right in ((f'"{text}"', reference._iso(text)) for text in plain)
        if (found := among_others(literal)) not in (None, right)
    ]


def among_others(literal: str, *others: str) -> int | None:
    """What the parser of many literals makes of one that comes often, among ``others``; None if it leaves it."""
    literals = [text.encode() for text in (literal, *others)] * MANY
    micros, known = parse_alike(literals)
    step = 1 + len(others)
    assert len(set(micros[::step].tolist())) == len(set(known[::step].tolist())) == 1
    return int(micros[0]) if known[0] else None


def number_disagreements(literal: str) -> list[str]:
    """Where the parsers of epoch numbers differ from the judge."""
    wanted, found = reference._epoch(literal), parse_number(literal)
    right = wanted if abs(wanted) < 10**18 else UNREACHABLE
    wrong = [] if found == right else [f"{literal[:80]} is {found}, not {wanted}"]
    together = among_others(literal)
    return wrong if together in (None, right) else [*wrong, f"among others {literal[:80]} is {together}, not {wanted}"]


def shown(value: bytes | None) -> str:
    """A value for an error message, at a length that a person can read."""
    return repr(value) if value is None or len(value) < 300 else f"{value[:150]!r}…{value[-100:]!r} ({len(value)})"


def bit_pattern(value: object) -> object:
    return struct.pack(">d", value).hex() if isinstance(value, float) else value
