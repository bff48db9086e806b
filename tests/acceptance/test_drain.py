"""The bounded drain, as a command and as a call in a process that is not ours."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import structlog
from confluent_kafka.admin import AdminClient

from tests import services
from tests.acceptance.world import QUICK, World
from tests.hostile import Thing, hostile_things, read_log
from tests.waiting import until
from tickloom import Ended, drain, load_settings
from tickloom.errors import LogLost, Mistake, SourceUnavailable, StoreUnavailable
from tickloom.settings import Settings

SUMS = (
    "SELECT coalesce(sum(stored), 0)::int, coalesce(sum(superseded), 0)::int, coalesce(sum(dead), 0)::int "
    "FROM tickloom.offsets"
)


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world whose group soon notices dead replicas."""
    world = World.make(kafka, database_url, topics)
    world.settings |= QUICK
    return world


def settings_of(world: World, monkeypatch: pytest.MonkeyPatch, **more: str) -> Settings:
    """The settings that the daemon would read from its environment."""
    for name, value in (world.environment | more).items():
        if name.startswith("TICKLOOM_"):
            monkeypatch.setenv(name, value)
    return load_settings()


def run_once(world: World, *arguments: str, code: int = 0) -> dict[str, Any]:
    """``tickloom run --once --output json``: its summary."""
    done = world.tickloom("run", "--once", "--output", "json", *arguments)
    assert done.returncode == code, done.stderr[-3000:]
    return json.loads(done.stdout) if code == 0 else {"stderr": done.stderr}


def test_as_many_messages_as_asked(world: World) -> None:
    """Small steps would lose, double or bend something at their borders, or the summary would not say what is left."""
    world.produce(hostile_things(seed=51, messages=4_000))
    steps = [run_once(world, "--max-messages", "700") for _ in range(2)]
    assert [step["messages"] for step in steps] == [700, 700]
    assert [step["ended"] for step in steps] == ["max_messages"] * 2
    assert sum(steps[-1]["lag"].values()) == 2_600
    assert world.loaded() == 1_400
    steps.append(run_once(world, "--max-messages", "1000000"))
    assert (steps[-1]["ended"], steps[-1]["drained"], steps[-1]["messages"]) == ("drained", True, 2_600)
    assert steps[-1]["lag"] == dict.fromkeys(world.topics.values(), 0)
    sums = tuple(sum(step[name] for step in steps) for name in ("stored", "superseded", "rejected"))
    assert world.query(SUMS) == [sums]
    assert sum(sum(step["hours"].values()) for step in steps) == sums[0] + sums[1]
    by_reason = dict(world.query("SELECT reason, count(*)::int FROM tickloom.dead_letters GROUP BY 1"))
    assert by_reason == {
        reason: sum(step["rejects"].get(reason, 0) for step in steps) for step in steps for reason in step["rejects"]
    }
    low, high = world.query("SELECT min(timestamp), max(timestamp) FROM stock_prices")[0]
    low_v, high_v = world.query("SELECT min(timestamp), max(timestamp) FROM stock_volumes")[0]
    assert min(step["first_event"] for step in steps) == min(low, low_v).isoformat()
    assert max(step["last_event"] for step in steps) == max(high, high_v).isoformat()
    assert world.differences() == []
    exact = run_once(world, "--max-messages", "5")
    assert (exact["messages"], exact["ended"], exact["first_event"]) == (0, "drained", None)


def test_as_long_as_asked(world: World) -> None:
    """A cron job would still run when the next one starts."""
    world.produce(hostile_things(seed=52, messages=6_000))
    world.settings["TICKLOOM_BATCH_MAX_MESSAGES"] = "1"  # half a minute's work
    started = time.monotonic()
    summary = run_once(world, "--max-seconds", "6")
    assert time.monotonic() - started < 20
    assert (summary["ended"], summary["drained"]) == ("max_seconds", False)
    assert 0 < summary["messages"] < 6_000
    assert world.loaded() == summary["messages"]
    del world.settings["TICKLOOM_BATCH_MAX_MESSAGES"]
    text = world.tickloom("run", "--once")
    assert text.returncode == 0, text.stderr[-3000:]
    assert text.stdout.startswith("drained after ")
    assert world.differences() == []


def test_an_outage_that_outlasts_the_bound(world: World) -> None:
    """A schedule would be green all night while the broker or the database is away."""
    nobody = f"127.0.0.1:{services.free_port()}"
    summary = run_once(
        World(nobody, world.database_url, world.topics, settings=world.settings), "--max-seconds", "2", code=1
    )
    assert summary["stderr"].strip().splitlines()[-1].startswith("tickloom: Kafka")
    gone = World(world.bootstrap, f"postgresql://nobody@{nobody}/none", world.topics, settings=world.settings)
    summary = run_once(gone, "--max-seconds", "2", code=1)
    assert summary["stderr"].strip().splitlines()[-1].startswith("tickloom: Postgres")


def test_gaps_are_reported(world: World) -> None:
    """Messages lost to retention would be missing from a summary that looks good."""
    world.settings["TICKLOOM_GAP_POLICY"] = "continue"
    world.produce(hostile_things(seed=53, messages=2_000))
    run_once(world, "--max-messages", "10")
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    cut = [confluent_kafka.TopicPartition(topic, number, 50) for topic in world.topics.values() for number in range(4)]
    for done in admin.delete_records(cut).values():
        done.result(30)
    summary = run_once(world)
    noted = world.query("SELECT topic, partition, from_offset, to_offset FROM tickloom.gaps ORDER BY 1, 2, 3")
    found = [tuple(gap[name] for name in ("topic", "partition", "from_offset", "to_offset")) for gap in summary["gaps"]]
    assert noted
    assert sorted(found) == noted


def state_of_the_process() -> dict[str, Any]:
    """Everything in this process that a drain might change."""
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit() and _open(fd)]
    return {
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "switch interval": sys.getswitchinterval(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup": _wakeup_fd(),
        "logging": (logging.root.level, list(logging.root.handlers), logging.getLogger("tickloom").handlers),
        "structlog": (structlog.is_configured(), structlog.get_config()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "sockets": sum(name.startswith("socket:") for name in files),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


def _open(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()


def _wakeup_fd() -> int | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    return before


def test_a_guest_leaves_everything_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An orchestrator whose signals, gc, logging or threads changed under it fails later, somewhere else."""
    things = hostile_things(seed=54, messages=3_000)
    settings = settings_of(world, monkeypatch)
    world.produce(things[:1_000])
    drain(settings, max_messages=10)  # what Python imports and polars starts by itself is there after this
    before = state_of_the_process()
    first = drain(settings)
    assert (first.ended, first.messages) == (Ended.DRAINED, 990)
    assert state_of_the_process() == before

    world.produce(things[1_000:2_000])
    outcomes: list[Any] = []
    worker = threading.Thread(target=lambda: outcomes.append(drain(settings, max_seconds=60)))
    worker.start()
    worker.join()
    assert (outcomes[0].drained, outcomes[0].messages) == (True, 1_000)

    world.produce(things[2_000:])
    import asyncio

    async def within_a_loop() -> Any:
        return drain(settings)

    assert asyncio.run(within_a_loop()).messages == 1_000
    assert state_of_the_process() == before
    assert capfd.readouterr().out == ""
    assert world.differences() == []


def test_a_guest_raises_our_own_errors(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host could not tell what a person must cure from what the next run cures, and would leak a connection each time."""
    settings = settings_of(world, monkeypatch)
    before = {thread.name for thread in threading.enumerate()}
    with pytest.raises(Mistake, match="create it"):
        drain(settings.model_copy(update={"prices_topic": "no-such-topic"}))
    nobody = f"127.0.0.1:{services.free_port()}"
    with pytest.raises(SourceUnavailable):
        drain(settings.model_copy(update={"kafka_bootstrap_servers": nobody}), max_seconds=1)
    monkeypatch.setenv("TICKLOOM_DATABASE_URL", f"postgresql://nobody@{nobody}/none")
    with pytest.raises(StoreUnavailable):
        drain(load_settings(), max_seconds=1)
    world.produce(hostile_things(seed=55, messages=200))
    drain(settings)
    world.query("UPDATE tickloom.offsets SET next_offset = next_offset + 100000, skipped = skipped + 100000")
    with pytest.raises(LogLost, match="recreated or truncated"):
        drain(settings)
    assert {thread.name for thread in threading.enumerate()} == before


def test_a_guest_is_stopped_by_its_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled run would go on by itself, or leave its batch half done."""
    settings = settings_of(world, monkeypatch, TICKLOOM_BATCH_MAX_MESSAGES="1")
    world.produce(hostile_things(seed=56, messages=6_000))
    stop = threading.Event()
    threading.Timer(6, stop.set).start()
    outcome = drain(settings, stop=stop)
    assert outcome.ended is Ended.STOPPED
    assert world.loaded() == outcome.messages

    script = "import tickloom; print(tickloom.drain(tickloom.load_settings()))"
    host = subprocess.Popen(
        [sys.executable, "-c", script], env=world.environment | {"TICKLOOM_BATCH_MAX_MESSAGES": "1"}
    )
    until(lambda: world.loaded() > outcome.messages)
    host.send_signal(signal.SIGINT)
    assert host.wait(30) in (1, -signal.SIGINT)  # KeyboardInterrupt came through
    assert world.loaded() < 6_000
    drain(settings_of(world, monkeypatch, TICKLOOM_BATCH_MAX_MESSAGES="5000"))
    assert world.differences() == []


@pytest.mark.parametrize("partitions", [4, 1])
def test_beside_a_daemon(
    kafka: Any, database_url: str, topics: tuple[str, str], monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    """A schedule that is left on beside the daemon would double rows, or wait for ever where it gets no partition."""
    world = World.make(kafka, database_url, topics, partitions)
    world.settings |= QUICK
    things = hostile_things(seed=57, messages=8_000)
    daemon = world.start("run")
    try:
        world.produce(things[:2_000])
        until(lambda: world.loaded() == 2_000)
        feeder = threading.Thread(target=_feed, args=(world, things[2_000:]))
        feeder.start()
        settings = settings_of(world, monkeypatch)
        first, second = drain(settings, max_seconds=60), drain(settings, max_seconds=60)
        feeder.join()
        assert (first.drained, second.drained) == (True, True)
        last = drain(settings, max_seconds=60)
        assert last.drained
        assert sum(last.lag.values() if last.lag else [1]) == 0
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    finally:
        daemon.kill()
        daemon.communicate()
    assert len(read_log(world.bootstrap, world.topics)) == 8_000
    assert world.differences() == []


def _feed(world: World, things: list[Thing]) -> None:
    for at in range(0, len(things), 500):
        world.produce(things[at : at + 500])
        time.sleep(0.5)
