"""Replicas come, go and fall asleep; the tables stay exact."""

import signal
import time
from typing import Any

from tests.acceptance.test_bad_days import until
from tests.acceptance.world import World
from tests.hostile import Thing, hostile_things

READ = "SELECT coalesce(sum(next_offset), 0)::int FROM tickloom.offsets"
OWNERS = "SELECT count(DISTINCT owner)::int FROM tickloom.offsets"


def test_replicas_come_and_go(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A second replica would load rows twice, or leave some to nobody."""
    world = World.make(kafka, database_url, topics, partitions=6)
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "500"}
    things = hostile_things(seed=21, messages=12_000)
    first = world.start("run")
    world.produce(things[:4_000])
    until(lambda: world.query(READ)[0][0] == 4_000)
    second = world.start("run")
    until(lambda: world.query(OWNERS)[0][0] == 2)
    world.produce(things[4_000:8_000])
    until(lambda: world.query(READ)[0][0] == 8_000)
    second.send_signal(signal.SIGSTOP)
    world.produce(things[8_000:])
    until(lambda: world.query(READ)[0][0] == 12_000, 60)  # the group notices after the session timeout
    second.send_signal(signal.SIGCONT)
    until(lambda: world.query(OWNERS)[0][0] == 2)  # the zombie has joined anew
    for daemon in (first, second):
        daemon.send_signal(signal.SIGTERM)
        _, told = daemon.communicate(timeout=60)
        assert daemon.returncode == 0, told[-2000:]
    assert world.differences() == []


def test_messages_without_keys_are_for_one_replica(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Two replicas with half of a symbol's rows each would both compute wrong averages."""
    world = World.make(kafka, database_url, topics, partitions=2)
    now = int(time.time() * 1000)
    value = b'{"symbol":"A","price":1,"volume":2,"timestamp":%d}'
    stamps = range(now, now + 2_000)
    first = world.start("run")
    hostile = [Thing(side, None, value % stamp, stamp) for stamp in stamps for side in ("prices", "volumes")]
    world.produce(hostile[:2_000])
    until(lambda: world.query(READ)[0][0] == 2_000)
    second = world.start("run")
    until(lambda: world.query(OWNERS)[0][0] == 2 or second.poll() is not None)
    import confluent_kafka

    producer = confluent_kafka.Producer({"bootstrap.servers": kafka.bootstrap})
    for index, thing in enumerate(hostile[2_000:]):
        producer.produce(world.topics[thing.side], thing.value, partition=index % 2, timestamp=thing.timestamp_ms)
    producer.flush(30)
    _, told = second.communicate(timeout=60)
    assert second.returncode == 2, told[-2000:]
    assert "run one replica" in told.strip().splitlines()[-1]
    until(lambda: world.query(READ)[0][0] == 4_000, 60)
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 0, told[-2000:]
    assert world.differences() == []
