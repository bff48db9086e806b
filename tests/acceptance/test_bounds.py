"""Memory stays under one ceiling, whatever comes, and the daemon is as fast afterwards as before.

The short forms are part of `make test`; `make bounds` runs the long ones.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import services
from tests.acceptance.proxy import Proxy
from tests.acceptance.world import World
from tests.hostile import Thing
from tests.waiting import until

CEILING_MB = 600
"""What docs/explanation/memory.md promises of one daemon with default settings."""

LONG = os.environ.get("TICKLOOM_TEST_BOUNDS") == "long"
SECONDS = 1_200 if LONG else 90
MEGABYTE = 1_000_000
BEGIN_MS = int(time.time() * 1_000) - 12 * 3_600_000

pytestmark = pytest.mark.timeout(3_600 if LONG else 300)


def either(short: int, long: int) -> int:
    """The size of a scenario."""
    return long if LONG else short


class Watched:
    """A running daemon whose memory is measured until it ends."""

    def __init__(self, daemon: subprocess.Popen[str]) -> None:
        self.daemon = daemon
        self.peak_mb = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self.daemon.poll() is None:
            status = Path(f"/proc/{self.daemon.pid}/status").read_text()
            for line in status.splitlines():  # a process that has just ended has no such line
                if line.startswith("VmHWM:"):
                    self.peak_mb = int(line.split()[1]) * 1_024 / 1e6
            time.sleep(0.05)

    def ended(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Its exit code and what it output, once it has ended by itself."""
        _, output = self.daemon.communicate(timeout=seconds)
        self._thread.join()
        return self.daemon.returncode, output


@contextlib.contextmanager
def running(world: World, **settings: str) -> Iterator[Watched]:
    """A daemon at work, ended in order when the test is done with it, and judged by its memory."""
    watched = Watched(world.start("run", **settings))
    try:
        yield watched
    except BaseException:
        watched.daemon.kill()
        watched.ended()
        raise
    watched.daemon.send_signal(signal.SIGTERM)
    code, output = watched.ended()
    print(f"peak {watched.peak_mb:.0f} MB")
    assert code == 0, output[-2000:]
    assert 50 < watched.peak_mb < CEILING_MB


def drained(world: World, watched: Watched, messages: int) -> float:
    """Seconds until the ledger counts this number of messages."""
    started = time.monotonic()
    until(lambda: world.loaded() >= messages or watched.daemon.poll() is not None, SECONDS)
    assert watched.daemon.poll() is None, watched.ended()
    seconds = time.monotonic() - started
    print(f"{messages} messages in the ledger after {seconds:.1f} s")
    return seconds


def pairs(count: int, symbols: int = 5_000, padding: int = 0, after: int = 0) -> Iterator[Thing]:
    """``count`` prices and as many volumes that meet, a millisecond apart, the symbols in turn; the first ``after`` are left out."""
    filler = b',"note":"%s"' % (b"x" * padding) if padding else b""
    for number in range(after, after + count):
        symbol, stamp = b"S%d" % (number % symbols), BEGIN_MS + number
        for side, field in (("prices", b"price"), ("volumes", b"volume")):
            fields = (symbol, stamp, field, number % 997 + 1, filler)
            yield Thing(side, symbol, b'{"symbol":"%s","timestamp":%d,"%s":%d.5%s}' % fields, stamp)


def bad(count: int, size: int) -> Iterator[Thing]:
    """Prices that are no JSON."""
    stamp = int(time.time() * 1_000)
    return (Thing("prices", b"%d" % number, b"x" * size, stamp) for number in range(count))


_AVERAGES = """SELECT count(*) FROM (SELECT {average} AS kept, avg({value}) OVER
    (PARTITION BY symbol ORDER BY "timestamp" ROWS 4 PRECEDING) AS computed FROM stock_{side}) x WHERE kept <> computed"""


def unsound(world: World, messages: int) -> dict[str, int]:
    """What is wrong after this number of messages of ``pairs``: for logs too long for the reference."""
    queries = {
        "messages that are not stored": f"SELECT {messages} - sum(stored)::bigint FROM tickloom.offsets",
        "keys that did not meet": f"SELECT {messages // 2} - count(*) FROM stock_analytics_data",
        "prices' averages": _AVERAGES.format(average="price_moving_avg", value="price", side="prices"),
        "volumes' averages": _AVERAGES.format(average="trading_volume_moving_avg", value="volume", side="volumes"),
    }
    found = {what: int(world.query(query)[0][0]) for what, query in queries.items()}
    return {what: count for what, count in found.items() if count}


def test_a_flood_while_postgres_stalls(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A minute's pause of the database, with the market at its busiest, would end the daemon for lack of memory."""
    world = World.make(kafka, database_url, topics)
    if not LONG:  # so little may be held that the short flood fills it
        world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "5000", "TICKLOOM_FETCH_MAX_BYTES": str(2**20)}
    count = either(60_000, 1_000_000)
    with Proxy(urlsplit(database_url).port) as proxy:
        world.database_url = database_url.replace(f":{proxy.target}/", f":{proxy.port}/")
        with running(world) as watched:
            world.database_url = database_url
            world.produce(pairs(10_000))
            drained(world, watched, 20_000)
            started = time.monotonic()
            world.produce(pairs(count, after=10_000))
            drained(world, watched, 20_000 + 2 * count)
            usual = time.monotonic() - started
            half = count // 2
            world.produce(pairs(half, after=10_000 + count))
            proxy.stall()  # with a transaction under way
            world.produce(pairs(half, after=10_000 + count + half))
            time.sleep(2)  # by now all that may be read is read
            before, held = world.loaded(), watched.peak_mb
            world.produce(pairs(count, after=10_000 + count + 2 * half))
            time.sleep(either(6, 60))
            assert world.loaded() == before, "the stall let something through"
            assert watched.peak_mb < held + 32, "memory grows while nothing can be written"
            proxy.resume()
            after = drained(world, watched, 20_000 + 2 * (2 * count + 2 * half))
            print(f"a flood takes {usual:.1f} s as a rule, two take {after:.1f} s after the stall")
            assert after < 3 * 2 * usual + 5
    assert unsound(world, 20_000 + 2 * (2 * count + 2 * half)) == {}


def test_more_symbols_than_are_cached(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A market with more symbols than anybody thought of would end the daemon for lack of memory."""
    world = World.make(kafka, database_url, topics)
    symbols = either(120_000, 1_000_000)  # 100,000 are cached
    with running(world) as watched:
        for turn in (1, 2):  # in the second all are known to Postgres, and hardly one to the cache
            world.produce(pairs(symbols, symbols, after=turn * symbols))
            drained(world, watched, turn * 2 * symbols)
    assert unsound(world, 4 * symbols) == {}


_SLOW_COMMITS = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END';
    CREATE TRIGGER wait AFTER UPDATE ON tickloom.offsets FOR EACH STATEMENT EXECUTE FUNCTION wait()
"""


def test_slow_commits_do_not_swell_the_cache(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Symbols of batches in flight cannot go, so a slow disk under many symbols would make the cache outgrow its bound."""
    world = World.make(kafka, database_url, topics)
    most, port = 10_000, services.free_port()
    world.settings |= {"TICKLOOM_CACHE_MAX_SYMBOLS": str(most), "TICKLOOM_BATCH_MAX_MESSAGES": "4000"}
    services.execute(database_url, _SLOW_COMMITS)
    world.produce(pairs(40_000, 40_000))
    cached = [0.0]

    def look() -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer,
        ):
            found = re.search(r"^tickloom_symbols_cached (.*)$", answer.read().decode(), re.MULTILINE)
            assert found is not None
            cached.append(float(found.group(1)))
        return world.loaded() == 80_000

    with running(world, TICKLOOM_HTTP_PORT=str(port)):
        until(look, SECONDS)
    assert most * 0.9 <= max(cached) < most * 1.1
    assert unsound(world, 80_000) == {}


def test_one_symbol_with_all_the_traffic(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """An index in a crash, with all eyes on it, would be the symbol that the daemon is slowest with."""
    world = World.make(kafka, database_url, topics)
    count = either(75_000, 1_000_000)
    with running(world) as watched:
        seconds = []
        for turn, symbols in ((1, 5_000), (2, 1)):
            started = time.monotonic()
            world.produce(pairs(count, symbols, after=turn * count))
            drained(world, watched, turn * 2 * count)
            seconds.append(time.monotonic() - started)
        assert seconds[1] < 3 * seconds[0] + 5
    assert unsound(world, 4 * count) == {}


def test_messages_of_a_megabyte(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """Limits that count messages and not bytes would let a few thousand large ones fill the memory."""
    world = World.make(kafka, database_url, topics)
    world.settings |= {"TICKLOOM_REJECT_LIMIT_RATIO": "1"}
    count, size = either(60, 600), MEGABYTE - 1_000
    world.produce(pairs(count, symbols=40, padding=size - 100))
    world.produce(bad(10 * count, size))
    with running(world) as watched:
        drained(world, watched, 12 * count)
    if LONG:
        letters = "SELECT count(*), sum(length(value))::bigint FROM tickloom.dead_letters"
        assert world.query(letters) == [(10 * count, 10 * count * size)]
        assert unsound(world, 2 * count) == {}
    else:
        assert world.differences() == []


def test_a_flood_of_bad_messages(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A wrong topic, full of another program's messages, would be copied into the dead letters."""
    world = World.make(kafka, database_url, topics)
    world.produce(bad(either(200_000, 2_000_000), 100))
    watched = Watched(world.start("run"))
    code, output = watched.ended()
    assert code == 2, output[-2000:]
    assert "TICKLOOM_REJECT_LIMIT_RATIO" in output.strip().splitlines()[-1]
    assert world.query("SELECT count(*) FROM tickloom.dead_letters") == [(0,)]
    assert world.loaded() == 0
    print(f"peak {watched.peak_mb:.0f} MB")
    assert 50 < watched.peak_mb < CEILING_MB


def test_nothing_but_dead_letters(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A user who accepts any share of bad messages would lose some of them, or the daemon."""
    world = World.make(kafka, database_url, topics)
    count = either(150_000, 2_000_000)
    world.produce(bad(count, 100))
    with running(world, TICKLOOM_REJECT_LIMIT_RATIO="1") as watched:
        drained(world, watched, count)
    assert world.query("SELECT sum(dead)::bigint, sum(stored)::bigint FROM tickloom.offsets") == [(count, 0)]
    letters = (
        'SELECT count(*), count(DISTINCT (partition, "offset")), sum(length(value))::bigint FROM tickloom.dead_letters'
    )
    assert world.query(letters) == [(count, count, 100 * count)]


def test_fifty_partitions(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """What is fetched ahead would grow with the number of partitions."""
    world = World.make(kafka, database_url, topics, partitions=50)
    count = either(10_000, 200_000)
    world.produce(pairs(count, padding=10_000))  # in all of them more than one fetch brings
    with running(world) as watched:
        drained(world, watched, 2 * count)
    assert (unsound(world, 2 * count) == {}) if LONG else (world.differences() == [])
