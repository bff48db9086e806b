"""A dead letter is the message as it was: key, value, headers and time come back from the table byte by byte."""

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests import services
from tests.acceptance.world import World
from tests.reference import FIRST, LAST
from tests.wire import Raw, produce

NOW_MS = 1_790_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1), "message.timestamp.before.max.ms": str(2**63 - 1)}
ALL_BYTES = bytes(range(256))
AMAZON = "アマゾン".encode()


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world of one partition, whose broker takes records of any time."""
    world = World(kafka.bootstrap, database_url, dict(zip(("prices", "volumes"), topics, strict=True)), partitions=1)
    for name in topics:
        services.create_topic(kafka.bootstrap, name, 1, ANY_TIME)
    done = world.tickloom("migrate")
    assert done.returncode == 0, done.stderr
    world.settings |= {"TICKLOOM_REJECT_LIMIT_RATIO": "1"}
    return world


def letters(world: World) -> list[tuple[Any, ...]]:
    """Key, value, headers, time, reason and detail of all dead letters of the prices, in the log's order."""

    async def ask() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(world.database_url)
        try:
            return [
                tuple(row)
                for row in await connection.fetch(
                    "SELECT key, value, headers, record_timestamp, reason, detail FROM tickloom.dead_letters "
                    'WHERE topic = $1 ORDER BY partition, "offset"',
                    world.topics["prices"],
                )
            ]
        finally:
            await connection.close()

    return asyncio.run(ask())


def drain(world: World, records: list[Raw]) -> None:
    """Produce the records as prices, and load them."""
    volume = Raw(b"V", b'{"symbol":"V","volume":1,"timestamp":%d}' % NOW_MS, [], NOW_MS)
    produce(world.bootstrap, world.topics["volumes"], 0, [volume])
    produce(world.bootstrap, world.topics["prices"], 0, records)
    done = world.tickloom("run", "--once")
    assert done.returncode == 0, done.stderr[-3_000:]
    assert world.differences() == [], world.differences()


def test_every_byte_comes_back(world: World) -> None:
    """Rejected messages could not be inspected, fixed and sent again."""
    records = [
        Raw(None, None, [], NOW_MS),
        Raw(b"", None, [], NOW_MS),
        Raw(None, b"", [], NOW_MS),
        Raw(b"", b"", [(b"", b"")], NOW_MS),
        Raw(ALL_BYTES, ALL_BYTES, [(b"all", ALL_BYTES)], NOW_MS),
        Raw(b"\x00", b"\x00" * 1_000, [(b"nul", b"\x00")], NOW_MS),
        Raw(b"\xff\xfe", b"\xed\xa0\x80\xc0\x80", [(b"not utf-8", b"\xff")], NOW_MS),
        Raw(b"\\x5c'", b"\\x41\\000\\\\", [(b'quoted "name" \\', b"'\\'")], NOW_MS),
        Raw(b"k", b"{", [(b"same", b"1"), (b"other", None), (b"same", b"2"), (b"same", None), (b"same", b"")], NOW_MS),
        Raw(
            b"k",
            b"{",
            [(AMAZON, AMAZON), ("Ünïcødé 😀".encode(), b"x"), (b"\n\t\x1b\x7f", b"x"), (b"\\u0000", b"x")],
            NOW_MS,
        ),
        Raw(b"k" * 10_000, b"[" * 1_000_000, [(b"h" * 10_000, b"v" * 10_000)], NOW_MS),
        Raw(b"k", bytes(1_000_000), [(b"%d" % number, b"%d" % number) for number in range(500)], NOW_MS),
    ]
    drain(world, records)
    found = letters(world)
    assert [row[:2] for row in found] == [(record.key, record.value) for record in records]
    for record, (_, _, headers, at, reason, detail) in zip(records, found, strict=True):
        encoded = [(each["name"].encode(), each["base64"]) for each in json.loads(headers)]
        assert [(name, text if text is None else base64.b64decode(text)) for name, text in encoded] == record.headers
        assert at == EPOCH + timedelta(milliseconds=NOW_MS)
        assert reason == ("not_json" if record.value else "empty")
        assert detail


def test_any_records_time(world: World) -> None:
    """One record from the year 33658, from before 1970, or without a time would stop the daemon at each start."""
    ms = [-1, -2, -5_001, 0, 1, 999, NOW_MS, -(2**63), 2**63 - 1, 2**51, 9_223_372_036_854_775]
    ms += [FIRST // 1_000 - 1, FIRST // 1_000, LAST // 1_000 - 1, LAST // 1_000]
    bad = [Raw(b"A", b"no", [], at) for at in ms]
    same = [Raw(b"A", b'{"symbol":"A%d","price":1,"timestamp":%d}' % (at, at * 1_000_000), [], at) for at in ms]
    texts = [
        b"0001-12-31T23:59:59.999999",
        b"0001-01-01T00:00:00+00:01",
        b"0002-01-01T00:00:00",
        b"9998-12-31T23:59:59.999999",
        b"9999-12-31T23:59:59-23:59",
    ]
    old, new = FIRST // 1_000, LAST // 1_000
    ends = [
        Raw(b"B", b'{"symbol":"B%d","price":1,"timestamp":"%s"}' % (at, text), [], at)
        for at in (old, new)
        for text in texts
    ]
    drain(world, [*bad, *same, *ends])
    times = [row[3] for row in letters(world)][: len(ms)]
    wanted = [EPOCH + timedelta(milliseconds=at) if at != -1 and FIRST <= at * 1_000 < LAST else None for at in ms]
    assert times == wanted
    rows = world.query("""SELECT symbol, "timestamp" FROM stock_prices WHERE symbol LIKE 'B%' ORDER BY "timestamp" """)
    assert [row[1] for row in rows] == [
        datetime(2, 1, 1, tzinfo=UTC),
        datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]


def test_a_headers_name_that_no_client_can_read(world: World) -> None:
    """One header, of a good message or a bad one, would kill the daemon: the client hands out a list with a hole in it."""
    names = [(b"good", b"1"), (b"\xff\xfe", b"2"), (b"good too", b"3")]
    good = b'{"symbol":"A","price":1,"timestamp":%d}' % NOW_MS
    plain = [Raw(b"A", b"no", [(b"name", b"%d" % number)], NOW_MS) for number in range(200)]
    drain(world, [*plain, Raw(b"A", good, names, NOW_MS), Raw(b"A", b"no", names, NOW_MS), *plain])
    found = letters(world)
    assert len(found) == 401
    key, value, headers, _, reason, detail = found[200]
    assert (key, value, json.loads(headers), reason) == (b"A", b"no", [], "not_json")
    assert detail.endswith("its headers are lost, since one of their names is not UTF-8")
    assert [json.loads(row[2])[0]["base64"] for row in found[:200]] == [
        base64.b64encode(b"%d" % n).decode() for n in range(200)
    ]
