"""What a DBA does to the tables, and rows that Postgres refuses: what can be gone on with is, and the rest is told with its
mend. No good message becomes a dead letter for what somebody did to a table."""

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from tests import services
from tests.acceptance.test_bad_days import until
from tests.acceptance.world import World
from tests.hostile import Thing

TABLES = ("stock_prices", "stock_volumes", "stock_analytics_data")
HOUR = 3_600_000


def now_ms() -> int:
    return int(time.time() * 1_000)


def pairs(count: int, start_ms: int, symbols: int = 4, price: float = 1.5) -> list[Thing]:
    """Prices and volumes of the same keys, one a millisecond from ``start_ms`` on."""
    things: list[Thing] = []
    for number in range(count):
        symbol, stamp = f"S{number % symbols}", start_ms + number
        for side, name, value in (("prices", "price", price + number), ("volumes", "volume", 2 + number)):
            fields = f'{{"symbol":"{symbol}","timestamp":{stamp},"{name}":{value}}}'
            things.append(Thing(side, symbol.encode(), fields.encode(), now_ms()))
    return things


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world with its tables made."""
    return World.make(kafka, database_url, topics)


def count(world: World, table: str) -> int:
    return int(world.query(f"SELECT count(*) FROM {table}")[0][0])


def done(world: World) -> int:
    """Messages that the ledger counts."""
    return int(world.query("SELECT coalesce(sum(next_offset - first_offset), 0)::int FROM tickloom.offsets")[0][0])


@contextmanager
def running(world: World, module: str = "tickloom", **settings: str) -> Iterator[Any]:
    """A daemon, which is killed at the end if it is still there."""
    daemon = world.start("run", module=module, **settings)
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.communicate()


def ended(daemon: Any, seconds: float = 40) -> str:
    """What it says last; it must end by itself, by a mistake."""
    _, told = daemon.communicate(timeout=seconds)
    assert daemon.returncode == 2, told[-3000:]
    assert "Traceback" not in told
    return str(told.strip().splitlines()[-1])


def stopped(daemon: Any) -> None:
    daemon.terminate()
    _, told = daemon.communicate(timeout=40)
    assert daemon.returncode == 0, told[-3000:]


@contextmanager
def trickle(world: World, gap_seconds: float = 0.25) -> Iterator[None]:
    """A pair every now and then, while inside."""
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(gap_seconds):
            world.produce(pairs(1, now_ms()))

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def mended(world: World, told: str) -> None:
    """Do what the last line says, and all is well again."""
    for statement in re.findall(r"(?:ALTER TABLE|DROP RULE) [^;…]+?(?=; | AND |, then|, or|$)", told):
        world.query(statement)
    done = world.tickloom("run", "--once")
    assert done.returncode == 0, done.stderr[-3000:]
    assert world.differences() == []
    assert count(world, "tickloom.dead_letters") == 0


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
def test_columns_and_indexes_are_added(world: World, busy: bool) -> None:
    """A column more made dead letters of good messages, or ended the daemon. Its values stay when a row is corrected."""
    world.query = lambda text: _query(world, text)  # type: ignore[method-assign]
    start = now_ms() - 2 * HOUR
    world.produce(pairs(200, start))
    with running(world) as daemon:
        until(lambda: done(world) == 400)
        add_columns(world)
        blocker = threading.Event()
        reader = threading.Thread(target=_read, args=(world, blocker)) if busy else None
        if reader is not None:
            reader.start()
        # Corrections, rows between, a late beginning, a new hour and new symbols.
        later = [*pairs(100, start, price=7.25), *pairs(50, start - HOUR), *pairs(60, start + 3 * HOUR, symbols=9)]
        world.produce(later)
        until(lambda: done(world) == 400 + len(later))
        blocker.set()
        if reader is not None:
            reader.join()
        stopped(daemon)
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
    world.produce([*pairs(50, start, price=9.25), *pairs(20, start + 5 * HOUR)])
    once = world.tickloom("run", "--once")
    assert once.returncode == 0, once.stderr[-3000:]
    assert world.differences() == []


def _query(world: World, text: str) -> list[tuple[Any, ...]]:
    """As ``World.query``, with several statements."""
    *before, last = [one for one in text.split(";\n") if one.strip()]
    if before:
        services.execute(world.database_url, *before)
    return World.query(world, last)


def _read(world: World, leave: threading.Event) -> None:
    """A long query on each table: partitions are made apart and attached."""
    import asyncio

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
    start = now_ms() - 2 * HOUR
    with_open = [
        Thing(one.side, one.key, one.value.replace(b"}", b',"open_price":77.5}'), one.timestamp_ms)
        for one in pairs(100, start)
        if one.value
    ]
    world.produce(with_open)
    assert world.tickloom("run", "--once").returncode == 0
    world.produce([*with_open[:60], *pairs(40, start + 20, price=6.5), *pairs(30, start - HOUR)])
    assert world.tickloom("run", "--once").returncode == 0
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
    ("statement", "mend"),
    [
        NUMERIC,
        ("ALTER TABLE tickloom.offsets ALTER COLUMN stored TYPE int", "ALTER COLUMN stored TYPE bigint"),
        ('ALTER TABLE stock_prices ALTER COLUMN symbol TYPE text COLLATE "default"', 'TYPE text COLLATE "C"'),
        ("ALTER TABLE stock_volumes DROP CONSTRAINT stock_volumes_pkey", 'ADD PRIMARY KEY (symbol, "timestamp")'),
        ("ALTER TABLE stock_prices ADD COLUMN note text NOT NULL", "ALTER COLUMN note DROP NOT NULL"),
    ],
    ids=["type", "type of the bookkeeping", "collation", "key", "column without default"],
)
def test_refused_at_the_start(world: World, statement: str, mend: str) -> None:
    """A daemon that starts on a table which it cannot write would end with a traceback, again and again."""
    world.produce(pairs(20, now_ms()))
    world.query(statement)
    checked = world.tickloom("check")
    assert checked.returncode == 3
    assert mend in checked.stdout.replace("\n", " ")
    with running(world) as daemon:
        told = ended(daemon)
    assert mend in told
    assert done(world) == 0
    mended(world, told)


@pytest.mark.parametrize("known", [True, False], ids=["known symbols", "new symbols"])
@pytest.mark.parametrize(("statement", "mend"), [NUMERIC, RENAMED], ids=["type", "name"])
def test_changed_while_it_runs(world: World, statement: str, mend: str, known: bool) -> None:
    """What was good data a second ago would become dead letters, or the daemon would die of a traceback."""
    world.produce(pairs(40, now_ms()))
    with running(world) as daemon:
        until(lambda: done(world) == 80)
        world.query(statement)
        world.produce(pairs(40, now_ms() + 100, symbols=4 if known else 11))
        told = ended(daemon)
    assert mend in told
    assert done(world) == 80
    mended(world, told.replace("RENAME COLUMN …", "RENAME COLUMN amount"))


REFUSE_ALL = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed'{code}; END $$"
)
TRIGGER = "CREATE TRIGGER refuse {when} INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"


DEAR = "ALTER TABLE {table} ADD CONSTRAINT dear CHECK ({column} < 0) NOT VALID"
SWALLOW = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"


@pytest.mark.parametrize(
    ("rate", "table", "statements", "mend"),
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
def test_a_table_that_refuses_everything(world: World, rate: str, table: str, statements: list[str], mend: str) -> None:
    """Every price would be a dead letter, for ever, and the daemon well: what refuses all rows is the table."""
    world.produce(pairs(40, now_ms()))
    with running(world) as daemon:
        until(lambda: done(world) == 80)
        for statement in statements:
            world.query(statement)
        if rate == "trickle":
            with trickle(world):
                told = ended(daemon)
        else:
            world.produce(pairs(2_000, now_ms()))
            told = ended(daemon)
    assert f"ALTER TABLE {table} {mend}" in told
    assert "TICKLOOM_REJECT_LIMIT_RATIO" in told
    assert count(world, "tickloom.dead_letters") == 0
    mended(world, told.replace("DISABLE TRIGGER …", "DISABLE TRIGGER refuse;"))


def test_a_unique_index_of_ones_own(world: World) -> None:
    """An index that takes each symbol once would make dead letters of all that comes after."""
    for table in TABLES:
        world.query(f"DROP TABLE {table} CASCADE")
    world.settings |= {f"TICKLOOM_{name}_PARTITIONING": "none" for name in ("PRICES", "VOLUMES", "ANALYTICS")}
    assert world.tickloom("migrate").returncode == 0
    world.query("CREATE UNIQUE INDEX once ON stock_prices (symbol)")
    world.produce(pairs(4, now_ms()))
    with running(world) as daemon:
        until(lambda: done(world) == 8)
        with trickle(world):
            told = ended(daemon)
    assert "drop the index or constraint that once belongs to" in told
    assert count(world, "tickloom.dead_letters") == 0
    world.query("DROP INDEX once")
    mended(world, told)


def test_an_odd_row_at_a_trickle(world: World) -> None:
    """One message that a constraint refuses would end the daemon, or stop the flow, or take its neighbours along."""
    world.query("ALTER TABLE stock_prices ADD CONSTRAINT no_thirteen CHECK (price <> 13)")
    world.produce(pairs(20, now_ms()))
    with running(world) as daemon:
        until(lambda: done(world) == 40)
        with trickle(world, 0.1):
            for number in range(3):
                odd = f'{{"symbol":"S1","timestamp":{now_ms() + HOUR + number},"price":13}}'
                world.produce([Thing("prices", b"S1", odd.encode(), now_ms())])
                until(lambda wanted=number + 1: count(world, "tickloom.dead_letters") == wanted, 20)
        stopped(daemon)
    letters = world.query("SELECT reason, detail, value FROM tickloom.dead_letters")
    assert {reason for reason, _, _ in letters} == {"refused"}
    assert all("no_thirteen" in detail and value.endswith(b'"price":13}') for _, detail, value in letters)
    assert world.query("SELECT count(*) FROM stock_prices WHERE price = 13") == [(0,)]


def test_a_lone_odd_row(world: World) -> None:
    """A message that comes alone cannot be told from a table that refuses all: others are waited for, but not for ever."""
    world.query("ALTER TABLE stock_prices ADD CONSTRAINT no_thirteen CHECK (price <> 13)")
    world.produce(pairs(3, now_ms()))
    with running(world) as daemon:
        until(lambda: done(world) == 6)
        odd = f'{{"symbol":"S1","timestamp":{now_ms() + 1000},"price":13}}'
        world.produce([Thing("prices", b"S1", odd.encode(), now_ms())])
        until(lambda: count(world, "tickloom.dead_letters") == 1, 40)
        world.produce(pairs(5, now_ms() + 100))
        until(lambda: count(world, "stock_prices") == 3 + 5)
        stopped(daemon)


def test_many_refused_rows(world: World) -> None:
    """Each refused message took 17 ms, so that a feed with a few percent of them could not be worked off."""
    world.query("ALTER TABLE stock_prices ADD CONSTRAINT no_thirteen CHECK (price <> 13)")
    start = now_ms() - 60_000
    things = pairs(30_000, start, symbols=50)
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
    assert count(world, "tickloom.dead_letters") == 1_500
    assert count(world, "stock_prices") == count(world, "stock_analytics_data") == 28_500
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
    start = now_ms() - HOUR
    things = [one for number in range(400) for one in pairs(1, start + number, price=1.5 + number % 7)]
    spikes = range(100, 800, 50)  # prices: the even places
    for place in spikes:
        value = re.sub(rb'"price":[^}]*', b'"price":900', things[place].value or b"")
        things[place] = Thing("prices", things[place].key, value, things[place].timestamp_ms)
    world.produce(things[:400])
    assert world.tickloom("run", "--once").returncode == 0
    world.produce(things[400:])
    assert world.tickloom("run", "--once").returncode == 0
    letters = world.query("SELECT topic, value FROM tickloom.dead_letters")
    assert {topic for topic, _ in letters} == {world.topics[dead]}
    expected = len(spikes) * (5 if (table, condition[:16]) == ("stock_analytics_data", "price_moving_avg") else 1)
    assert len(letters) == expected
    assert world.query(FIRST.format(table="stock_prices", value="price", average="price_moving_avg")) == [(0,)]
    assert world.query(FIRST.format(table="stock_volumes", value="volume", average="trading_volume_moving_avg")) == [
        (0,)
    ]
    joined = 'SELECT count(*)::int FROM stock_prices JOIN stock_volumes USING (symbol, "timestamp")'
    assert world.query(joined) == [(count(world, "stock_analytics_data"),)] == [(400 - expected,)]


def test_one_side_is_garbage(world: World) -> None:
    """All prices could be bad for ever: of both topics together they are exactly half."""
    things = pairs(3_000, now_ms())
    world.produce(
        Thing(one.side, one.key, b"<xml/>" if one.side == "prices" else one.value, one.timestamp_ms) for one in things
    )
    with running(world) as daemon:
        told = ended(daemon)
    assert world.topics["prices"] in told
    assert count(world, "tickloom.dead_letters") == 0


def test_a_key_is_dropped_while_nothing_comes(world: World) -> None:
    """A daemon at rest would not notice, and look rows up without an index from then on."""
    world.produce(pairs(10, now_ms()))
    with running(world, module="tests.acceptance.brisk") as daemon:
        until(lambda: done(world) == 20)
        world.query("ALTER TABLE stock_prices DROP CONSTRAINT stock_prices_pkey")
        told = ended(daemon)
    assert 'ALTER TABLE stock_prices ADD PRIMARY KEY (symbol, "timestamp")' in told
    mended(world, told)


BAD = Thing("prices", b"S1", b"not json", 1_790_000_000_000)


def test_the_ledger_was_emptied(world: World) -> None:
    """It was taken over 88 times in 20 seconds: what is read again met the dead letters that are there."""
    world.produce([*pairs(30, now_ms()), BAD])
    assert world.tickloom("run", "--once").returncode == 0
    world.query("DELETE FROM tickloom.offsets")
    world.query("TRUNCATE stock_prices, stock_volumes, stock_analytics_data")
    checked = world.tickloom("check")
    assert checked.returncode == 3
    assert "TRUNCATE tickloom.offsets" in checked.stdout.replace("\n", " ")
    with running(world) as daemon:
        told = ended(daemon)
    assert "tickloom.dead_letters holds offset" in told
    world.query(told[told.index("TRUNCATE") :])
    assert world.tickloom("run", "--once").returncode == 0
    assert world.differences() == []


def test_rows_that_no_ledger_knows(world: World) -> None:
    """Whoever brings history of his own into the tables, or has lost the ledger alone, would be told to empty them."""
    world.produce(pairs(30, now_ms()))
    assert world.tickloom("run", "--once").returncode == 0
    before = world.query("SELECT * FROM stock_prices ORDER BY 1, 2")
    world.query("DELETE FROM tickloom.offsets")
    world.produce(pairs(10, now_ms() + 100))
    assert world.tickloom("run", "--once").returncode == 0
    assert set(before) <= set(world.query("SELECT * FROM stock_prices"))
    assert count(world, "stock_analytics_data") == 40


def test_the_ledger_is_emptied_while_it_runs(world: World) -> None:
    """A fenced daemon took its partitions over anew from the beginning, and met what is there for ever."""
    world.produce([*pairs(30, now_ms()), BAD])
    with running(world) as daemon:
        until(lambda: done(world) == 61)
        world.query("DELETE FROM tickloom.offsets")
        world.produce(pairs(10, now_ms() + 100))
        told = ended(daemon)
    assert "TRUNCATE tickloom.offsets" in told


def test_sessions_that_come_to_nothing(world: World) -> None:
    """A daemon that starts over and over, and gets nowhere, looked as live as one that works."""
    world.query(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.next_offset > OLD.next_offset THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    world.query("CREATE TRIGGER keep BEFORE UPDATE ON tickloom.offsets FOR EACH ROW EXECUTE FUNCTION keep()")
    world.produce(pairs(10, now_ms()))
    port = services.free_port()

    def livez() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    with running(world, TICKLOOM_HTTP_PORT=str(port), TICKLOOM_RETRY_MAX_SECONDS="2") as daemon:
        until(lambda: livez()[0] == 503, 30)
        assert "sessions in a row ended without a commit" in livez()[1]
        assert world.query("SELECT max(epoch) FROM tickloom.offsets")[0][0] < 12, "they must wait in between"
        world.query("DROP TRIGGER keep ON tickloom.offsets")
        until(lambda: done(world) == 20)
        assert livez()[0] == 200
        stopped(daemon)
    assert world.differences() == []


def test_all_tables_are_published(world: World) -> None:
    """Logical replication of a whole database would keep the ledger's neighbours, which have no keys, from being updated."""
    world.query("CREATE PUBLICATION everything FOR ALL TABLES")
    start = now_ms() - HOUR
    for portion in (pairs(200, start), pairs(100, start, price=7.5), pairs(200, start - 50)):
        world.produce(portion)
        assert world.tickloom("run", "--once").returncode == 0
    assert world.differences() == []
    world.query("UPDATE stock_prices SET price_moving_avg = -7 WHERE symbol = 'S1'")
    assert world.tickloom("verify", "--repair").returncode == 0
    assert world.differences() == []
