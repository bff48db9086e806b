"""Rows that Postgres refuses: odd ones are dead letters; if all are refused, the table is at fault, and no message is."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.fixes import apply_fix
from tests.acceptance.replica import Start
from tests.acceptance.ticks import HOUR, MILLISECOND, SECOND, TABLES, now, pairs, tick
from tests.acceptance.world import World
from tests.hostile import Thing
from tests.waiting import until


@contextmanager
def trickle(world: World, gap_seconds: float = 0.25) -> Iterator[None]:
    """Produce a pair every ``gap_seconds`` while inside."""
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(gap_seconds):
            world.produce(pairs(now(), 1))

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


REFUSE_ALL = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed'{code}; END $$"
)
TRIGGER = "CREATE TRIGGER refuse {when} INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"


DEAR = "ALTER TABLE {table} ADD CONSTRAINT dear CHECK ({column} < 0) NOT VALID"
SWALLOW = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"


@pytest.mark.parametrize(
    ("rate", "table", "statements", "fix"),
    [
        ("trickle", "stock_prices", [DEAR.format(table="stock_prices", column="price")], "DROP CONSTRAINT dear"),
        ("backlog", "stock_prices", [DEAR.format(table="stock_prices", column="price")], "DROP CONSTRAINT dear"),
        (
            "trickle",
            "stock_analytics_data",
            [DEAR.format(table="stock_analytics_data", column="price_moving_avg")],
            "DROP CONSTRAINT dear",
        ),
        (
            "trickle",
            "stock_prices",
            [REFUSE_ALL.format(code=""), TRIGGER.format(when="BEFORE", table="stock_prices")],
            "DISABLE TRIGGER",
        ),
        (
            "trickle",
            "stock_volumes",
            [
                REFUSE_ALL.format(code=" USING ERRCODE = 'check_violation'"),
                TRIGGER.format(when="AFTER", table="stock_volumes"),
            ],
            "DISABLE TRIGGER",
        ),
        ("backlog", "stock_prices", [SWALLOW, TRIGGER.format(when="BEFORE", table="stock_prices")], "DISABLE TRIGGER"),
    ],
    ids=[
        "check",
        "check, backlog",
        "check of the joined",
        "trigger",
        "late trigger that says it is a check",
        "trigger that swallows",
    ],
)
def test_a_table_that_refuses_everything(
    world: World, rate: str, table: str, statements: list[str], fix: str, start: Start
) -> None:
    """Every price would be a dead letter, for ever, while the daemon looks healthy."""
    world.produce(pairs(now(), 40, step=MILLISECOND))
    with start(world) as daemon:
        until(lambda: world.loaded() == 80)
        for statement in statements:
            world.query(statement)
        if rate == "trickle":
            with trickle(world):
                last = daemon.mistake()
        else:
            world.produce(pairs(now(), 2_000, step=MILLISECOND))
            last = daemon.mistake()
    assert f"ALTER TABLE {table} {fix}" in last
    assert "TICKLOOM_REJECT_LIMIT_RATIO" in last
    assert world.count("tickloom.dead_letters") == 0
    apply_fix(world, last.replace("DISABLE TRIGGER …", "DISABLE TRIGGER refuse;"))


def test_a_unique_index_of_ones_own(world: World, start: Start) -> None:
    """An index that takes each symbol once would make dead letters of all that comes after."""
    for table in TABLES:
        world.query(f"DROP TABLE {table} CASCADE")
    world.settings |= {f"TICKLOOM_{name}_PARTITIONING": "none" for name in ("PRICES", "VOLUMES", "ANALYTICS")}
    assert world.tickloom("migrate").returncode == 0
    world.query("CREATE UNIQUE INDEX once ON stock_prices (symbol)")
    world.produce(pairs(now(), 4, step=MILLISECOND))
    with start(world) as daemon:
        until(lambda: world.loaded() == 8)
        with trickle(world):
            last = daemon.mistake()
    assert "drop the index or constraint that once belongs to" in last
    assert world.count("tickloom.dead_letters") == 0
    world.query("DROP INDEX once")
    apply_fix(world, last)


def test_an_odd_row_at_a_trickle(world: World, start: Start) -> None:
    """One message that a constraint refuses would end the daemon, or stop the flow, or take its neighbours along."""
    world.query("ALTER TABLE stock_prices ADD CONSTRAINT no_thirteen CHECK (price <> 13)")
    world.produce(pairs(now(), 20, step=MILLISECOND))
    with start(world):
        until(lambda: world.loaded() == 40)
        with trickle(world, 0.1):
            for number in range(3):
                world.produce([tick("prices", "S1", now() + HOUR + number, 13)])
                until(lambda wanted=number + 1: world.count("tickloom.dead_letters") == wanted, 20)
    letters = world.query("SELECT reason, detail, value FROM tickloom.dead_letters")
    assert {reason for reason, _, _ in letters} == {"refused"}
    assert all("no_thirteen" in detail and value.endswith(b'"price":13}') for _, detail, value in letters)
    assert world.query("SELECT count(*) FROM stock_prices WHERE price = 13") == [(0,)]


def test_a_lone_odd_row(world: World, start: Start) -> None:
    """A single refused message may mean a table that refuses all: the daemon waits for others, but not for ever."""
    world.query("ALTER TABLE stock_prices ADD CONSTRAINT no_thirteen CHECK (price <> 13)")
    world.produce(pairs(now(), 3, step=MILLISECOND))
    with start(world):
        until(lambda: world.loaded() == 6)
        world.produce([tick("prices", "S1", now() + SECOND, 13)])
        until(lambda: world.count("tickloom.dead_letters") == 1, 40)
        world.produce(pairs(now() + 100 * MILLISECOND, 5, step=MILLISECOND))
        until(lambda: world.count("stock_prices") == 3 + 5)


def test_many_refused_rows(world: World) -> None:
    """Each refused message took 17 ms, so that a feed with a few percent of them could not be worked off."""
    world.query("ALTER TABLE stock_prices ADD CONSTRAINT no_thirteen CHECK (price <> 13)")
    start = now() - 60 * SECOND
    things = pairs(start, 30_000, step=MILLISECOND, symbols=50)
    for place in range(0, 60_000, 40):  # every 20th price
        one = things[place]
        things[place] = Thing(
            "prices", one.key, re.sub(rb'"price":.*', b'"price":13}', one.value or b""), one.timestamp_ms
        )
    world.produce(things)
    began = time.monotonic()
    once = world.tickloom("run", "--once")
    took = time.monotonic() - began
    assert once.returncode == 0, once.stderr[-3000:]
    assert world.count("tickloom.dead_letters") == 1_500
    assert world.count("stock_prices") == world.count("stock_analytics_data") == 28_500
    wrong = """SELECT count(*) FROM (SELECT price_moving_avg AS kept, avg(price) OVER
        (PARTITION BY symbol ORDER BY "timestamp" ROWS 4 PRECEDING) AS computed FROM stock_prices) x WHERE kept <> computed"""
    assert world.query(wrong) == [(0,)]
    assert took < 15, "some milliseconds each"


FIRST = """SELECT count(*) FROM (SELECT *, avg({value}) OVER (PARTITION BY symbol ORDER BY "timestamp" ROWS 4 PRECEDING) AS computed
    FROM {table}) x WHERE {average} IS DISTINCT FROM computed"""


@pytest.mark.parametrize(
    ("table", "condition", "dead"),
    [
        ("stock_prices", "price_moving_avg < 100", "prices"),
        ("stock_prices", "abs(price - price_moving_avg) < 100", "prices"),
        ("stock_analytics_data", "price_moving_avg < 100", "volumes"),
        ("stock_analytics_data", "price_volume_ratio < 100", "volumes"),
    ],
)
def test_a_constraint_on_what_is_computed(world: World, table: str, condition: str, dead: str) -> None:
    """One price far off raises the averages of the four after it: these are good, and must not go with it."""
    world.query(f"ALTER TABLE {table} ADD CONSTRAINT calm CHECK ({condition})")
    start = now() - HOUR
    things = [one for number in range(400) for one in pairs(start + number * MILLISECOND, 1, price=1.5 + number % 7)]
    spikes = range(100, 800, 50)  # prices: the even places
    for place in spikes:
        value = re.sub(rb'"price":[^}]*', b'"price":900', things[place].value or b"")
        things[place] = Thing("prices", things[place].key, value, things[place].timestamp_ms)
    world.produce(things[:400])
    world.drain()
    world.produce(things[400:])
    world.drain()
    letters = world.query("SELECT topic, value FROM tickloom.dead_letters")
    assert {topic for topic, _ in letters} == {world.topics[dead]}
    expected = len(spikes) * (5 if (table, condition[:16]) == ("stock_analytics_data", "price_moving_avg") else 1)
    assert len(letters) == expected
    assert world.query(FIRST.format(table="stock_prices", value="price", average="price_moving_avg")) == [(0,)]
    assert world.query(FIRST.format(table="stock_volumes", value="volume", average="trading_volume_moving_avg")) == [
        (0,)
    ]
    joined = 'SELECT count(*)::int FROM stock_prices JOIN stock_volumes USING (symbol, "timestamp")'
    assert world.query(joined) == [(world.count("stock_analytics_data"),)] == [(400 - expected,)]


def test_one_side_is_garbage(world: World, start: Start) -> None:
    """All prices could be bad for ever, because they are only half of both topics together."""
    things = pairs(now(), 3_000, step=MILLISECOND)
    world.produce(
        Thing(one.side, one.key, b"<xml/>" if one.side == "prices" else one.value, one.timestamp_ms) for one in things
    )
    with start(world) as daemon:
        last = daemon.mistake()
    assert world.topics["prices"] in last
    assert world.count("tickloom.dead_letters") == 0
