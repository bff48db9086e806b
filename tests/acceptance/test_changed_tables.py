"""What a DBA changes in the tables: the daemon works with it if it can, and otherwise ends with the statement that fixes it."""

import asyncio
import threading
from typing import Any

import asyncpg
import pytest

from tests import services
from tests.acceptance.fixes import apply_fix
from tests.acceptance.replica import Start
from tests.acceptance.ticks import HOUR, MILLISECOND, TABLES, now, pairs
from tests.acceptance.world import World
from tests.hostile import Thing
from tests.waiting import until

ADDED = """
ALTER TABLE {table} ADD COLUMN note text, ADD COLUMN kind text NOT NULL DEFAULT 'tick';
ALTER TABLE {table} ADD COLUMN twice float8 GENERATED ALWAYS AS (2 * {value}) STORED;
ALTER TABLE {table} ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY;
CREATE INDEX ON {table} ({value});
CREATE UNIQUE INDEX ON {table} (symbol, "timestamp", {value});
UPDATE {table} SET note = 'mine'
"""


def add_columns(world: World) -> None:
    """All that a user may like to have in the tables."""
    for table, value in zip(TABLES, ("price", "volume", "price_volume_ratio"), strict=True):
        world.query(ADDED.format(table=table, value=value))
    for table in ("offsets", "dead_letters", "gaps", "symbols", "source"):
        world.query(
            f"ALTER TABLE tickloom.{table} ADD COLUMN note text, ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY"
        )


@pytest.mark.parametrize("busy", [False, True], ids=["running", "running, with a reader at the tables"])
def test_columns_and_indexes_are_added(world: World, busy: bool, start: Start) -> None:
    """A column more made dead letters of good messages, or ended the daemon. Its values stay when a row is corrected."""
    world.query = lambda text: _query(world, text)  # type: ignore[method-assign]
    begin = now() - 2 * HOUR
    world.produce(pairs(begin, 200, step=MILLISECOND))
    with start(world):
        until(lambda: world.loaded() == 400)
        add_columns(world)
        blocker = threading.Event()
        reader = threading.Thread(target=_read, args=(world, blocker)) if busy else None
        if reader is not None:
            reader.start()
        # Corrections, rows between, a late beginning, a new hour and new symbols.
        later = [
            *pairs(begin, 100, step=MILLISECOND, price=7.25),
            *pairs(begin - HOUR, 50, step=MILLISECOND),
            *pairs(begin + 3 * HOUR, 60, step=MILLISECOND, symbols=9),
        ]
        world.produce(later)
        until(lambda: world.loaded() == 400 + len(later))
        blocker.set()
        if reader is not None:
            reader.join()
    assert world.differences() == []
    for table in TABLES:
        assert world.query(f"SELECT count(*) FROM {table} WHERE note = 'mine'") == [(200,)]
        assert world.query(f"SELECT count(*) FROM {table} WHERE kind <> 'tick' OR id IS NULL") == [(0,)]
    assert world.query("SELECT count(*) FROM stock_prices WHERE twice <> 2 * price") == [(0,)]
    assert world.tickloom("check").returncode == 0
    # And before a start; averages that were spoilt are repaired.
    world.query("UPDATE stock_prices SET price_moving_avg = 0")
    world.query("UPDATE stock_analytics_data SET price_moving_avg = 0")
    world.query("ALTER TABLE stock_prices ADD COLUMN volume float8 DEFAULT -1")
    world.query("ALTER TABLE stock_volumes ADD COLUMN price float8 DEFAULT -1")
    repaired = world.tickloom("verify", "--repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    world.produce([*pairs(begin, 50, step=MILLISECOND, price=9.25), *pairs(begin + 5 * HOUR, 20, step=MILLISECOND)])
    world.drain()
    assert world.differences() == []


def _query(world: World, text: str) -> list[tuple[Any, ...]]:
    """As ``World.query``, with several statements."""
    *before, last = [one for one in text.split(";\n") if one.strip()]
    if before:
        services.execute(world.database_url, *before)
    return World.query(world, last)


def _read(world: World, leave: threading.Event) -> None:
    """A long query on each table: partitions are made apart and attached."""

    async def hold() -> None:
        connection = await asyncpg.connect(world.database_url)
        try:
            async with connection.transaction():
                for table in TABLES:
                    await connection.execute(f"SELECT FROM {table} LIMIT 1")
                await asyncio.to_thread(leave.wait)
        finally:
            await connection.close()

    asyncio.run(hold())


def test_columns_in_another_order(world: World) -> None:
    """A correction wrote the opening price into the average, where somebody had made the tables himself."""
    for table in TABLES:
        columns = [
            f'"{name}" {kind}{" NOT NULL" if needed else ""}'
            for name, kind, needed in world.query(
                "SELECT attname, format_type(atttypid, -1) || CASE WHEN attname = 'symbol' THEN ' COLLATE \"C\"' ELSE '' END, "
                f"attnotnull FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attname DESC"
            )
        ]
        world.query(f"DROP TABLE {table} CASCADE")
        world.query(
            f'CREATE TABLE public.{table} (note text, {", ".join(columns)}, PRIMARY KEY (symbol, "timestamp")) '
            f'PARTITION BY RANGE ("timestamp")'
        )
    start = now() - 2 * HOUR
    with_open = [
        Thing(one.side, one.key, one.value.replace(b"}", b',"open_price":77.5}'), one.timestamp_ms)
        for one in pairs(start, 100, step=MILLISECOND)
        if one.value
    ]
    world.produce(with_open)
    world.drain()
    world.produce(
        [
            *with_open[:60],
            *pairs(start + 20 * MILLISECOND, 40, step=MILLISECOND, price=6.5),
            *pairs(start - HOUR, 30, step=MILLISECOND),
        ]
    )
    world.drain()
    assert world.differences() == []
    assert world.tickloom("check").returncode == 0
    assert world.tickloom("verify").returncode == 0


NUMERIC = (
    "ALTER TABLE stock_prices ALTER COLUMN price TYPE numeric",
    "ALTER COLUMN price TYPE float8 USING price::float8",
)
RENAMED = (
    "ALTER TABLE stock_volumes RENAME COLUMN volume TO amount",
    "ALTER TABLE stock_volumes RENAME COLUMN … TO volume",
)


@pytest.mark.parametrize(
    ("statement", "fix"),
    [
        NUMERIC,
        ("ALTER TABLE tickloom.offsets ALTER COLUMN stored TYPE int", "ALTER COLUMN stored TYPE bigint"),
        ('ALTER TABLE stock_prices ALTER COLUMN symbol TYPE text COLLATE "default"', 'TYPE text COLLATE "C"'),
        ("ALTER TABLE stock_volumes DROP CONSTRAINT stock_volumes_pkey", 'ADD PRIMARY KEY (symbol, "timestamp")'),
        ("ALTER TABLE stock_prices ADD COLUMN note text NOT NULL", "ALTER COLUMN note DROP NOT NULL"),
    ],
    ids=["type", "type of the bookkeeping", "collation", "key", "column without default"],
)
def test_refused_at_the_start(world: World, statement: str, fix: str, start: Start) -> None:
    """A daemon that starts on a table which it cannot write would end with a traceback, again and again."""
    world.produce(pairs(now(), 20, step=MILLISECOND))
    world.query(statement)
    checked = world.tickloom("check")
    assert checked.returncode == 3
    assert fix in checked.stdout.replace("\n", " ")
    with start(world) as daemon:
        last = daemon.mistake()
    assert fix in last
    assert world.loaded() == 0
    apply_fix(world, last)


@pytest.mark.parametrize("known", [True, False], ids=["known symbols", "new symbols"])
@pytest.mark.parametrize(("statement", "fix"), [NUMERIC, RENAMED], ids=["type", "name"])
def test_changed_while_it_runs(world: World, statement: str, fix: str, known: bool, start: Start) -> None:
    """What was good data a second ago would become dead letters, or the daemon would die of a traceback."""
    world.produce(pairs(now(), 40, step=MILLISECOND))
    with start(world) as daemon:
        until(lambda: world.loaded() == 80)
        world.query(statement)
        world.produce(pairs(now() + 100 * MILLISECOND, 40, step=MILLISECOND, symbols=4 if known else 11))
        last = daemon.mistake()
    assert fix in last
    assert world.loaded() == 80
    apply_fix(world, last.replace("RENAME COLUMN …", "RENAME COLUMN amount"))


def test_a_key_is_dropped_while_nothing_comes(world: World, start: Start) -> None:
    """A daemon at rest would not notice, and look rows up without an index from then on."""
    world.produce(pairs(now(), 10, step=MILLISECOND))
    with start(world, module="tests.acceptance.brisk") as daemon:
        until(lambda: world.loaded() == 20)
        world.query("ALTER TABLE stock_prices DROP CONSTRAINT stock_prices_pkey")
        last = daemon.mistake()
    assert 'ALTER TABLE stock_prices ADD PRIMARY KEY (symbol, "timestamp")' in last
    apply_fix(world, last)


def test_all_tables_are_published(world: World) -> None:
    """Logical replication of a whole database would keep the ledger's neighbours, which have no keys, from being updated."""
    world.query("CREATE PUBLICATION everything FOR ALL TABLES")
    start = now() - HOUR
    for portion in (
        pairs(start, 200, step=MILLISECOND),
        pairs(start, 100, step=MILLISECOND, price=7.5),
        pairs(start - 50 * MILLISECOND, 200, step=MILLISECOND),
    ):
        world.produce(portion)
        world.drain()
    assert world.differences() == []
    world.query("UPDATE stock_prices SET price_moving_avg = -7 WHERE symbol = 'S1'")
    assert world.tickloom("verify", "--repair").returncode == 0
    assert world.differences() == []
