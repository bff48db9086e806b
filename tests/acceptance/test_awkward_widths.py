"""Partitions that are wider, narrower or elsewhere than the settings say: they are used, or the daemon says what to type."""

from collections.abc import Iterable

from tests.acceptance.roles import found_bad
from tests.acceptance.ticks import HOUR, NOW, OLD, TABLES, iso, pairs, part_of, tick
from tests.acceptance.world import World
from tests.hostile import Thing


def metered(world: World, things: Iterable[Thing]) -> None:
    """These messages, loaded and exact."""
    world.produce(things)
    world.drain()
    assert world.dead_letters() == {}
    assert world.differences() == []


def test_another_width_than_the_tables_is_refused_at_the_start(world: World) -> None:
    """The day that one late row falls into would stop the daemon, some time, with a word of Postgres's about overlaps."""
    metered(world, pairs(OLD, 20))
    world.settings["TICKLOOM_PRICES_PARTITIONING"] = "daily"
    done = world.tickloom("run", "--once", timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert "set TICKLOOM_PRICES_PARTITIONING to what they are" in last
    bad = found_bad(world)
    assert list(bad) == ["table partitions"]
    assert bad["table partitions"] in last
    for fill in last.partition("create what is missing: ")[2].split("; "):
        world.query(fill.replace("CREATE TABLE ", "CREATE TABLE public."))
    later = NOW + 48 * HOUR  # late in the evening, tomorrow has its first hours already
    metered(world, pairs(NOW, 20) + pairs(OLD + 2 * HOUR, 5, step=HOUR // 2) + pairs(later, 3, sent=later))
    names = {name for (name,) in world.query("SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid")}
    assert part_of("stock_prices", later, "%Y%m%d") in names
    assert found_bad(world) == {}


def test_partitions_of_another_width_beside(world: World) -> None:
    """A user who has changed the width, or has created a partition by hand, would have to create the table again."""
    day = NOW // (24 * HOUR) * 24 * HOUR
    old, older = day - 2 * 24 * HOUR, day - 9 * 24 * HOUR
    for table in TABLES:
        for start, hours in ((old, 24), (older, 3)):  # a day, in the zone of the tables; a morning of another day
            bounds = [iso(at) for at in (start, start + hours * HOUR)]
            world.query(
                f"CREATE TABLE public.mine_{table}_{hours} PARTITION OF {table} FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
            )
    assert found_bad(world) == {}
    metered(world, pairs(old + 5 * HOUR, 20) + pairs(older + HOUR, 20, step=HOUR // 4) + pairs(NOW, 20))
    assert world.query("SELECT count(*) FROM mine_stock_prices_24") == [(20,)]
    assert world.query("SELECT count(*) FROM mine_stock_prices_3") == [(8,)]
    assert world.tickloom("verify").returncode == 0


def test_a_partition_whose_name_belies_its_bounds(world: World) -> None:
    """A day that somebody has made in his own zone would be read for another one: averages without its rows."""
    day = NOW // (24 * HOUR) * 24 * HOUR - 2 * 24 * HOUR
    name = part_of("stock_prices", day, "%Y%m%d")
    bounds = [iso(day + add * HOUR) for add in (5, 29)]
    world.query(
        f"CREATE TABLE public.{name} PARTITION OF stock_prices FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
    )
    metered(world, pairs(day + 24 * HOUR, 30, step=HOUR // 5))
    metered(world, pairs(day + 24 * HOUR + 5, 30, step=HOUR // 5))
    assert world.query(f"SELECT count(*) FROM {name}") == [(50,)]


def test_a_default_partition(world: World) -> None:
    """Its rows would be read by nobody, and keep later partitions from being made."""
    world.query("CREATE TABLE public.rest PARTITION OF stock_volumes DEFAULT")
    world.produce(pairs(NOW, 3))
    done = world.tickloom("run", "--once", timeout=60)
    assert done.returncode == 2
    assert "stock_volumes has a partition of another kind (DEFAULT)" in done.stderr.splitlines()[-1]
    assert "detach it" in found_bad(world)["table partitions"]


def test_a_detached_daily_partition_stays_detached(world: World) -> None:
    """The archive of a time when partitions were wider would be filled again beside itself."""
    day = NOW // (24 * HOUR) * 24 * HOUR - 3 * 24 * HOUR
    name = part_of("stock_prices", day, "%Y%m%d")
    bounds = [iso(day + add * HOUR) for add in (0, 24)]
    world.query(
        f"CREATE TABLE public.{name} PARTITION OF stock_prices FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
    )
    world.query(f"ALTER TABLE stock_prices DETACH PARTITION {name}")
    world.produce([tick("prices", "A", day + HOUR, 1.0), tick("prices", "A", NOW, 1.0)])
    world.drain()
    assert world.dead_letters() == {"expired": 1}


def test_events_far_ahead_of_now(world: World) -> None:
    """Any producer could fill the server's lock table with partitions that no event will ever need."""
    future = 2_600_000_000_000_000  # 2052
    far = [thing for hour in range(300) for thing in pairs(future + hour * HOUR, 1, sent=future + hour * HOUR)]
    world.produce(far[:300] + pairs(NOW, 20) + far[300:])
    world.drain()
    count = "SELECT count(*)::int FROM pg_inherits WHERE inhparent = 'stock_prices'::regclass AND inhrelid::regclass::text ~ '_205'"
    assert world.query(count) == [(24,)]
    assert world.dead_letters() == {"out_of_bounds": 2 * (300 - 24)}
    assert world.query("SELECT count(*) FROM stock_prices WHERE \"timestamp\" < '2050-01-01'") == [(20,)]
    world.produce(pairs(future - HOUR, 1, sent=future))
    world.drain()
    assert world.query(count) == [(24,)]
    world.exact(642, "--from", iso(OLD))
