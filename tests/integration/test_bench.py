"""``tickloom bench`` against a real broker and a real Postgres: that it works, not how fast anything is."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient

from tests import services

SMALL = ("--repetitions", "1", "--symbols", "40", "--partitions", "2")
SECONDS = 240


@pytest.fixture(scope="module")
def environment(kafka: Any, postgres: Any) -> Mapping[str, str]:
    """The settings of a user, with tables that are not the bench's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TICKLOOM_")}
    url = services.new_database(postgres)
    return inherited | {"TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "TICKLOOM_DATABASE_URL": url}


@pytest.fixture(autouse=True)
def _leaves_nothing(environment: Mapping[str, str]) -> Iterator[None]:
    """Whatever a test does: no topic, group or database of the bench outlives it, and the user's database is empty."""
    yield
    assert left_behind(environment) == []


def left_behind(environment: Mapping[str, str]) -> list[str]:
    """Names of what a bench has not removed."""
    admin = AdminClient({"bootstrap.servers": environment["TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"]})
    names = list(admin.list_topics(timeout=30).topics)
    names += [group.group_id for group in admin.list_consumer_groups().result(30).valid]

    async def look() -> list[str]:
        connection = await asyncpg.connect(environment["TICKLOOM_DATABASE_URL"])
        try:
            databases = await connection.fetch("SELECT datname FROM pg_database")
            tables = await connection.fetch("SELECT 'table ' || tablename FROM pg_tables WHERE schemaname = 'public'")
            return [row[0] for row in (*databases, *tables)]
        finally:
            await connection.close()

    return [name for name in names + asyncio.run(look()) if name.startswith(("tickloom_bench", "table"))]


def bench(environment: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tickloom", "bench", *SMALL, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)


def start(environment: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tickloom", "bench", *SMALL, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    """Until it says on standard error that it has come so far."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(beginning):
            return
    raise AssertionError(f"it ended with {process.wait()} before it said {beginning!r}")


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    return [int(child) for found in Path(f"/proc/{pid}/task").glob("*/children") for child in found.read_text().split()]


def test_every_mode_gives_its_figures(environment: Mapping[str, str]) -> None:
    """A user who asks what a machine can do would get no answer for some option, or one for a log without disorder."""
    troubles = ("--disorder", "0.1", "--late-hours", "0.05", "--volumes-behind", "200", "--history-days", "1")
    modes = ("--rate", "200", "--seconds", "2", "--idle", "--restart")
    done = bench(environment, "--messages", "6001", *troubles, *modes, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["log"]["messages"] == 6_000
    throughput = document["throughput"]
    assert throughput["copy_floor"]["rows"] == 9_000  # both sides of each pair, and the pair
    for part in ("read_floor", "copy_floor", "end_to_end", "plain"):
        assert throughput[part]["messages_per_second"] == pytest.approx(6_000 / throughput[part]["seconds"], 0.01)
    assert all(ratio > 0 for ratio in throughput["ratios"].values())
    end_to_end = throughput["end_to_end"]
    total = end_to_end["cpu_seconds_per_million"]
    assert sum(end_to_end["cpu_by_stage"].values()) == pytest.approx(total, rel=0.01)
    stages = {"start", "loop", "consume", "decode", "join", "encode", "librdkafka", "polars", "other"}
    assert stages <= end_to_end["cpu_by_stage"].keys()
    assert 50 < end_to_end["peak_memory_bytes"] / 2**20 < 1_000
    (latency,) = document["latency"]
    assert latency["watched"] == 200
    assert 0 < latency["cpu_share"] < 2
    for part in ("row", "joined"):
        values = list(latency[part].values())
        assert values[0] > 0
        assert values == sorted(values)
    assert 0 < document["idle"]["cpu_share"] < 1
    assert (document["restart"]["history_rows"], document["restart"]["symbols"]) == (3 * 24 * 40, 40)
    assert 0 < document["restart"]["first_row_seconds"] <= document["restart"]["all_rows_seconds"]


def test_shapes_of_messages_beside_the_plain_one(environment: Mapping[str, str]) -> None:
    """A user with messages of another shape would not see what they cost, or get an error for those that are bad."""
    names = ("bad-10", "epoch-seconds", "unicode-escapes")
    done = bench(environment, "--messages", "4000", *(f"--shape={name}" for name in names), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["throughput"] is None
    assert [shape["shape"] for shape in document["shapes"]] == ["plain", *names]
    for shape in document["shapes"]:
        assert shape["ratio_to_plain"] > 0
        assert 0 < shape["decode_cpu_seconds_per_million"] < shape["cpu_seconds_per_million"]
        assert shape["messages_per_second"] == pytest.approx(4_000 / shape["seconds"], 0.01)


def test_one_shape_is_measured_as_any_log_is(environment: Mapping[str, str]) -> None:
    """The floors are those of the rows that these messages make: one pair in five lacks a side."""
    done = bench(environment, "--messages", "4000", "--shape", "bad-10", "--history-days", "1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["log"]["shape"] == "bad-10"
    assert document["shapes"] is None
    assert 3_600 + 1_600 <= document["throughput"]["copy_floor"]["rows"] < 3_600 + 1_700
    assert document["throughput"]["ratios"]["end_to_end_to_plain"] > 0


def test_an_unknown_shape(environment: Mapping[str, str]) -> None:
    """A misspelt name would start a bench of something else."""
    done = bench(environment, "--shape", "iso-mix")
    assert done.returncode == 2
    assert "no shape is called iso-mix; use one of plain, realistic, " in done.stderr
    assert done.stderr.strip().endswith("tombstones-1, all")


def test_a_person_gets_tables(environment: Mapping[str, str]) -> None:
    """The figures are read by people first; what is measured just then goes to standard error."""
    done = bench(environment, "--messages", "0", "--idle", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "of a core over 1 s" in done.stdout
    assert "throughput" not in done.stdout
    assert "idle for 1 s" in done.stderr


def test_latency_at_several_rates_of_one_shape(environment: Mapping[str, str]) -> None:
    """What a quiet hour costs and what a busy one does, with messages as they are: what makes no row is not waited for."""
    rates = ("--rate", "100", "--rate", "400")
    done = bench(environment, "--messages", "0", *rates, "--shape", "bad-10", "--seconds", "2", "--json")
    assert done.returncode == 0, done.stderr
    slow, fast = json.loads(done.stdout)["latency"]
    assert (slow["rate"], fast["rate"]) == (100, 400)
    assert (slow["watched"], fast["watched"]) == (80, 320)  # one message in ten is bad, and so one pair in five


def test_a_stalled_daemon_shows_in_the_latency(environment: Mapping[str, str]) -> None:
    """A bench that stops sending while the daemon stands still would report a fast daemon (coordinated omission)."""
    with start(environment, "--messages", "0", "--rate", "200", "--seconds", "5", "--json") as process:
        wait_for_line(process, "sending")
        time.sleep(5)  # past what is sent to warm up
        (daemon,) = children(process.pid)
        os.kill(daemon, signal.SIGSTOP)
        time.sleep(2)
        os.kill(daemon, signal.SIGCONT)
        document, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    (latency,) = json.loads(document)["latency"]
    assert latency["watched"] == 500
    assert latency["row"]["max_ms"] > 1_800
    assert latency["row"]["p99_ms"] > 1_500  # two of five seconds are affected, and not one message


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_the_middle(environment: Mapping[str, str], how: signal.Signals) -> None:
    """A bench that is ended early would leave a daemon, a database or topics behind."""
    with start(environment, "--messages", "4000", "--repetitions", "50") as process:
        wait_for_line(process, "end to end")
        while not (daemons := children(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(how)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, errors
    assert "tickloom: stopped" in errors
    assert "Traceback" not in errors
    assert len(daemons) == 1
    assert not Path(f"/proc/{daemons[0]}").exists()


def test_a_role_that_may_not_make_databases(environment: Mapping[str, str], postgres: Any) -> None:
    """The bench never falls back to the user's own tables: it says what right it lacks."""
    services.execute(
        postgres.url,
        "DROP ROLE IF EXISTS poor",
        "CREATE ROLE poor LOGIN PASSWORD 'poor'",
    )
    host = environment["TICKLOOM_DATABASE_URL"].rpartition("@")[2]
    done = bench({**environment, "TICKLOOM_DATABASE_URL": f"postgresql://poor:poor@{host}"})
    assert done.returncode == 2
    assert "ALTER ROLE poor CREATEDB" in done.stderr


def test_a_broker_that_is_away(environment: Mapping[str, str]) -> None:
    """A bench does not wait for a broker as the daemon does: it says that it cannot reach it."""
    away = f"localhost:{services.free_port()}"
    done = bench({**environment, "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": away})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "tickloom: Kafka" in done.stderr
