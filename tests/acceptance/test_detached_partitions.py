"""A DBA detaches, attaches and drops partitions while the daemon lives: late rows of theirs become dead letters, and no others do."""

import json

import pytest

from tests.acceptance.replica import Start
from tests.acceptance.ticks import HOUR, NOW, OLD, RAW, TABLES, iso, pairs, part_of, tick
from tests.acceptance.world import World
from tests.waiting import until

SINCE = ("--from", iso(OLD))


@pytest.mark.parametrize("how", ["", " CONCURRENTLY"])
def test_late_rows_of_a_detached_partition(world: World, how: str) -> None:
    """One late row would end the daemon, and each start after it, because somebody has archived an hour."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    world.drain()
    for table in RAW:
        world.query(f"ALTER TABLE {table} DETACH PARTITION {part_of(table, OLD)}{how}")
    archived = world.query(f"SELECT count(*) FROM {part_of('stock_prices', OLD)}")
    late, good = pairs(OLD + HOUR // 2, 1_200, step=1_000), pairs(NOW + HOUR // 60, 60)
    mixed = [thing for few in zip(late[::20], good, strict=True) for thing in few]
    world.produce(mixed + [thing for thing in late if thing not in mixed])
    done = world.drain()
    assert world.dead_letters() == {"expired": len(late)}
    assert "was detached" in done.stderr
    assert world.query("SELECT count(*) FROM stock_prices") == [(100,)]
    assert world.query(f"SELECT count(*) FROM {part_of('stock_prices', OLD)}") == archived
    assert world.query("SELECT sum(dead)::int FROM tickloom.offsets") == [(len(late),)]
    kept = world.query(
        "SELECT convert_from(value, 'UTF8'), detail FROM tickloom.dead_letters ORDER BY topic, partition, \"offset\" LIMIT 1"
    )
    assert json.loads(kept[0][0])["symbol"].startswith("S")
    assert "detached" in kept[0][1]
    world.exact(160 + len(late) + len(good), *SINCE)


def test_detached_while_its_rows_are_in_memory(world: World, start: Start) -> None:
    """A correction of a row that is gone with its partition would be counted and lost; a new row would be tried for ever."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with start(world):
        until(lambda: world.loaded() == 160)
        world.query(f"ALTER TABLE stock_prices DETACH PARTITION {part_of('stock_prices', OLD)}")
        # a correction of the last row, whose window nobody else is in; and of the first, which others' windows hold
        world.produce([tick("prices", "S3", OLD + 39_000_000, 7.0)])
        until(lambda: world.dead_letters() == {"expired": 1})
        world.produce([tick("prices", "S0", OLD, 7.0), tick("prices", "S0", OLD + 500_000, 8.0)])
        world.produce(pairs(NOW + HOUR // 60, 5))
        until(lambda: world.loaded() == 173)
    assert world.dead_letters() == {"expired": 3}
    assert world.query("SELECT count(*) FROM stock_prices") == [(45,)]
    world.exact(173, *SINCE)


def test_new_row_of_a_partition_that_is_detached_meanwhile(world: World, start: Start) -> None:
    """A daemon that has created a partition would trust for ever that it exists."""
    world.produce(pairs(OLD, 40))
    with start(world):
        until(lambda: world.loaded() == 80)
        world.query(f"ALTER TABLE stock_volumes DETACH PARTITION {part_of('stock_volumes', OLD)} CONCURRENTLY")
        world.produce([tick("volumes", "NEW", OLD + 5, 7.0), tick("prices", "NEW", OLD + 5, 7.0)])
        until(lambda: world.loaded() == 82)
    assert world.dead_letters() == {"expired": 1}
    assert world.query("SELECT count(*) FROM stock_prices WHERE symbol = 'NEW'") == [(1,)]
    world.exact(82, *SINCE)


def test_only_the_joined_rows_partition_is_detached(world: World, start: Start) -> None:
    """Prices and volumes would be rejected for what somebody did to a table that is made of them."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with start(world):
        until(lambda: world.loaded() == 160)
        world.query(f"ALTER TABLE stock_analytics_data DETACH PARTITION {part_of('stock_analytics_data', OLD)}")
        world.produce([*pairs(OLD + HOUR // 2, 10), tick("prices", "S0", OLD, 7.0), *pairs(NOW + HOUR // 60, 5)])
        until(lambda: world.loaded() == 191)
    assert world.dead_letters() == {}
    assert world.query("SELECT count(*) FROM stock_prices") == [(95,)]
    assert world.query("SELECT count(*) FROM stock_analytics_data") == [(45,)]
    assert world.query(
        f"SELECT price FROM stock_prices WHERE symbol = 'S0' AND \"timestamp\" = to_timestamp({OLD // 10**6})"
    ) == [(7.0,)]
    world.exact(191, *SINCE)
    for arguments in (["verify"], ["verify", "--repair"]):
        done = world.tickloom(*arguments)
        assert done.returncode == 0, done.stdout
        assert "was detached" in done.stdout


def test_attached_again(world: World, start: Start) -> None:
    """Rows would go on being rejected after somebody has brought their partition back, or averages be computed without it."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    part = part_of("stock_prices", OLD)
    bounds = [f"'{iso(at)}'" for at in (OLD, OLD + HOUR)]
    with start(world):
        until(lambda: world.loaded() == 160)
        world.query(f"ALTER TABLE stock_prices DETACH PARTITION {part}")
        world.produce([tick("prices", "S0", OLD + 1, 5.0)])
        until(lambda: world.dead_letters() == {"expired": 1})
        world.query(f"ALTER TABLE stock_prices ATTACH PARTITION {part} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})")
        world.produce(pairs(OLD + HOUR // 2, 10))
        until(lambda: world.loaded() == 181)
    assert world.dead_letters() == {"expired": 1}
    assert world.query("SELECT count(*) FROM stock_prices") == [(90,)]
    world.exact(181, *SINCE)
    assert world.tickloom("verify").returncode == 0


def test_dropped_under_rows_that_are_in_memory(world: World, start: Start) -> None:
    """A correction of a row whose partition was dropped would be counted as superseding what is gone, and be lost."""
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    with start(world):
        until(lambda: world.loaded() == 160)
        for table in TABLES:
            world.query(f"DROP TABLE {part_of(table, OLD)}")
        world.produce([tick("prices", "S0", OLD, 7.0), tick("volumes", "S0", OLD, 8.0)])
        until(lambda: world.loaded() == 162)
    assert world.dead_letters() == {}
    day = f'"timestamp" < to_timestamp({(OLD + HOUR) // 10**6})'
    assert world.query(f"SELECT price, price_moving_avg FROM stock_prices WHERE {day}") == [(7.0, 7.0)]
    assert world.query(f"SELECT price, volume FROM stock_analytics_data WHERE {day}") == [(7.0, 8.0)]
    world.exact(162, *SINCE)


def test_another_table_of_that_name(world: World) -> None:
    """Rows would be rejected because of a typing error: a table that never was a partition is no archive."""
    world.query(f"CREATE TABLE public.{part_of('stock_prices', OLD)} (symbol text, note text)")
    world.produce(pairs(OLD, 2))
    done = world.tickloom("run", "--once", timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"table {part_of('stock_prices', OLD)} exists but is no partition" in done.stderr.splitlines()[-1]
    assert world.dead_letters() == {}
