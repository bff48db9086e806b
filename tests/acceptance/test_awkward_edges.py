"""The daemon's edges: settings, Kafka's options and passwords, HTTP, the group. Each mistake is reported, with the fix."""

import contextlib
import json
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.acceptance.beside import Beside
from tests.acceptance.guarded import Guarded, guarded_broker, options
from tests.acceptance.replica import Start
from tests.acceptance.world import World
from tests.hostile import hostile_things
from tests.waiting import until


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world with some messages in it."""
    world = World.make(kafka, database_url, topics)
    world.produce(hostile_things(seed=1, messages=50))
    return world


def refused(world: World, *words: str, command: tuple[str, ...] = ("run", "--once"), **settings: str) -> str:
    """Run a command that must end with exit code 2 and a last line that contains ``words``; gives that line."""
    done = world.tickloom(*command, timeout=60, **settings)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stdout + done.stderr[-2000:]
    assert last.startswith("tickloom: ")
    for part in words:
        assert part in last
    assert "secret-word" not in done.stderr
    return last


# --- settings ---------------------------------------------------------------------------------------------------


def test_kafka_options_from_a_file(world: World, tmp_path: Path) -> None:
    """People want to keep the SASL password in a file, and got "Input should be a valid dictionary"."""
    file = tmp_path / "tickloom_kafka_options"
    file.write_bytes('\ufeff{"client.rack": "a",\r\n "session.timeout.ms": 6000}\r\n'.encode())
    done = world.tickloom("run", "--once", TICKLOOM_KAFKA_OPTIONS_FILE=str(file))
    assert done.returncode == 0, done.stderr
    assert world.differences() == []
    done = world.tickloom("check", TICKLOOM_SECRETS_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text('{"sasl.password": "secret-word",}')
    refused(world, f"TICKLOOM_KAFKA_OPTIONS_FILE ({file}): not JSON", TICKLOOM_KAFKA_OPTIONS_FILE=str(file))
    refused(world, f"TICKLOOM_SECRETS_DIR ({file}): not JSON", TICKLOOM_SECRETS_DIR=str(tmp_path))


@pytest.mark.parametrize(
    "command", [("run",), ("run", "--once"), ("migrate",), ("verify",), ("bench", "--messages", "0"), ("demo",)]
)
def test_unknown_names_are_refused(
    database_url: str, topics: tuple[str, str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The daemon would go on with a default in place of what somebody has set: another window, another database."""
    world = World("127.0.0.1:1", database_url, dict(zip(("prices", "volumes"), topics, strict=True)))
    refused(world, "TICKLOOM_WINDOW_ROW ", "TICKLOOM_WINDOW_ROWS?", command=command, TICKLOOM_WINDOW_ROW="7")
    missing = str(tmp_path / "missing")
    refused(world, f"no folder {missing}", command=command, TICKLOOM_SECRETS_DIR=missing)
    (tmp_path / "tickloom_database_urll").write_text(database_url)
    refused(world, "tickloom_database_url?", command=command, TICKLOOM_SECRETS_DIR=str(tmp_path))


def test_check_says_unknown_names_beside_all_else(world: World, tmp_path: Path) -> None:
    """One mistake would hide the others."""
    missing = str(tmp_path / "missing")
    done = world.tickloom("check", TICKLOOM_WINDOW_ROW="7", TICKLOOM_SECRETS_DIR=missing)
    assert done.returncode == 3
    assert "TICKLOOM_WINDOW_ROWS?" in done.stdout
    assert missing in done.stdout
    assert "ok   broker" in done.stdout


@pytest.mark.parametrize("name", ["auto.offset.reset", "topic.auto.offset.reset", "Auto.Offset.Reset"])
def test_a_reset_cannot_hide_a_gap(world: World, name: str) -> None:
    """2,500 messages that retention took were counted as skipped: no gap, no halt."""
    message = refused(world, f"{name} cannot be overridden", TICKLOOM_KAFKA_OPTIONS=f'{{"{name}": "earliest"}}')
    assert "skipped silently" in message
    assert "TICKLOOM_GAP_POLICY" in message
    assert world.query("SELECT * FROM tickloom.offsets") == []


# --- Kafka lets nobody in ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """A broker with passwords, certificates and rights."""
    with guarded_broker() as broker:
        broker.let_in("s256", "SCRAM-SHA-256")
        broker.let_in("s512", "SCRAM-SHA-512")
        yield broker


@pytest.fixture
def behind(guarded: Guarded, database_url: str, topics: tuple[str, str]) -> World:
    """A world on that broker, with some messages in it; the user ``s256`` has the rights that the daemon needs."""
    world = World.make(guarded, database_url, topics)
    world.produce(hostile_things(seed=1, messages=50))
    for topic in topics:
        guarded.grant("s256", "topic", topic)
    guarded.grant("s256", "group", f"group-{topics[0]}")
    return world


def comes(guarded: Guarded, user: str, **others: str) -> dict[str, str]:
    """The settings of a daemon that logs in as ``user``."""
    chosen = options(user) | {name.replace("__", "."): value for name, value in others.items()}
    return {
        "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": guarded.guarded,
        "TICKLOOM_KAFKA_OPTIONS": json.dumps(chosen),
    }


@pytest.mark.parametrize(
    ("user", "mechanism"), [("s256", "SCRAM-SHA-256"), ("s512", "SCRAM-SHA-512"), ("plain", "PLAIN")]
)
def test_users_with_rights_get_in(guarded: Guarded, behind: World, user: str, mechanism: str) -> None:
    """A user with the right password, and the rights that the documentation names, would be refused."""
    for topic in behind.topics.values():
        guarded.grant(user, "topic", topic)
    guarded.grant(user, "group", f"group-{behind.topics['prices']}")
    settings = comes(guarded, user, sasl__mechanism=mechanism)
    done = behind.tickloom("run", "--once", **settings)
    assert done.returncode == 0, done.stderr
    assert behind.differences() == []


def test_check_says_why_kafka_lets_nobody_in(guarded: Guarded, behind: World) -> None:
    """Each of these was reported as "Broker transport failure": nobody knew whether to check the network or a password."""
    in_plain = {"TICKLOOM_KAFKA_OPTIONS": "{}"}
    tls = {"TICKLOOM_KAFKA_OPTIONS": '{"security.protocol": "ssl"}'}
    options_name, servers = "TICKLOOM_KAFKA_OPTIONS", "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"
    good = behind.tickloom("check", **comes(guarded, "s256"))
    assert good.returncode == 0, good.stdout + good.stderr
    cases: tuple[tuple[dict[str, str], tuple[str, ...]], ...] = (
        (
            comes(guarded, "s256", sasl__password="wrong-word"),
            ("'s256'", "SCRAM-SHA-256", guarded.guarded, "sasl.password"),
        ),
        (comes(guarded, "s512", sasl__mechanism="SCRAM-SHA-256"), ("'s512'", "SCRAM-SHA-256", "sasl.mechanism")),
        (
            comes(guarded, "plain", sasl__mechanism="PLAIN", sasl__password="x"),
            ("'plain'", "by PLAIN", "sasl.password"),
        ),
        (comes(guarded, "s512", sasl__mechanism="SCRAM-SHA-512"), ("'s512'", "READ and DESCRIBE on the topics")),
        (comes(guarded, "s256") | {servers: guarded.bootstrap}, (guarded.bootstrap, "security.protocol")),
        (tls | {servers: guarded.bootstrap}, (guarded.bootstrap, "SSL", "security.protocol")),
        (tls | {servers: guarded.tls}, (guarded.tls, "certificate", "ssl.ca.location")),
        (in_plain | {servers: guarded.tls}, (guarded.tls, "security.protocol", options_name)),
        (in_plain | {servers: guarded.guarded}, (guarded.guarded, "security.protocol", options_name)),
        (in_plain | {servers: "no-such-host.invalid:9092"}, ("no-such-host.invalid", "resolve", servers)),
        (in_plain | {servers: "127.0.0.1:1"}, ("127.0.0.1:1", "refused", servers)),
    )
    with ThreadPoolExecutor(len(cases)) as pool:  # each takes the ten seconds that a question to Kafka may take
        runs = list(pool.map(lambda case: behind.tickloom("check", **case[0]), cases))
    for done, (_, words) in zip(runs, cases, strict=True):
        assert done.returncode == 3, done.stdout + done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("BAD  broker")]
        assert [part for part in words if part not in line] == []
        assert "word" not in line.replace("sasl.password", "").replace("password", "")


@pytest.mark.parametrize("fault", ["password", "topic", "read", "group", "certificate"])
def test_what_kafka_refuses_at_the_start_is_a_mistake(guarded: Guarded, behind: World, fault: str) -> None:
    """A daemon that never worked would "wait" for ever, and look alive."""
    prices, group = behind.topics["prices"], f"group-{behind.topics['prices']}"
    settings = comes(guarded, "s256")
    match fault:
        case "password":
            message = "does not let 's256' in"
            settings = comes(guarded, "s256", sasl__password="wrong-word")
        case "topic":
            message = "grant 's256' READ and DESCRIBE"
            guarded.withdraw("s256", "topic", prices)
        case "read":
            message = "grant 's256' READ and DESCRIBE"
            guarded.withdraw("s256", "topic", prices)
            guarded.grant("s256", "topic", prices, "DESCRIBE")
        case "group":
            message = "grant 's256' READ on the group"
            guarded.withdraw("s256", "group", group)
        case _:
            message = "ssl.ca.location"
            settings = {
                "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": guarded.tls,
                "TICKLOOM_KAFKA_OPTIONS": '{"security.protocol": "ssl"}',
            }
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(behind.tickloom, "check", **settings)
        last = refused(behind, message, command=("run",), **settings)
        checked = checking.result()
    assert "wrong-word" not in last
    assert checked.returncode == 3, checked.stdout
    assert message in checked.stdout


@pytest.mark.parametrize("fault", ["password", "user", "topic", "group"])
def test_what_kafka_refuses_later_is_waited_out(guarded: Guarded, behind: World, start: Start, fault: str) -> None:
    """A rotated password, or a right that is withdrawn by mistake, would end all replicas before somebody can fix it."""
    user = f"u-{behind.topics['prices']}"
    group = f"group-{behind.topics['prices']}"
    resources = [("group", group), *(("topic", topic) for topic in behind.topics.values())]
    guarded.let_in(user)
    for kind, name in resources:
        guarded.grant(user, kind, name)
    retries = 'target="kafka"'
    with start(behind, **comes(guarded, user)) as daemon:
        until(lambda: behind.loaded() == 50)
        assert daemon.series("tickloom_retries_total").get(retries, 0) == 0
        match fault:
            case "password":
                guarded.let_in(user, password="another-word")
                message = f"does not let '{user}' in"
            case "user":
                guarded.turn_away(user)
                message = f"does not let '{user}' in"
            case "topic":
                guarded.withdraw(user, *resources[1])
                message = f"grant '{user}' READ and DESCRIBE"
            case _:
                guarded.withdraw(user, *resources[0])
                message = f"grant '{user}' READ on the group"
        until(lambda: message in daemon.output())
        until(lambda: daemon.series("tickloom_retries_total").get(retries, 0) > 0)
        if fault in ("password", "user"):
            until(lambda: daemon.get("/readyz")[0] == 503 and message in daemon.get("/readyz")[1])
            assert daemon.get("/livez")[0] == 200
        behind.produce(hostile_things(seed=2, messages=50))
        assert daemon.process.poll() is None
        guarded.let_in(user)
        for kind, name in resources:
            guarded.grant(user, kind, name)
        until(lambda: behind.loaded() == 100)
        daemon.stop()
        assert daemon.output().count(message) < 20, "nobody reads a flood"
    assert behind.differences() == []


# --- HTTP -------------------------------------------------------------------------------------------------------


class Crowd(Beside):
    """Connections that other clients hold open: idle, with half a request, or with an answer that is never read. New ones replace old ones."""

    _SAY = (b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    def __init__(self, port: int, size: int) -> None:
        super().__init__()
        self._port = port
        self._size = size

    def run(self) -> None:
        held: deque[socket.socket] = deque()
        says = cycle(self._SAY)
        while not self.stop.wait(0.005 if len(held) < self._size else 0.05):
            channel = socket.socket()
            channel.setblocking(False)
            with contextlib.suppress(OSError):
                channel.connect_ex(("127.0.0.1", self._port))
                channel.send(next(says))
            held.append(channel)
            if len(held) > self._size:
                held.popleft().close()
        for channel in held:
            channel.close()


def test_a_crowd_at_the_http_port(world: World, start: Start) -> None:
    """260 connections and `ulimit -n 200` left no descriptor for Postgres, and the flow stood still."""
    port = services.free_port()
    with start(world, TICKLOOM_HTTP_PORT=str(port)) as daemon:
        process_id = daemon.process.pid
        resource.prlimit(process_id, resource.RLIMIT_NOFILE, (200, 200))
        until(lambda: daemon.get("/readyz")[0] == 200)
        before = len(os.listdir(f"/proc/{process_id}/fd"))
        with Crowd(port, 260):
            time.sleep(2)  # by then they are all there
            alive = 0
            for seed in range(2, 6):
                world.produce(hostile_things(seed=seed, messages=500))
                world.query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^tickloom '"
                )
                alive += daemon.get("/livez", seconds=2)[0] == 200
                assert len(os.listdir(f"/proc/{process_id}/fd")) < before + 48
            until(lambda: world.loaded() == 2_050)
            assert alive == 4
    assert "cannot accept" not in daemon.output()
    assert world.differences() == []


# --- two groups on one database ---------------------------------------------------------------------------------


def test_two_groups_on_one_database(world: World, start: Start) -> None:
    """They took the partitions from each other for ever, fenced again and again, and no message said why."""
    group = world.environment["TICKLOOM_KAFKA_GROUP_ID"]
    daemon = start(world)
    until(lambda: world.loaded() == 50)
    other = {"TICKLOOM_KAFKA_GROUP_ID": "it's another"}
    last = refused(world, f"filled by the group '{group}'", "TICKLOOM_KAFKA_GROUP_ID to", command=("run",), **other)
    checked = world.tickloom("check", **other)
    assert checked.returncode == 3
    assert f"filled by the group '{group}'" in checked.stdout
    assert daemon.process.poll() is None
    # The statement that the message names makes the other one the owner; the first, if it still runs, ends.
    world.query(last.partition(" and run: ")[2])
    world.produce(hostile_things(seed=2, messages=50))
    world.drain(**other)
    world.produce(hostile_things(seed=3, messages=50))
    assert "filled by the group" in daemon.mistake()
    world.drain(**other)
    assert world.differences() == []


def test_a_database_that_knows_no_group_yet(world: World) -> None:
    """A daemon would be refused the tables that an earlier version filled, or they would never record its group."""
    world.drain()
    world.query("ALTER TABLE tickloom.source DROP COLUMN group_id")
    world.query("DROP TABLE tickloom.migrations")
    refused(world, "at version 0", "run `tickloom migrate`")
    assert world.tickloom("migrate").returncode == 0
    done = world.tickloom("run", "--once")
    assert done.returncode == 0, done.stderr
    assert world.query("SELECT group_id FROM tickloom.source") == [(world.environment["TICKLOOM_KAFKA_GROUP_ID"],)]


def test_two_replicas_of_one_name(world: World, start: Start) -> None:
    """The replica whose name was taken stayed "idle", and took the partitions back with each message that arrived."""
    options = '{"group.instance.id": "same", "session.timeout.ms": 6000, "heartbeat.interval.ms": 500}'
    first = start(world, TICKLOOM_KAFKA_OPTIONS=options)
    until(lambda: world.loaded() == 50)
    second = start(world, TICKLOOM_KAFKA_OPTIONS=options)
    assert "give each its own, or none, in TICKLOOM_KAFKA_OPTIONS" in first.mistake()
    world.produce(hostile_things(seed=2, messages=50))
    until(lambda: world.loaded() == 100)
    second.stop()
    assert world.differences() == []
