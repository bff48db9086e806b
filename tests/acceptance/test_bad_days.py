"""Bad data and bad days are different things: the first is dead-lettered, the second waited out."""

import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.acceptance.proxy import Proxy
from tests.acceptance.world import World
from tests.hostile import Thing, hostile_things
from tests.waiting import until


def test_what_postgres_refuses(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """One row that a user's own constraint refuses would hold up, or take down, its whole batch."""
    world = World.make(kafka, database_url, topics)
    world.query("ALTER TABLE stock_prices ADD CONSTRAINT no_thirteen CHECK (price <> 13)")
    now = int(time.time() * 1000)
    things = []
    for number in range(2_000):
        stamp, symbol = now + number, f"S{number % 20}"
        price = b"13" if number in (77, 78, 1500) else b"%d.5" % number
        fields = b'{"symbol":"%s","timestamp":%d,' % (symbol.encode(), stamp)
        things.append(Thing("prices", symbol.encode(), fields + b'"price":' + price + b"}", stamp))
        things.append(Thing("volumes", symbol.encode(), fields + b'"volume":2}', stamp))
    world.produce(things)
    world.drain()
    letters = world.query("SELECT reason, value FROM tickloom.dead_letters ORDER BY topic")
    assert [reason for reason, _ in letters] == ["refused"] * 3
    assert all(b'"price":13}' in value for _, value in letters)
    assert world.query("SELECT count(*) FROM stock_prices")[0][0] == 1_997
    assert world.query("SELECT count(*) FROM stock_analytics_data")[0][0] == 1_997
    wrong = """SELECT count(*) FROM (SELECT price_moving_avg AS kept, avg(price) OVER
        (PARTITION BY symbol ORDER BY "timestamp" ROWS 4 PRECEDING) AS computed FROM stock_prices) x WHERE kept <> computed"""
    assert world.query(wrong)[0][0] == 0
    sums = "next_offset - first_offset <> stored + superseded + dead + skipped + missing"
    assert world.query(f"SELECT count(*) FROM tickloom.offsets WHERE {sums}")[0][0] == 0


@pytest.fixture
def own_postgres() -> Iterator[services.Postgres]:
    """A server that the test may crash."""
    with services.native_postgres() as server:
        yield server


def test_postgres_crashes(kafka: Any, own_postgres: services.Postgres, topics: tuple[str, str]) -> None:
    """An outage of the database would lose its batch, or turn it into dead letters."""
    world = World.make(kafka, services.new_database(own_postgres), topics)
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "200", "TICKLOOM_RETRY_MAX_SECONDS": "1"}
    things = hostile_things(seed=3, messages=12_000)
    world.produce(things[:6_000])
    daemon = world.start("run")
    count = "SELECT coalesce(sum(stored), 0)::int FROM tickloom.offsets"
    until(lambda: world.query(count)[0][0] > 300)
    own_postgres.crash()
    world.produce(things[6_000:])
    time.sleep(2)
    assert daemon.poll() is None, "an outage must be waited out"
    own_postgres.start()
    until(lambda: world.loaded() == 12_000)
    daemon.send_signal(signal.SIGTERM)
    _, output = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, output[-2000:]
    assert world.differences() == []


def test_failover_to_a_standby(kafka: Any, own_postgres: services.Postgres, topics: tuple[str, str]) -> None:
    """After a failover the daemon would stop, or take the refusals of a standby for bad data."""
    with services.native_postgres(standby_of=own_postgres) as standby, Proxy(own_postgres.port) as proxy:
        services.execute(own_postgres.url, "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        services.execute(own_postgres.url, "SELECT pg_reload_conf()")
        url = services.new_database(own_postgres)
        world = World.make(kafka, url, topics)
        world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "200", "TICKLOOM_RETRY_MAX_SECONDS": "0.5"}
        things = hostile_things(seed=6, messages=8_000)
        world.produce(things[:4_000])
        daemon = world.start("run", TICKLOOM_DATABASE_URL=url.replace(f":{own_postgres.port}/", f":{proxy.port}/"))
        until(lambda: world.loaded() > 300)
        own_postgres.crash()
        proxy.target = standby.port
        proxy.cut()
        time.sleep(2)
        assert daemon.poll() is None, "a standby is waited out until it is promoted"
        world.database_url = url.replace(f":{own_postgres.port}/", f":{standby.port}/")
        assert world.query("SELECT pg_is_in_recovery()") == [(True,)]
        standby.promote()
        world.produce(things[4_000:])
        until(lambda: world.loaded() == 8_000)
        daemon.send_signal(signal.SIGTERM)
        _, output = daemon.communicate(timeout=60)
        assert daemon.returncode == 0, output[-2000:]
        assert "read-only transaction (SQLSTATE 25006)" in output
        assert world.differences() == []


def test_health_and_metrics(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Without them an operator learns of trouble from the users."""
    world = World.make(kafka, database_url, topics)
    world.produce(hostile_things(seed=5, messages=2_000))
    port = services.free_port()
    daemon = world.start("run", TICKLOOM_HTTP_PORT=str(port))

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    try:
        until(lambda: get("/readyz")[0] == 200)
        until(lambda: world.loaded() == 2_000)
        assert get("/livez")[0] == 200
        until(lambda: 'tickloom_lag_seconds{partition="0"' in get("/metrics")[1])
        text = get("/metrics")[1]
        sums = dict.fromkeys(("tickloom_messages_total", "tickloom_lag_messages", "tickloom_lag_seconds"), 0.0)
        for name in sums:
            sums[name] = sum(
                float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name}{{")
            )
        assert sums == {"tickloom_messages_total": 2_000, "tickloom_lag_messages": 0, "tickloom_lag_seconds": 0}
        assert not re.search(r"AAPL|SYM\d", text), "no symbol may be a label"
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, output = daemon.communicate(timeout=30)
    assert daemon.returncode == 0
    assert "secret-word" not in output


def test_broker_restarts(database_url: str, topics: tuple[str, str], tmp_path: Path) -> None:
    """A broker's restart would need a hand, or lose what was in flight."""
    broker = services.Kafka(tmp_path)
    broker.start()
    try:
        world = World.make(broker, database_url, topics)
        world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "200"}
        things = hostile_things(seed=4, messages=8_000)
        world.produce(things[:4_000])
        daemon = world.start("run")
        until(lambda: world.loaded() > 300)
        broker.kill()
        time.sleep(2)
        assert daemon.poll() is None
        broker.start()
        world.produce(things[4_000:])
        until(lambda: world.loaded() == 8_000, 90)
        daemon.send_signal(signal.SIGTERM)
        _, output = daemon.communicate(timeout=60)
        assert daemon.returncode == 0, output[-2000:]
        assert world.differences() == []
    finally:
        broker.kill()
