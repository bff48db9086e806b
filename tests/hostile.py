"""A hostile log: disorder, late days, repeats, bad messages of every kind, halves that never meet.

It imports nothing of the project.
"""

import json
import random
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import confluent_kafka as kafka

from tests.reference import Record


@dataclass(frozen=True)
class Thing:
    """A message to produce, into ``partition`` or where its key belongs."""

    side: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    partition: int | None = None


SYMBOLS = [
    "AAPL",
    "a",
    "Ünïcødé",
    '"quoted"',
    "back\\slash",
    "600519",
    "-1",
    "true",
    "日本",
    "x" * 64,
    "BRK.B",
    "{curly}",
]


def _stamp(rng: random.Random, micros: int) -> Any:
    """One instant in one of the forms that the contract knows."""
    moment = datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)
    form = rng.randrange(12)
    if form == 0:
        return micros * 1_000
    if form == 1:
        return micros
    if form == 2 and micros % 1_000 == 0:
        return micros // 1_000
    if form == 3 and micros % 1_000_000 == 0:
        return micros // 1_000_000
    if form == 4:
        return moment.isoformat(sep=" ")
    if form == 5:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"
    if form == 6:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")
    return moment.isoformat()


def _bad(rng: random.Random, side: str, symbol: str, micros: int) -> bytes | None:
    value = "price" if side == "prices" else "volume"
    good = {"symbol": symbol, value: 1.5, "timestamp": datetime.fromtimestamp(micros / 1e6, UTC).isoformat()}
    raw = json.dumps(good).encode()
    literal = json.dumps(good["timestamp"]).encode()
    kinds: list[bytes | None] = [
        None,
        b"",
        b"not json",
        raw[:-3],
        raw + b"x",
        b"[" + raw + b"]",
        b"\xef\xbb\xbf" + raw,
        raw.replace(b'"symbol"', b'"symbol\xff"', 1),
        raw.replace(b"1.5", b"NaN"),
        raw.replace(b"1.5", b"-Infinity"),
        raw.replace(b"1.5", b'"1.5"'),
        raw.replace(b"1.5", b"true"),
        raw.replace(b"1.5", b"null"),
        raw.replace(b"1.5", b"01"),
        raw.replace(b"1.5", b"1e400"),
        raw.replace(b"1.5", b"1.1e15"),
        raw.replace(literal, b'"yesterday"'),
        raw.replace(literal, b'"2026-02-30T00:00:00Z"'),
        raw.replace(literal, b"1e999999"),
        raw.replace(literal, b"12"),
        raw.replace(literal, b"{}"),
        raw.replace(b'"symbol"', b'"symbul"', 1),
        json.dumps(good | {"symbol": ""}).encode(),
        json.dumps(good | {"symbol": "y" * 65}).encode(),
        json.dumps(good | {"symbol": "tab\tbed"}).encode(),
        json.dumps(good | {"symbol": "nul\x00"}).encode(),
        json.dumps(good | {"symbol": 7}).encode(),
        b'{"symbol":"\\ud800","' + value.encode() + b'":1,"timestamp":' + literal + b"}",
        b"[" * 5_000,
    ]
    if side == "volumes":
        kinds.append(raw.replace(b"1.5", b"-1"))
    else:
        kinds.append(json.dumps(good | {"high_price": 1, "low_price": 2}).encode())
        kinds.append(json.dumps(good | {"open_price": "1"}).encode())
    return rng.choice(kinds)


def hostile_things(seed: int, messages: int, symbols: int = 40) -> list[Thing]:
    """Both sides of a market, in the order to produce: 20% late by seconds, 2% by days, 8% repeats, 4% bad."""
    rng = random.Random(seed)
    names = SYMBOLS + [f"SYM{number}" for number in range(max(0, symbols - len(SYMBOLS)))]
    start = (int(time.time()) - 3 * 86_400) * 1_000_000
    things: list[tuple[float, Thing]] = []
    known: list[tuple[str, str, int]] = []
    at, count = start, 0
    while count < messages:
        at += rng.choice((0, 1, 1_000, 250_000, 1_000_000, 30_000_000))
        symbol = rng.choice(names)
        sides = [rng.choice(("prices", "volumes"))] if rng.random() < 0.05 else ["prices", "volumes"]
        for side in sides:
            event, shown = at, symbol
            if known and rng.random() < 0.08:
                repeated = rng.choice(known[-500:])
                side, shown, event = repeated
            known.append((side, shown, event))
            late = rng.random()
            order = at + (rng.uniform(0, 2e8) if late < 0.20 else 0)
            if late > 0.98:
                event -= rng.randrange(1, 5) * 86_400_000_000
            key = shown.encode()
            if rng.random() < 0.04:
                value = _bad(rng, side, shown, event)
            else:
                value = json.dumps(_document(rng, side, shown, event), ensure_ascii=rng.random() < 0.5).encode()
            things.append((order, Thing(side, key, value, at // 1_000)))
            count += 1
    things.sort(key=lambda pair: pair[0])
    return [thing for _, thing in things[:messages]]


def _document(rng: random.Random, side: str, symbol: str, micros: int) -> dict[str, Any]:
    special = [0, -0.0, 1e15, 1e-300, 5e-324, 0.1, 7, 123456789.125]
    number = rng.choice(special) if rng.random() < 0.1 else rng.uniform(1, 500)
    document: dict[str, Any] = {"symbol": symbol, "timestamp": _stamp(rng, micros)}
    if side == "volumes":
        return document | {"volume": abs(number)}
    document["price"] = number * rng.choice((1, 1, 1, -1)) if number != 0 else number
    if rng.random() < 0.5:
        document |= {"open_price": rng.uniform(1, 500), "high_price": 500, "low_price": rng.choice((1, None, 2.5))}
    if rng.random() < 0.1:
        document["venue"] = {"nested": [1, {"symbol": "no"}]}
    return document


def produce(bootstrap: str, topics: dict[str, str], things: Iterable[Thing], partitions: int) -> None:
    """Produce into the log, by a stable hash of the key."""
    producer = kafka.Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "message.max.bytes": 10_000_000, "log_level": 2}
    )
    refused: list[str] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            refused.append(error.str())

    for thing in things:
        partition = zlib.crc32(thing.key or b"") % partitions if thing.partition is None else thing.partition
        while True:
            try:
                producer.produce(
                    topics[thing.side],
                    thing.value,
                    thing.key,
                    partition=partition,
                    timestamp=thing.timestamp_ms,
                    on_delivery=delivered,
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    assert not refused, f"the broker refused {len(refused)} messages: {refused[0]}"


def read_log(bootstrap: str, topics: dict[str, str]) -> list[Record]:
    """The whole log as a plain consumer sees it."""
    consumer = kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "judge",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,  # the broker answers at the log's end, too: each end would take half a second
        }
    )
    sides = {topic: side for side, topic in topics.items()}
    starts = [
        kafka.TopicPartition(topic, partition, kafka.OFFSET_BEGINNING)
        for topic in sides
        for partition in consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ]
    consumer.assign(starts)
    log: list[Record] = []
    ended: set[tuple[str, int]] = set()
    while len(ended) < len(starts):
        for message in consumer.consume(1000, 0.02):
            topic, error = message.topic(), message.error()
            if error is not None:
                assert error.code() == kafka.KafkaError._PARTITION_EOF, error
                ended.add((topic, message.partition()))
                continue
            where = (message.partition(), message.offset(), message.key(), message.value())
            log.append(Record(sides[topic], topic, *where, message.timestamp()[1]))
    consumer.close()
    return log
