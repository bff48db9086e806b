"""What an operator can see: what is away, what waits and why, and that nothing ends silently."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import confluent_kafka as kafka_client
import pytest
from confluent_kafka.admin import AdminClient

from tests import services
from tests.acceptance.faulty_chores import CHORES
from tests.acceptance.proxy import Proxy
from tests.acceptance.replica import Replica, Start
from tests.acceptance.world import QUICK, World
from tests.hostile import Thing, hostile_things
from tests.waiting import until

NOTICED_SECONDS = 10.0
SESSION_TIMEOUT_SECONDS = 10.0


def at_rest(daemon: Replica, world: World, messages: int) -> None:
    """Wait until all is loaded, and known to be."""
    until(lambda: world.loaded() == messages)
    until(lambda: sum(daemon.series("tickloom_lag_messages").values()) == 0, 10)
    until(lambda: len(daemon.series("tickloom_lag_messages")) == 2 * world.partitions, 10)
    assert daemon.get("/readyz") == (200, "ready")
    assert daemon.get("/livez") == (200, "idle: nothing to read")


def outage_is_shown(daemon: Replica, name: str, since: float) -> None:
    """Wait until everything that an operator sees shows the outage."""
    target = name.lower()
    until(lambda: daemon.up(target) == 0, NOTICED_SECONDS - (time.time() - since))
    assert daemon.series("tickloom_up_changed_timestamp_seconds")[f'target="{target}"'] >= since
    status, why = daemon.get("/readyz")
    assert status == 503
    assert f"waiting for {name} since 20" in why
    assert daemon.get("/livez") == (200, why), "a restart would not help"
    assert daemon.lines(f"{name} is away")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_broker_away_at_rest(
    broker: services.Kafka, database_url: str, topics: tuple[str, str], start: Start, how: signal.Signals
) -> None:
    """An outage of the broker in a quiet hour would be seen by no alert, and the lag be shown as 0."""
    world = World.make(broker, database_url, topics, partitions=2)
    world.produce(hostile_things(seed=91, messages=100))
    daemon = start(world)
    at_rest(daemon, world, 100)
    since = time.time()
    assert broker._process is not None
    broker._process.child.send_signal(how)
    outage_is_shown(daemon, "Kafka", since)
    assert daemon.series("tickloom_lag_messages") == daemon.series("tickloom_lag_seconds") == {}
    if how is signal.SIGKILL:
        until(lambda: "Connection refused" in daemon.get("/readyz")[1], NOTICED_SECONDS)
        broker.kill()
        broker.start()
    else:
        broker._process.child.send_signal(signal.SIGCONT)
    until(lambda: daemon.up("kafka") == 1, NOTICED_SECONDS)
    assert daemon.lines("Kafka is back")
    # The group may first have to give up its member from before the outage, which takes a session timeout.
    until(lambda: daemon.get("/readyz") == (200, "ready"), SESSION_TIMEOUT_SECONDS + NOTICED_SECONDS)
    world.produce(hostile_things(seed=92, messages=100))
    until(lambda: world.loaded() == 200, 30)
    daemon.stop()


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_database_away_at_rest(
    kafka: Any, postgres: Any, database_url: str, topics: tuple[str, str], start: Start, how: str
) -> None:
    """An outage of the database while nothing is loaded would be noticed with the first message of the day."""
    world = World.make(kafka, database_url, topics, partitions=2)
    world.produce(hostile_things(seed=93, messages=100))
    with Proxy(postgres.port) as proxy:
        behind = database_url.replace(f":{postgres.port}/", f":{proxy.port}/")
        daemon = start(world, TICKLOOM_DATABASE_URL=behind)
        at_rest(daemon, world, 100)
        since = time.time()
        if how == "refused":
            proxy.refuse(True)
            proxy.cut()
        else:
            proxy.stall()
        outage_is_shown(daemon, "Postgres", since)
        assert sum(daemon.series("tickloom_lag_messages").values()) == 0, "Kafka says where the logs end"
        proxy.refuse(False)
        proxy.resume()
        until(lambda: daemon.get("/readyz") == (200, "ready") and daemon.up("postgres") == 1, NOTICED_SECONDS)
        assert daemon.lines("Postgres is back")
        daemon.stop()


def test_database_away_while_messages_wait(
    kafka: Any, postgres: Any, database_url: str, topics: tuple[str, str], start: Start
) -> None:
    """A daemon that waits for the database would be restarted again and again, or show a lag that stands still."""
    world = World.make(kafka, database_url, topics, partitions=2)
    things = hostile_things(seed=94, messages=400)
    world.produce(things[:100])
    with Proxy(postgres.port) as proxy:
        behind = database_url.replace(f":{postgres.port}/", f":{proxy.port}/")
        daemon = start(
            world, TICKLOOM_DATABASE_URL=behind, TICKLOOM_STUCK_AFTER_SECONDS="1", TICKLOOM_RETRY_MAX_SECONDS="5"
        )
        at_rest(daemon, world, 100)
        proxy.refuse(True)
        proxy.cut()
        world.produce(things[100:])
        until(lambda: sum(daemon.series("tickloom_lag_messages").values()) == 300, NOTICED_SECONDS)
        until(lambda: max(daemon.series("tickloom_lag_seconds").values()) > 6, 10)
        status, why = daemon.get("/livez")
        assert (status, "waiting for Postgres since 20" in why) == (200, True), why
        assert daemon.series("tickloom_retries_total")['target="postgres"'] >= 2
        proxy.refuse(False)
        until(lambda: world.loaded() == 400)
        assert daemon.get("/livez")[0] == 200, "what was waited for is over, and does not count as standing still"
        daemon.stop()
    assert world.differences() == []


def test_lag_moves_while_nothing_is_committed(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start
) -> None:
    """A stuck daemon would go on showing the lag of its last commit, and a partition that is in no batch none."""
    world = World.make(kafka, database_url, topics, partitions=2)
    things = hostile_things(seed=95, messages=300)
    world.produce(things[:100])
    daemon = start(world, TICKLOOM_STUCK_AFTER_SECONDS="4")
    at_rest(daemon, world, 100)
    holder = services_connection(world, "LOCK TABLE tickloom.offsets IN SHARE ROW EXCLUSIVE MODE")
    try:
        world.produce(things[100:])
        until(lambda: sum(daemon.series("tickloom_lag_messages").values()) == 200, NOTICED_SECONDS)
        lags, waits = daemon.series("tickloom_lag_messages"), daemon.series("tickloom_lag_seconds")
        assert lags.keys() == waits.keys()
        until(lambda: all(daemon.series("tickloom_lag_seconds")[at] > 3 for at, lag in lags.items() if lag), 10)
        until(lambda: daemon.get("/livez")[0] == 503, 10)
        assert re.search(r"stuck: 200 messages wait and nothing moved for \d s", daemon.get("/livez")[1])
    finally:
        holder.kill()
        holder.wait()
    until(lambda: world.loaded() == 300)
    until(lambda: set(daemon.series("tickloom_lag_seconds").values()) == {0.0}, 10)
    assert daemon.get("/livez")[0] == 200
    daemon.stop()


def services_connection(world: World, statement: str) -> "subprocess.Popen[bytes]":
    """A session that has run ``statement`` in a transaction and stays in it, until it is killed."""
    program = (
        "import asyncio, asyncpg, sys\n"
        "async def hold():\n"
        "    connection = await asyncpg.connect(sys.argv[1])\n"
        "    await connection.execute('BEGIN')\n"
        "    await connection.execute(sys.argv[2])\n"
        "    print('held', flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(hold())\n"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", program, world.database_url, statement],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert held.stdout is not None
    with held.stdout as output:
        assert output.readline() == b"held\n"
    return held


def test_open_transaction(kafka: Any, database_url: str, topics: tuple[str, str], start: Start) -> None:
    """A producer that forgets to end its transaction would get a healthy daemon killed in a circle, or hang a drain."""
    world = World.make(kafka, database_url, topics, partitions=1)
    world.produce(hostile_things(seed=96, messages=100))
    daemon = start(world, TICKLOOM_STUCK_AFTER_SECONDS="2")
    at_rest(daemon, world, 100)
    producer = kafka_client.Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topics[0]})
    producer.init_transactions(30)
    producer.begin_transaction()
    for thing in (thing for thing in hostile_things(seed=97, messages=100) if thing.side == "prices"):
        producer.produce(topics[0], thing.value, thing.key, timestamp=thing.timestamp_ms)
    producer.flush(30)
    world.produce([Thing("prices", b"A", b"{}", 1_790_000_000_000)])  # committed, yet behind the open one
    open_ones = daemon.series
    until(lambda: len(open_ones("tickloom_open_transaction_messages")) == 1, 10)
    until(lambda: open_ones("tickloom_open_transaction_seconds").get(f'partition="0",topic="{topics[0]}"', 0) > 4, 10)
    assert sum(daemon.series("tickloom_lag_messages").values()) == 0
    assert daemon.get("/livez") == (200, "idle: nothing to read")
    drained = world.tickloom("run", "--once", "--output", "json", "--max-seconds", "20")
    assert drained.returncode == 0, drained.stderr[-2000:]
    assert json.loads(drained.stdout)["drained"] is True
    assert set(json.loads(drained.stdout)["lag"].values()) == {0}
    until(lambda: daemon.lines("a producer's transaction stays open"), 20)
    producer.commit_transaction(30)
    until(lambda: daemon.lines("the open transaction has ended"), 10)
    until(lambda: world.loaded() > 150)
    until(lambda: set(daemon.series("tickloom_lag_messages").values()) == {0.0}, 10)
    assert daemon.series("tickloom_open_transaction_messages") == {}
    daemon.stop()
    assert world.differences() == []


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_more_replicas_than_partitions(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start, protocol: str
) -> None:
    """A rollout that adds a replica before it takes one away would never end; the spare one would show another's lag."""
    world = World.make(kafka, database_url, topics, partitions=1)
    options: Mapping[str, str] = QUICK
    if protocol == "consumer":
        options = {"TICKLOOM_KAFKA_OPTIONS": '{"group.protocol": "consumer"}'}
    world.settings |= options
    world.produce(hostile_things(seed=98, messages=100))
    replicas = [start(world)]
    at_rest(replicas[0], world, 100)
    replicas.append(start(world))
    until(lambda: {one.get("/readyz")[0] for one in replicas} == {200}, 30)
    until(lambda: sorted(one.series("tickloom_assigned_partitions").get("", 0) for one in replicas) == [0, 2], 10)
    spare, owner = sorted(replicas, key=lambda one: one.series("tickloom_assigned_partitions")[""])
    assert spare.get("/readyz") == (200, "standing by: all partitions are owned by others")
    assert spare.get("/livez") == spare.get("/readyz")
    until(lambda: owner.get("/readyz") == (200, "ready"), 10)
    assert spare.series("tickloom_lag_messages") == spare.series("tickloom_lag_seconds") == {}
    until(lambda: len(owner.series("tickloom_lag_messages")) == 2, 10)
    owner.stop()
    until(lambda: spare.get("/readyz") == (200, "ready"), 30)
    world.produce(hostile_things(seed=99, messages=100))
    until(lambda: world.loaded() == 200)
    spare.stop()


def test_lag_of_lost_partitions_goes(kafka: Any, database_url: str, topics: tuple[str, str], start: Start) -> None:
    """A replica that handed partitions over would go on showing their lag, and fail for messages that are not its own."""
    world = World.make(kafka, database_url, topics, partitions=2)
    world.settings |= QUICK
    world.produce(hostile_things(seed=100, messages=200))
    first = start(world)
    at_rest(first, world, 200)
    second = start(world)

    def shown() -> list[set[str]]:
        return [set(one.series("tickloom_lag_messages")) for one in (first, second)]

    until(lambda: [len(one) for one in shown()] == [2, 2], 30)
    assert not set.intersection(*shown())
    first.stop()
    second.stop()


def test_others_handle_the_group(kafka: Any, database_url: str, topics: tuple[str, str], start: Start) -> None:
    """Offsets that another tool has reset, or a group that it deleted, would have the log read again, or skipped."""
    world = World.make(kafka, database_url, topics, partitions=2)
    world.settings |= QUICK
    things = hostile_things(seed=102, messages=300)
    world.produce(things[:100])
    daemon = start(world)
    at_rest(daemon, world, 100)
    group, admin = f"group-{topics[0]}", AdminClient({"bootstrap.servers": kafka.bootstrap})
    daemon.process.send_signal(signal.SIGSTOP)
    until(lambda: not admin.describe_consumer_groups([group])[group].result(10).members, 10)
    admin.delete_consumer_groups([group])[group].result(10)
    world.produce(things[100:200])
    daemon.process.send_signal(signal.SIGCONT)
    until(lambda: world.loaded() == 200, 30)
    until(lambda: daemon.get("/readyz") == (200, "ready"), 10)
    daemon.stop()
    firsts = [kafka_client.TopicPartition(topic, number, 0) for topic in topics for number in range(2)]
    reset = kafka_client.ConsumerGroupTopicPartitions(group, firsts)
    admin.alter_consumer_group_offsets([reset])[group].result(10)
    world.produce(things[200:])
    world.drain()
    assert world.loaded() == 300
    assert world.differences() == []


@pytest.mark.parametrize("chore", CHORES)
def test_a_dead_chore_ends_the_daemon(kafka: Any, database_url: str, topics: tuple[str, str], chore: str) -> None:
    """Housekeeping, or the group's messenger, would be dead in silence beside a daemon that says it is healthy."""
    world = World.make(kafka, database_url, topics, partitions=1)
    done = world.tickloom("run", module="tests.acceptance.faulty_chores", timeout=30, FAULT=f"raise@{chore}")
    assert done.returncode == 1, done.stderr[-2000:]
    (line,) = [json.loads(line) for line in done.stderr.splitlines() if "a chore has failed" in line]
    assert chore in line["chore"]
    assert "Traceback" in line["exception"]
    assert "RuntimeError: nobody expected this" in line["exception"]
    assert "left the group" in done.stderr, "all else ends as at a stop"


def test_a_subscriber_that_fails_ends_the_daemon(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Metrics, or the health of the daemon, would stand still in silence beside a flow that goes on."""
    world = World.make(kafka, database_url, topics, partitions=1)
    world.produce(hostile_things(seed=103, messages=100))
    done = world.tickloom("run", module="tests.acceptance.faulty_chores", timeout=30, FAULT="raise@subscriber")
    assert done.returncode == 1, done.stderr[-2000:]
    assert "RuntimeError: nobody expected this" in done.stderr
    world.drain()
    assert world.differences() == [], "what was committed is committed"


def test_stopped_while_a_connection_is_closed(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """The cancellation would be lost with the connection, and SIGTERM hang until SIGKILL."""
    world = World.make(kafka, database_url, topics, partitions=1)
    command = [sys.executable, "-m", "tests.acceptance.faulty_chores", "run"]
    with subprocess.Popen(
        command,
        env=world.environment | {"FAULT": "slow@close"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "fault\n"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0


@pytest.mark.parametrize("what", ["kafka at the start", "kafka", "postgres"])
def test_stopped_in_an_outage(
    broker: services.Kafka, postgres: Any, database_url: str, topics: tuple[str, str], start: Start, what: str
) -> None:
    """A silent broker or database would keep a daemon from ending until it is killed."""
    world = World.make(broker, database_url, topics, partitions=1)
    things = hostile_things(seed=101, messages=200)
    world.produce(things[:100])
    assert broker._process is not None
    with Proxy(postgres.port) as proxy:
        behind = database_url.replace(f":{postgres.port}/", f":{proxy.port}/")
        world.settings |= {"TICKLOOM_REVOKE_TIMEOUT_SECONDS": "2", "TICKLOOM_DATABASE_URL": behind}
        if what == "kafka at the start":
            broker._process.child.send_signal(signal.SIGSTOP)
            daemon = start(world)
            until(lambda: daemon.up("postgres") == 1, 20)
        else:
            daemon = start(world)
            at_rest(daemon, world, 100)
            if what == "kafka":
                broker._process.child.send_signal(signal.SIGSTOP)
                until(lambda: daemon.up("kafka") == 0, NOTICED_SECONDS)
            else:
                proxy.stall()
                world.produce(things[100:])
                until(lambda: daemon.up("postgres") == 0, NOTICED_SECONDS)
        started = time.monotonic()
        assert daemon.end() in (0, 1)
        assert time.monotonic() - started < 2 + 15
