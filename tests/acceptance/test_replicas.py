"""Replicas come, go, die and fall asleep; the tables stay exact. Those that cannot share the topics say so."""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.acceptance.partitioners import into_other_partitions, into_unequal_topics, with_other_keys, without_keys
from tests.acceptance.replica import PROTOCOLS, Start
from tests.acceptance.world import World
from tests.hostile import Thing, hostile_things
from tests.waiting import until

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@protocols
def test_replicas_come_and_go(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start, protocol: str
) -> None:
    """A replica that joins, leaves or wakes up would load rows twice, or leave partitions without a reader."""
    world = World.make(kafka, database_url, topics, partitions=6)
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "500", "TICKLOOM_KAFKA_OPTIONS": PROTOCOLS[protocol]}
    things = hostile_things(seed=21, messages=10_000)

    def owned_by(count: int) -> None:
        until(lambda: world.owners() == count)

    def read_to(end: int) -> None:
        until(lambda: world.loaded() == end)

    first = start(world)
    world.produce(things[:2_000])
    read_to(2_000)
    second = start(world)
    sleeper = start(world, module="tests.acceptance.faulty", FAULTS="freeze@before_commit:1")
    owned_by(3)

    world.produce(things[2_000:5_000])
    until(sleeper.frozen)  # in the midst of a batch, with the ledger's rows locked
    read_to(5_000)  # past the session timeout: the others have its partitions, and what it had not finished
    sleeper.process.send_signal(signal.SIGCONT)
    until(lambda: "fenced" in sleeper.events())
    until(lambda: "took over" in sleeper.events()[sleeper.events().index("fenced") :])  # it has joined again
    owned_by(3)

    world.produce(things[5_000:7_500])
    second.kill()
    read_to(7_500)
    owned_by(2)
    world.produce(things[7_500:])
    sleeper.stop()
    read_to(10_000)
    owned_by(1)
    first.stop()
    assert world.differences() == []


KEYS_FIX = "run one replica, or key the messages of both topics by symbol with the same partitioner"


@pytest.mark.parametrize(
    ("protocol", "arrange", "partitions", "fix"),
    [
        ("classic", without_keys, (6, 6), "run one replica, or key the messages by symbol"),
        ("consumer", without_keys, (6, 6), "run one replica, or key the messages by symbol"),
        ("consumer", with_other_keys, (6, 6), KEYS_FIX),
        ("classic", into_other_partitions, (2, 2), KEYS_FIX),
        ("classic", into_unequal_topics, (8, 6), "or give both topics the same number of partitions"),
        ("consumer", into_unequal_topics, (8, 6), "or give both topics the same number of partitions"),
    ],
    ids=[
        "unkeyed-classic",
        "unkeyed-consumer",
        "other keys",
        "other partitioner",
        "unequal-classic",
        "unequal-consumer",
    ],
)
def test_topics_for_one_replica(
    kafka: Any,
    database_url: str,
    topics: tuple[str, str],
    start: Start,
    protocol: str,
    arrange: Callable[[list[Thing]], list[Thing]],
    partitions: tuple[int, int],
    fix: str,
) -> None:
    """Two replicas with half of a symbol's rows each would compute wrong averages; a careless start would stop both."""
    of_prices, of_volumes = partitions
    world = World.make(kafka, database_url, topics, of_volumes)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": PROTOCOLS[protocol]}
    if of_prices > of_volumes:
        admin = AdminClient({"bootstrap.servers": world.bootstrap})
        admin.create_partitions([NewPartitions(topics[0], of_prices)])[topics[0]].result(30)
    things = arrange(hostile_things(seed=22, messages=3_000))
    first = start(world)
    world.produce(things[:1_000])
    until(lambda: world.loaded() == 1_000)
    second = start(world)
    until(lambda: world.owners() == 2 or second.process.poll() is not None)
    world.produce(things[1_000:2_000])
    assert fix in second.mistake()
    world.produce(things[2_000:])
    until(lambda: world.loaded() == 3_000)
    assert first.process.poll() is None
    first.stop()
    assert world.differences() == []


def test_replicas_that_start_on_empty_tables(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start
) -> None:
    """On empty tables neither sees the other's half of a symbol: pairs would be left out, and nobody would know."""
    world = World.make(kafka, database_url, topics, 2)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": PROTOCOLS["classic"]}
    things = into_other_partitions(hostile_things(seed=23, messages=2_000))
    first = start(world)
    until(lambda: world.owners() == 1)
    second = start(world)
    until(lambda: world.owners() == 2)
    portions = iter([things[at : at + 100] for at in range(0, 2_000, 100)])
    while second.process.poll() is None:
        world.produce(next(portions))
        time.sleep(0.5)  # one more batch each
    assert KEYS_FIX in second.mistake()
    for portion in portions:
        world.produce(portion)
    until(lambda: world.loaded() == 2_000)
    assert first.process.poll() is None
    first.stop()
    assert world.differences() == []
