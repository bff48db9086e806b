"""`python -m producer` against a real broker: what it says it delivered is there, as the contract says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 90


@pytest.fixture
def environment(kafka: Any) -> Mapping[str, str]:
    """The producer's environment: the real broker, and two topics of this test alone."""
    run_id = uuid4().hex[:8]
    servers = kafka.bootstrap
    return os.environ | {
        "PRODUCER_BOOTSTRAP_SERVERS": servers,
        "PRODUCER_PRICES_TOPIC": f"prices-{run_id}",
        "PRODUCER_VOLUMES_TOPIC": f"volumes-{run_id}",
    }


@contextmanager
def started(environment: Mapping[str, str], *options: str) -> Generator[subprocess.Popen[str]]:
    """The producer, running; killed at the end where it still does."""
    command = [sys.executable, "-m", "producer", "--create-topics", "--partitions", "3", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(environment), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def finished(environment: Mapping[str, str], *options: str) -> str:
    """What the producer says when it has ended by itself, with exit code 0."""
    with started(environment, *options) as process:
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, errors
        return errors


def read_back(environment: Mapping[str, str], side: str) -> Iterator[Message]:
    """All messages of that side's topic, partition by partition, up to the ends as they are now."""
    topic = environment[f"PRODUCER_{side}_TOPIC"]
    consumer = Consumer(
        {
            "bootstrap.servers": environment["PRODUCER_BOOTSTRAP_SERVERS"],
            "group.id": f"read-{topic}",
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic].partitions
    try:
        for partition in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
            if low < high:
                consumer.assign([TopicPartition(topic, partition, low)])
                yield from _until(consumer, high)
    finally:
        consumer.close()


def _until(consumer: Consumer, high: int) -> Iterator[Message]:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            continue
        assert message.error() is None
        yield message
        if (message.offset() or 0) + 1 >= high:
            return
    pytest.fail("the broker did not give back what it said it has")


def test_history_and_live_arrive_keyed_and_whole(environment: Mapping[str, str]) -> None:
    """As many messages as asked for, joinable, and each symbol in one partition of its own."""
    options = ("--records", "300", "--days", "2", "--count", "660", "--symbols", "20", "--rate", "200")
    errors = finished(environment, *options)
    assert "delivered 660, failed 0" in errors
    prices, volumes = list(read_back(environment, "PRICES")), list(read_back(environment, "VOLUMES"))
    assert (len(prices), len(volumes)) == (330, 330)
    homes: dict[bytes, set[int | None]] = {}
    for message in [*prices, *volumes]:
        assert json.loads(_bytes(message.value()))["symbol"].encode() == message.key()
        homes.setdefault(_bytes(message.key()), set()).add(message.partition())
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert {_event(message) for message in prices} == {_event(message) for message in volumes}


def test_history_carries_the_event_time_as_record_timestamp(environment: Mapping[str, str]) -> None:
    """The daemon's bounds and lag go by the record's timestamp: stamped "now", history would show neither."""
    finished(environment, "--records", "50", "--days", "5", "--count", "100")
    stamps = sorted(message.timestamp()[1] for message in read_back(environment, "PRICES"))
    now_ms = time.time() * 1_000
    assert len(stamps) == 50
    assert 4.5 * 86_400_000 < now_ms - stamps[0] < 5.5 * 86_400_000


def test_messages_of_a_shape(environment: Mapping[str, str]) -> None:
    """A user could not try tickloom on messages like those in production."""
    shaped = {**environment, "PRODUCER_SHAPE": "digits"}
    finished(shaped, "--records", "50", "--symbols", "20", "--count", "120", "--rate", "500")
    messages = list(read_back(environment, "PRICES"))
    assert len(messages) == 60
    assert {json.loads(_bytes(message.value()))["symbol"].encode() for message in messages} == {
        _bytes(message.key()) for message in messages
    }
    assert all(_bytes(message.key())[:1].isdigit() for message in messages)


def test_an_unknown_shape(environment: Mapping[str, str]) -> None:
    """A misspelt name sends nothing."""
    with started(environment, "--shape", "nonsense") as process:
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 2
    assert "realistic" in errors


def test_sigterm_delivers_what_is_under_way_and_exits_0(environment: Mapping[str, str]) -> None:
    """Stopping a container loses no message that was counted as delivered."""
    with started(environment, "--records", "10", "--rate", "500", "--symbols", "5") as process:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not _arrived(environment) and time.monotonic() < deadline:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, errors
    delivered = sum(1 for side in ("PRICES", "VOLUMES") for _ in read_back(environment, side))
    assert f"delivered {delivered}, failed 0" in errors


def _arrived(environment: Mapping[str, str]) -> bool:
    """Whether the volumes' topic is there and has some live messages; asks the broker."""
    servers = environment["PRODUCER_BOOTSTRAP_SERVERS"]
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "ends"})
    topic = environment["PRODUCER_VOLUMES_TOPIC"]
    try:
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=5)[1] for p in range(3)) > 50
    except KafkaException:  # not created yet, or without a leader yet
        return False
    finally:
        consumer.close()


def _bytes(raw: str | bytes | None) -> bytes:
    assert isinstance(raw, bytes)
    return raw


def _event(message: Message) -> tuple[str, str]:
    value = json.loads(_bytes(message.value()))
    return value["symbol"], value["timestamp"]
