"""What is done to topics while daemons run: partitions are added, a topic is deleted and created again."""

import json
import signal
import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from tests import services
from tests.acceptance.partitioners import into_other_partitions
from tests.acceptance.replica import PROTOCOLS, Replica, Start
from tests.acceptance.world import World
from tests.hostile import Thing, hostile_things
from tests.waiting import until

STANDING_BY = "standing by: another replica reads all partitions until the topics can be shared again"


def options_of(protocol: str) -> str:
    """Kafka options that notice new partitions within a second."""
    return json.dumps(json.loads(PROTOCOLS[protocol]) | {"topic.metadata.refresh.interval.ms": 1000})


def add_partitions(world: World, count: int, *sides: str) -> None:
    """Raise these topics to ``count`` partitions."""
    for side in sides or ("prices", "volumes"):
        services.add_partitions(world.bootstrap, world.topics[side], count)


def recreate(world: World, side: str, partitions: int) -> None:
    """Delete a topic and create one of the same name."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    topic = world.topics[side]
    admin.delete_topics([topic])[topic].result(30)
    until(lambda: topic not in admin.list_topics(timeout=10).topics)
    services.create_topic(world.bootstrap, topic, partitions)


def sent_with(world: World, things: list[Thing], partitions: int) -> None:
    """Produce as a client that knows of this number of partitions."""
    replace(world, partitions=partitions).produce(things)


@pytest.mark.parametrize("sides", [("prices",), ("volumes",), ("prices", "volumes")], ids="+".join)
def test_partitions_are_added_under_one_replica(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start, sides: tuple[str, ...]
) -> None:
    """It waited for ever for another replica to leave, although there was none."""
    world = World.make(kafka, database_url, topics, partitions=4)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": options_of("classic")}
    things = hostile_things(seed=31, messages=3_000)
    replica = start(world)
    world.produce(things[:1_000])
    until(lambda: world.loaded() == 1_000)
    add_partitions(world, 6, *sides)
    for side in ("prices", "volumes"):
        mine = [thing for thing in things[1_000:] if thing.side == side]
        sent_with(world, mine, 6 if side in sides else 4)
    until(lambda: world.loaded() == 3_000)
    replica.stop()
    assert world.differences() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_replicas_scale_out_by_adding_partitions(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start, protocol: str
) -> None:
    """Adding partitions, which is how people scale, stopped both replicas and left wrong averages."""
    world = World.make(kafka, database_url, topics, partitions=4)
    world.settings |= {
        "TICKLOOM_KAFKA_OPTIONS": options_of(protocol),
        "TICKLOOM_BATCH_MAX_MESSAGES": "300",
        "TICKLOOM_SHARE_AFTER_SECONDS": "3",
    }
    things = hostile_things(seed=32, messages=24_000)
    portions = iter([things[at : at + 200] for at in range(0, len(things), 200)])
    random = Random(32)

    def feed(portions_to_send: int, *known: int) -> None:
        """By producers that know of these numbers of partitions, in random order."""
        for _ in range(portions_to_send):
            sent_with(world, next(portions), random.choice(known))

    replicas = {name: start(world) for name in ("a", "b")}
    feed(10, 4)
    until(lambda: world.owners() == 2)
    feed(10, 4)  # a backlog in the old partitions
    add_partitions(world, 8)
    feed(20, 4, 8)
    replicas["a"].kill()
    feed(10, 4, 8)
    replicas |= {name: start(world) for name in ("c", "d")}
    feed(20, 8)
    until(lambda: world.owners() == 3, 90)  # c, d and b share again
    feed(5, 4)  # somebody who still has not heard of the new partitions
    feed(10, 8)
    add_partitions(world, 12, "volumes")
    feed(5, 8)
    add_partitions(world, 12, "prices")
    feed(10, 8, 12)
    replicas["c"].process.send_signal(signal.SIGSTOP)
    feed(10, 12)
    replicas["c"].process.send_signal(signal.SIGCONT)
    feed(10, 12)
    until(lambda: world.loaded() == len(things), 120)
    until(lambda: world.owners() == 3, 90)
    for name in ("b", "c", "d"):
        replicas[name].stop()
    assert world.differences() == []


def test_a_replica_that_stands_by_says_so(kafka: Any, database_url: str, topics: tuple[str, str], start: Start) -> None:
    """A replica that stands by looked idle while messages waited, and a rollout would have waited for it for ever."""
    world = World.make(kafka, database_url, topics, partitions=2)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": options_of("classic"), "TICKLOOM_SHARE_AFTER_SECONDS": "600"}
    replicas = [start(world) for _ in range(2)]
    until(lambda: world.owners() == 2)
    add_partitions(world, 4)
    until(lambda: sum(STANDING_BY in replica.events() for replica in replicas) == 1)
    standing_by = next(replica for replica in replicas if STANDING_BY in replica.events())
    sent_with(world, hostile_things(seed=33, messages=500), 4)
    until(lambda: world.loaded() == 500)
    assert world.owners() == 1
    for path in ("livez", "readyz"):
        until(
            lambda path=path: standing_by.get(f"/{path}")[0] == 200 and "standing by" in standing_by.get(f"/{path}")[1]
        )
    for replica in replicas:
        replica.stop()
    assert world.differences() == []


def test_a_correction_in_a_new_partition_wins(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start
) -> None:
    """The correction lost to the older value, whose offset in the symbol's old partition was higher."""
    world = World.make(kafka, database_url, topics, partitions=1)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": options_of("classic")}
    now = int(time.time() * 1_000)

    def price(value: float, later_ms: int, partition: int) -> Thing:
        body = json.dumps({"symbol": "A", "price": value, "timestamp": now}).encode()
        return Thing("prices", b"A", body, now + later_ms, partition)

    replica = start(world)
    volume = json.dumps({"symbol": "A", "volume": 1, "timestamp": now}).encode()
    world.produce([Thing("volumes", b"A", volume, now, 0)])
    world.produce([price(number, number, 0) for number in range(50)])
    until(lambda: world.query("SELECT price FROM stock_prices") == [(49.0,)])
    add_partitions(world, 2)
    sent_with(world, [price(1_000.5, 100, 1)], 2)
    until(lambda: world.query("SELECT price, source_partition FROM stock_prices") == [(1000.5, 1)])
    replica.stop()
    replica = start(world)
    sent_with(world, [price(7.0, 90, 0)], 2)  # somebody is late, in the old partition
    until(lambda: world.loaded() == 53)
    assert world.query("SELECT price FROM stock_prices") == [(1000.5,)]
    replica.stop()
    assert world.differences() == []


@pytest.mark.parametrize("running", [False, True], ids=["at rest", "running"])
def test_a_topic_that_was_recreated(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start, running: bool
) -> None:
    """The daemon went on in the middle of another log; its first messages were lost, and ``verify`` said exact."""
    world = World.make(kafka, database_url, topics, partitions=1)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": options_of("classic")}
    things = hostile_things(seed=34, messages=600)
    prices = [thing for thing in things if thing.side == "prices"]
    replica = start(world)
    world.produce(prices[:100])
    until(lambda: world.loaded() == 100)
    if not running:
        replica.stop()
    recreate(world, "prices", 1)
    world.produce(prices[100:250])
    if not running:
        replica = start(world)
    last = replica.mistake()
    # A running daemon may first see that the log ends before the ledger, and only then that the topic is another one.
    words = (f"topic {topics[0]} was deleted and created again", f"{topics[0]} partition 0 ends at offset")
    assert any(each in last for each in words[: 1 + running]), last
    assert "empty database" in last
    assert world.loaded() == 100
    assert world.query("SELECT count(*)::int FROM stock_prices")[0][0] <= 100
    done = world.tickloom("check")
    assert done.returncode == 3
    assert "was deleted and created again" in done.stdout


def test_check_finds_a_topic_that_is_compacted(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Compaction would remove prices before they are read, and they would be counted as skipped."""
    world = World.make(kafka, database_url, topics, partitions=1)
    assert "messages are kept until they are old" in world.tickloom("check").stdout
    compacted = f"compacted-{topics[1]}"
    services.create_topic(world.bootstrap, compacted, 1, {"cleanup.policy": "compact,delete"})
    done = world.tickloom("check", TICKLOOM_VOLUMES_TOPIC=compacted)
    assert done.returncode == 3
    assert f"topic {compacted} has cleanup.policy=compact,delete" in done.stdout


def test_two_that_each_worked_alone_on_torn_topics(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start
) -> None:
    """Each waited for the other to leave."""
    world = World.make(kafka, database_url, topics, 2)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": options_of("classic")}
    things = into_other_partitions(hostile_things(seed=35, messages=2_000))
    replicas: list[Replica] = [start(world)]
    until(lambda: world.owners() == 1)
    replicas.append(start(world))
    until(lambda: world.owners() == 2)
    replicas[0].process.send_signal(signal.SIGSTOP)  # past the session timeout: the second has it all
    until(lambda: world.owners() == 1)
    replicas[0].process.send_signal(signal.SIGCONT)
    until(lambda: world.owners() == 2)
    for at in range(0, 2_000, 200):
        world.produce(things[at : at + 200])
        time.sleep(0.3)
    until(lambda: world.loaded() == 2_000)
    for replica in replicas:
        assert replica.process.poll() is None, replica.output()[-3000:]
        replica.stop()
    assert world.differences() == []
