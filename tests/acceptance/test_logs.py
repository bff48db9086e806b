"""Logs that are not a plain row of messages: truncated, compacted, written in transactions."""

import signal
import time
from typing import Any

import confluent_kafka as kafka_client
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests import hostile, services
from tests.acceptance.world import World
from tests.hostile import hostile_things
from tests.reference import Record
from tests.waiting import until


def _truncate(world: World, below: int) -> None:
    """Retention takes all offsets below this one of every partition."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    cut = [
        kafka_client.TopicPartition(topic, number, below)
        for topic in world.topics.values()
        for number in range(world.partitions)
    ]
    for done in admin.delete_records(cut).values():
        done.result(30)


def _read_log(world: World) -> list[Record]:
    return hostile.read_log(world.bootstrap, world.topics)


def _without_gaps(world: World, log: list[Record]) -> list[Record]:
    gaps = world.query("SELECT topic, partition, from_offset, to_offset FROM tickloom.gaps")
    assert gaps
    return [
        record
        for record in log
        if not any((record.topic, record.partition) == gap[:2] and gap[2] <= record.offset < gap[3] for gap in gaps)
    ]


def test_retention_ran_ahead(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Rows would be missing from the tables and nobody would ever know."""
    world = World.make(kafka, database_url, topics, partitions=2)
    things = hostile_things(seed=41, messages=6_000)
    world.produce(things[:2_000])
    world.drain()
    world.produce(things[2_000:4_000])
    log = _read_log(world)
    _truncate(world, 900)
    world.produce(things[4_000:])
    log += [record for record in _read_log(world) if record not in set(log)]
    before = world.query("SELECT topic, partition, next_offset FROM tickloom.offsets ORDER BY 1, 2")
    done = world.tickloom("run", "--once")
    assert done.returncode == 2
    behind = [(topic, number, offset) for topic, number, offset in before if offset < 900]
    assert behind, "the truncation must go past the ledger somewhere"
    topic, number, offset = behind[0]
    last = done.stderr.strip().splitlines()[-1]
    assert f"{topic} partition {number} has lost the offsets {offset} to 899" in last
    assert "TICKLOOM_GAP_POLICY=continue" in last
    assert world.query("SELECT topic, partition, next_offset FROM tickloom.offsets ORDER BY 1, 2") == before
    done = world.tickloom("run", "--once", TICKLOOM_GAP_POLICY="continue")
    assert done.returncode == 0, done.stderr[-2000:]
    found = world.query("SELECT topic, partition, from_offset, to_offset, policy FROM tickloom.gaps ORDER BY 1, 2")
    assert found == [(*lost, 900, "continue") for lost in behind]
    missing = world.query("SELECT sum(missing)::int FROM tickloom.offsets")[0][0]
    assert missing == sum(900 - offset for _, _, offset in behind)
    assert world.differences(log=_without_gaps(world, log)) == []


def test_retention_runs_ahead_of_a_sleeper(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A daemon that slept too long would go on behind the hole as if nothing were missing."""
    world = World.make(kafka, database_url, topics, partitions=2)
    world.settings |= {"TICKLOOM_GAP_POLICY": "continue"}
    things = hostile_things(seed=42, messages=6_000)
    daemon = world.start("run")
    world.produce(things[:1_000])
    until(lambda: world.loaded() == 1_000)
    daemon.send_signal(signal.SIGSTOP)
    world.produce(things[1_000:5_000])
    log = _read_log(world)
    _truncate(world, 1_100)
    world.produce(things[5_000:])
    log += [record for record in _read_log(world) if record not in set(log)]
    daemon.send_signal(signal.SIGCONT)
    until(lambda: world.loaded() == 6_000)
    daemon.send_signal(signal.SIGTERM)
    _, output = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, output[-2000:]
    assert world.differences(log=_without_gaps(world, log)) == []


def test_transactions(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Aborted messages would become rows, or their offsets would stop the ledger."""
    world = World.make(kafka, database_url, topics, partitions=2)
    config = {"bootstrap.servers": kafka.bootstrap, "transactional.id": topics[0], "linger.ms": 5}
    producer = kafka_client.Producer(config)
    producer.init_transactions(30)
    things = hostile_things(seed=43, messages=4_000)
    aborted = 0
    for number, start in enumerate(range(0, len(things), 250)):
        producer.begin_transaction()
        for thing in things[start : start + 250]:
            partition = sum(thing.key or b"") % 2
            topic = world.topics[thing.side]
            producer.produce(topic, thing.value, thing.key, partition=partition, timestamp=thing.timestamp_ms)
        producer.flush(30)
        if number % 3 == 1:
            aborted += 250
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    world.drain()
    log = _read_log(world)
    assert len(log) == 4_000 - aborted
    assert world.query("SELECT sum(skipped)::int FROM tickloom.offsets")[0][0] > aborted, "with their markers"
    assert world.differences(log=log) == []


def test_compaction(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """The holes that compaction leaves would be taken for lost messages, or stop the ledger."""
    world = World.make(kafka, database_url, topics, partitions=1)
    for topic in topics:
        compact = {"cleanup.policy": "compact", "segment.ms": "200", "min.cleanable.dirty.ratio": "0.01"}
        _configure(kafka.bootstrap, topic, compact | {"max.compaction.lag.ms": "1000"})
    things = hostile_things(seed=44, messages=3_000)
    for start in range(0, 3_000, 500):
        world.produce(things[start : start + 500])
        time.sleep(0.3)  # so that segments are closed, which alone are compacted
    until(lambda: len(_read_log(world)) < 2_000)
    for topic in topics:
        _configure(kafka.bootstrap, topic, {"cleanup.policy": "delete", "segment.ms": "200"})
    world.drain()
    assert world.query("SELECT sum(skipped)::int FROM tickloom.offsets")[0][0] > 1_000
    assert world.differences() == []


def test_recreated_topics(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Another log under the same name would be taken for the rest of the old one."""
    world = World.make(kafka, database_url, topics, partitions=2)
    world.produce(hostile_things(seed=45, messages=2_000))
    world.drain()
    untouched = "topic, partition, next_offset, stored, superseded, dead, skipped, missing"
    ledger = f"SELECT {untouched} FROM tickloom.offsets ORDER BY topic, partition"
    before = world.query(ledger)
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    for deleted in admin.delete_topics(list(topics)).values():
        deleted.result(30)
    for topic in topics:
        until(lambda topic=topic: topic not in admin.list_topics(timeout=5).topics)
        services.create_topic(world.bootstrap, topic, 2)
    world.produce(hostile_things(seed=46, messages=200))
    for policy in ("halt", "continue"):
        done = world.tickloom("run", "--once", TICKLOOM_GAP_POLICY=policy)
        assert done.returncode == 2, done.stderr[-2000:]
        assert "created again" in done.stderr
        assert "empty database" in done.stderr.strip().splitlines()[-1]
    assert world.query(ledger) == before
    assert world.query("SELECT count(*) FROM tickloom.gaps")[0][0] == 0


def _configure(bootstrap: str, topic: str, config: dict[str, str]) -> None:
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)
