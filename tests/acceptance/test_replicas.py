"""Replicas come, go, die and fall asleep; the tables stay exact. Those that cannot share the topics say so."""

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.acceptance.test_bad_days import frozen, until
from tests.acceptance.world import World
from tests.hostile import Thing, hostile_things

READ = "SELECT coalesce(sum(next_offset), 0)::int FROM tickloom.offsets"
OWNERS = "SELECT count(DISTINCT owner)::int FROM tickloom.offsets"
PROTOCOLS = {
    "classic": '{"session.timeout.ms": 2000, "heartbeat.interval.ms": 500}',
    "consumer": '{"group.protocol": "consumer", "group.remote.assignor": "range"}',
}

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@dataclass
class Replica:
    """A daemon whose words are kept."""

    process: subprocess.Popen[str]
    log: Path

    def events(self) -> list[str]:
        """What it has logged, in order."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [json.loads(line)["event"] for line in lines]

    def get(self, path: str) -> tuple[int, str]:
        """The answer of its HTTP port."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        address = next(line["address"] for line in lines if line["event"] == "serving")
        try:
            with urllib.request.urlopen(address.replace("metrics", path), timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def frozen(self) -> bool:
        """Whether it lies in SIGSTOP."""
        return frozen(self.process.pid)

    def leaves(self) -> None:
        """Ends in order when asked to."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()[-3000:]

    def dies(self) -> None:
        """Ends at once, also when frozen."""
        self.process.kill()
        self.process.wait()


Start: TypeAlias = Callable[..., Replica]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts replicas of a world, by a name each; those that are left at the end are killed."""
    replicas: list[Replica] = []

    def start_one(world: World, name: str, **options: str) -> Replica:
        log = tmp_path / name
        with log.open("w") as output:
            replicas.append(Replica(world.start("run", output=output, **options), log))
        return replicas[-1]

    yield start_one
    for replica in replicas:
        replica.dies()


@protocols
def test_replicas_come_and_go(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start, protocol: str
) -> None:
    """A replica too many, too few or too late would load rows twice, or leave some to nobody."""
    world = World.make(kafka, database_url, topics, partitions=6)
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "500", "TICKLOOM_KAFKA_OPTIONS": PROTOCOLS[protocol]}
    things = hostile_things(seed=21, messages=10_000)

    def owned_by(count: int) -> None:
        until(lambda: world.query(OWNERS)[0][0] == count)

    def read_to(end: int) -> None:
        until(lambda: world.query(READ)[0][0] == end)

    first = start(world, "first")
    world.produce(things[:2_000])
    read_to(2_000)
    second = start(world, "second")
    sleeper = start(world, "sleeper", module="tests.acceptance.faulty", FAULTS="freeze@before_commit:1")
    owned_by(3)

    world.produce(things[2_000:5_000])
    until(sleeper.frozen)  # in the midst of a batch, with the ledger's rows locked
    read_to(5_000)  # past the session timeout: the others have its partitions, and what it had not finished
    sleeper.process.send_signal(signal.SIGCONT)
    until(lambda: "fenced" in sleeper.events())
    until(lambda: "took over" in sleeper.events()[sleeper.events().index("fenced") :])  # it has joined anew
    owned_by(3)

    world.produce(things[5_000:7_500])
    second.dies()
    read_to(7_500)
    owned_by(2)
    world.produce(things[7_500:])
    sleeper.leaves()
    read_to(10_000)
    owned_by(1)
    first.leaves()
    assert world.differences() == []


def _without_keys(things: list[Thing]) -> list[Thing]:
    return [replace(thing, key=None, partition=index % 6) for index, thing in enumerate(things)]


def _with_other_keys(things: list[Thing]) -> list[Thing]:
    """Prices keyed by symbol, volumes by what another team found fit."""
    return [replace(thing, key=(thing.key or b"")[::-1] + thing.side.encode()) for thing in things]


def _into_other_partitions(things: list[Thing]) -> list[Thing]:
    """Keyed by symbol on both sides, but by different partitioners: no replica ever sees both halves."""
    return [
        replace(thing, partition=(zlib.crc32(thing.key or b"") + (thing.side == "volumes")) % 2) for thing in things
    ]


def _into_unequal_topics(things: list[Thing]) -> list[Thing]:
    count = {"prices": 8, "volumes": 6}
    return [replace(thing, partition=zlib.crc32(thing.key or b"") % count[thing.side]) for thing in things]


KEYS_MEND = "run one replica, or key the messages of both topics by symbol with the same partitioner"


@pytest.mark.parametrize(
    ("protocol", "arrange", "partitions", "mend"),
    [
        ("classic", _without_keys, (6, 6), "run one replica, or key the messages by symbol"),
        ("consumer", _without_keys, (6, 6), "run one replica, or key the messages by symbol"),
        ("consumer", _with_other_keys, (6, 6), KEYS_MEND),
        ("classic", _into_other_partitions, (2, 2), KEYS_MEND),
        ("classic", _into_unequal_topics, (8, 6), "or give both topics the same number of partitions"),
        ("consumer", _into_unequal_topics, (8, 6), "or give both topics the same number of partitions"),
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
    mend: str,
) -> None:
    """Two replicas with half of a symbol's rows each would compute wrong averages; a careless start would stop both."""
    of_prices, of_volumes = partitions
    world = World.make(kafka, database_url, topics, of_volumes)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": PROTOCOLS[protocol]}
    if of_prices > of_volumes:
        admin = AdminClient({"bootstrap.servers": world.bootstrap})
        admin.create_partitions([NewPartitions(topics[0], of_prices)])[topics[0]].result(30)
    things = arrange(hostile_things(seed=22, messages=3_000))
    first = start(world, "first")
    world.produce(things[:1_000])
    until(lambda: world.query(READ)[0][0] == 1_000)
    second = start(world, "second")
    until(lambda: world.query(OWNERS)[0][0] == 2 or second.process.poll() is not None)
    world.produce(things[1_000:2_000])
    assert second.process.wait(60) == 2, second.log.read_text()[-3000:]
    assert mend in second.log.read_text().splitlines()[-1]
    world.produce(things[2_000:])
    until(lambda: world.query(READ)[0][0] == 3_000)
    assert first.process.poll() is None
    first.leaves()
    assert world.differences() == []


def test_replicas_that_start_on_empty_tables(
    kafka: Any, database_url: str, topics: tuple[str, str], start: Start
) -> None:
    """On empty tables neither sees the other's half of a symbol: pairs would be left out, and nobody would know."""
    world = World.make(kafka, database_url, topics, 2)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": PROTOCOLS["classic"]}
    things = _into_other_partitions(hostile_things(seed=23, messages=2_000))
    first = start(world, "first")
    until(lambda: world.query(OWNERS)[0][0] == 1)
    second = start(world, "second")
    until(lambda: world.query(OWNERS)[0][0] == 2)
    portions = iter([things[at : at + 100] for at in range(0, 2_000, 100)])
    while second.process.poll() is None:
        world.produce(next(portions))
        time.sleep(0.5)  # one more batch each
    assert second.process.returncode == 2, second.log.read_text()[-3000:]
    assert KEYS_MEND in second.log.read_text().splitlines()[-1]
    for portion in portions:
        world.produce(portion)
    until(lambda: world.query(READ)[0][0] == 2_000)
    assert first.process.poll() is None
    first.leaves()
    assert world.differences() == []
