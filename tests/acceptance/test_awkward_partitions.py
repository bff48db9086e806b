"""What a DBA does to partitions, roles and poolers while the daemon lives: it goes on, or says what to type."""

import json
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.acceptance.test_bad_days import until
from tests.acceptance.world import World
from tests.hostile import Thing

HOUR = 3_600_000_000
SUMS = "SELECT count(*) FROM tickloom.offsets WHERE next_offset - first_offset <> stored + superseded + dead + skipped + missing"
RAW = ("stock_prices", "stock_volumes")


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world without messages."""
    return World.make(kafka, database_url, topics)


def hour_of(micros: int) -> int:
    return micros // HOUR * HOUR


def part_of(table: str, micros: int, form: str = "%Y%m%d%H") -> str:
    """The name of the partition that holds an event."""
    return f"{table}_{datetime.fromtimestamp(micros / 1e6, UTC):{form}}"


NOW = int(time.time()) * 1_000_000
OLD = hour_of(NOW) - 30 * HOUR
"""An hour that somebody may detach."""


def tick(side: str, symbol: str, event: int, value: float, sent: int | None = None) -> Thing:
    """One message; ``event`` and ``sent`` in µs."""
    field = "price" if side == "prices" else "volume"
    body = json.dumps({"symbol": symbol, field: value, "timestamp": event}).encode()
    return Thing(side, symbol.encode(), body, (sent or NOW) // 1_000)


def pairs(first: int, count: int, step: int = 1_000_000, symbols: int = 4, sent: int | None = None) -> list[Thing]:
    """Both sides of so many events from ``first`` on."""
    return [
        tick(side, f"S{number % symbols}", first + number * step, number + 1.5, sent)
        for number in range(count)
        for side in ("prices", "volumes")
    ]


def drained(world: World, **settings: str) -> subprocess.CompletedProcess[str]:
    """The log up to its end."""
    done = world.tickloom("run", "--once", timeout=120, **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@contextmanager
def running(world: World, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon, which then ends well."""
    daemon = world.start("run", **settings)
    try:
        yield daemon
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, told = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, told[-4000:]


def loaded(world: World, messages: int) -> bool:
    """Whether the ledger has so many."""
    return world.query("SELECT coalesce(sum(next_offset), 0)::int FROM tickloom.offsets") == [(messages,)]


def letters(world: World) -> list[tuple[Any, ...]]:
    return world.query("SELECT reason, count(*)::int FROM tickloom.dead_letters GROUP BY 1 ORDER BY 1")


def exact(world: World, count: int, span: Iterable[str] = ()) -> None:
    """The ledger adds up, and `verify` finds nothing."""
    assert world.query(SUMS) == [(0,)]
    assert loaded(world, count)
    done = world.tickloom("verify", "--from", datetime.fromtimestamp(OLD / 1e6, UTC).isoformat(), *span)
    assert done.returncode == 0, done.stdout


# --- detached ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", " CONCURRENTLY"])
def test_late_rows_of_a_detached_partition(world: World, how: str) -> None:
    """One late row would end the daemon, and each start after it, because somebody has put an hour away."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    drained(world)
    for table in RAW:
        world.query(f"ALTER TABLE {table} DETACH PARTITION {part_of(table, OLD)}{how}")
    archived = world.query(f"SELECT count(*) FROM {part_of('stock_prices', OLD)}")
    late, good = pairs(OLD + HOUR // 2, 1_200, step=1_000), pairs(NOW + HOUR // 60, 60)
    mixed = [thing for few in zip(late[::20], good, strict=True) for thing in few]
    world.produce(mixed + [thing for thing in late if thing not in mixed])
    done = drained(world)
    assert letters(world) == [("expired", len(late))]
    assert "was detached" in done.stderr
    assert world.query("SELECT count(*) FROM stock_prices") == [(100,)]
    assert world.query(f"SELECT count(*) FROM {part_of('stock_prices', OLD)}") == archived
    assert world.query("SELECT sum(dead)::int FROM tickloom.offsets") == [(len(late),)]
    kept = world.query(
        "SELECT convert_from(value, 'UTF8'), detail FROM tickloom.dead_letters ORDER BY topic, partition, \"offset\" LIMIT 1"
    )
    assert json.loads(kept[0][0])["symbol"].startswith("S")
    assert "detached" in kept[0][1]
    exact(world, 160 + len(late) + len(good))


def test_detached_while_its_rows_are_in_memory(world: World) -> None:
    """A correction of a row that is gone with its partition would be counted and lost; a new row would be tried for ever."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with running(world):
        until(lambda: loaded(world, 160))
        world.query(f"ALTER TABLE stock_prices DETACH PARTITION {part_of('stock_prices', OLD)}")
        # a correction of the last row, whose window nobody else is in; and of the first, which others' windows hold
        world.produce([tick("prices", "S3", OLD + 39_000_000, 7.0)])
        until(lambda: letters(world) == [("expired", 1)])
        world.produce([tick("prices", "S0", OLD, 7.0), tick("prices", "S0", OLD + 500_000, 8.0)])
        world.produce(pairs(NOW + HOUR // 60, 5))
        until(lambda: loaded(world, 173))
    assert letters(world) == [("expired", 3)]
    assert world.query("SELECT count(*) FROM stock_prices") == [(45,)]
    exact(world, 173)


def test_new_row_of_a_partition_that_is_detached_meanwhile(world: World) -> None:
    """The daemon that has made a partition would go on trusting that it is there."""
    world.produce(pairs(OLD, 40))
    with running(world):
        until(lambda: loaded(world, 80))
        world.query(f"ALTER TABLE stock_volumes DETACH PARTITION {part_of('stock_volumes', OLD)} CONCURRENTLY")
        world.produce([tick("volumes", "NEW", OLD + 5, 7.0), tick("prices", "NEW", OLD + 5, 7.0)])
        until(lambda: loaded(world, 82))
    assert letters(world) == [("expired", 1)]
    assert world.query("SELECT count(*) FROM stock_prices WHERE symbol = 'NEW'") == [(1,)]
    exact(world, 82)


def test_only_the_joined_rows_partition_is_detached(world: World) -> None:
    """Prices and volumes would be rejected for what somebody did to a table that is made of them."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with running(world):
        until(lambda: loaded(world, 160))
        world.query(f"ALTER TABLE stock_analytics_data DETACH PARTITION {part_of('stock_analytics_data', OLD)}")
        world.produce([*pairs(OLD + HOUR // 2, 10), tick("prices", "S0", OLD, 7.0), *pairs(NOW + HOUR // 60, 5)])
        until(lambda: loaded(world, 191))
    assert letters(world) == []
    assert world.query("SELECT count(*) FROM stock_prices") == [(95,)]
    assert world.query("SELECT count(*) FROM stock_analytics_data") == [(45,)]
    assert world.query(
        f"SELECT price FROM stock_prices WHERE symbol = 'S0' AND \"timestamp\" = to_timestamp({OLD // 10**6})"
    ) == [(7.0,)]
    exact(world, 191)
    for arguments in (["verify"], ["verify", "--repair"]):
        done = world.tickloom(*arguments)
        assert done.returncode == 0, done.stdout
        assert "was detached" in done.stdout


def test_attached_again(world: World) -> None:
    """Rows would go on being rejected after somebody has brought their partition back, or averages be computed without it."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    part = part_of("stock_prices", OLD)
    bounds = [f"'{datetime.fromtimestamp(at / 1e6, UTC).isoformat()}'" for at in (OLD, OLD + HOUR)]
    with running(world):
        until(lambda: loaded(world, 160))
        world.query(f"ALTER TABLE stock_prices DETACH PARTITION {part}")
        world.produce([tick("prices", "S0", OLD + 1, 5.0)])
        until(lambda: letters(world) == [("expired", 1)])
        world.query(f"ALTER TABLE stock_prices ATTACH PARTITION {part} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})")
        world.produce(pairs(OLD + HOUR // 2, 10))
        until(lambda: loaded(world, 181))
    assert letters(world) == [("expired", 1)]
    assert world.query("SELECT count(*) FROM stock_prices") == [(90,)]
    exact(world, 181)
    assert world.tickloom("verify").returncode == 0


def test_dropped_under_rows_that_are_in_memory(world: World) -> None:
    """A correction of a row whose partition was dropped would be counted as superseding what is gone, and be lost."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with running(world):
        until(lambda: loaded(world, 160))
        for table in (*RAW, "stock_analytics_data"):
            world.query(f"DROP TABLE {part_of(table, OLD)}")
        world.produce([tick("prices", "S0", OLD, 7.0), tick("volumes", "S0", OLD, 8.0)])
        until(lambda: loaded(world, 162))
    assert letters(world) == []
    day = f'"timestamp" < to_timestamp({(OLD + HOUR) // 10**6})'
    assert world.query(f"SELECT price, price_moving_avg FROM stock_prices WHERE {day}") == [(7.0, 7.0)]
    assert world.query(f"SELECT price, volume FROM stock_analytics_data WHERE {day}") == [(7.0, 8.0)]
    exact(world, 162)


def test_another_table_of_that_name(world: World) -> None:
    """What never was a partition is no archive: rows would be rejected because of a typing error."""
    world.query(f"CREATE TABLE public.{part_of('stock_prices', OLD)} (symbol text, note text)")
    world.produce(pairs(OLD, 2))
    done = world.tickloom("run", "--once", timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"table {part_of('stock_prices', OLD)} exists but is no partition" in done.stderr.splitlines()[-1]
    assert letters(world) == []
