"""`tickloom verify` on tables that the real daemon filled from a hostile log: it calls exact what is, and finds what was bent."""

import asyncio
import json
import math
import os
import pty
import random
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from tests import services
from tests.acceptance.test_bad_days import frozen, until
from tests.acceptance.world import World
from tests.hostile import Thing, hostile_things
from tickloom.settings import Settings
from tickloom.store.slices import BEGINNING, END, Span
from tickloom.store.verdict import Kind, Report
from tickloom.store.verify import verify

MESSAGES = 8_000
PARTITIONING = ("TICKLOOM_PRICES_PARTITIONING", "TICKLOOM_VOLUMES_PARTITIONING", "TICKLOOM_ANALYTICS_PARTITIONING")
LAYOUTS = {
    "hourly": {},
    "daily": dict.fromkeys(PARTITIONING, "daily"),
    "none": dict.fromkeys(PARTITIONING, "none"),
    "mixed": dict(zip(PARTITIONING, ("hourly", "none", "monthly"), strict=True)),
    "window of one": {"TICKLOOM_WINDOW_ROWS": "1"},
}
AVERAGES = {"stock_prices": "price_moving_avg", "stock_volumes": "trading_volume_moving_avg"}
Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(kafka: Any, postgres: services.Postgres | services.Given) -> Worlds:
    """A world of each layout, filled by the daemon once; every call gives a fresh copy of its database."""
    unique, filled = uuid.uuid4().hex[:8], dict[str, World]()
    names = (f"prices-{unique}", f"volumes-{unique}")
    for name in names:
        services.create_topic(kafka.bootstrap, name, 4)
    topics = dict(zip(("prices", "volumes"), names, strict=True))
    World(kafka.bootstrap, "", topics).produce(hostile_things(seed=5, messages=MESSAGES))

    def world(layout: str) -> World:
        if layout not in filled:
            made = World(kafka.bootstrap, services.new_database(postgres), topics, settings=dict(LAYOUTS[layout]))
            for arguments in (("migrate",), ("run", "--once")):
                done = made.tickloom(*arguments)
                assert done.returncode == 0, done.stderr[-3000:]
            filled[layout] = made
        source = urlsplit(filled[layout].database_url).path[1:]
        copy = f"t{uuid.uuid4().hex[:12]}"
        services.execute(postgres.url, f"CREATE DATABASE {copy} TEMPLATE {source}")
        url = urlunsplit(urlsplit(postgres.url)._replace(path=f"/{copy}"))
        return replace(filled[layout], database_url=url, settings=dict(LAYOUTS[layout]))

    return world


def told(world: World, *options: str, code: int) -> dict[str, Any]:
    """What ``verify --json`` says; it must end with ``code``."""
    done = world.tickloom("verify", "--json", *options)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stderr == "", "no progress where nobody waits"
    return json.loads(done.stdout)


def settings_of(world: World) -> Settings:
    """The world's settings, for this process."""
    return Settings(
        database_url=SecretStr(world.database_url),
        prices_topic=world.topics["prices"],
        volumes_topic=world.topics["volumes"],
        **{name.removeprefix("TICKLOOM_").lower(): value for name, value in world.settings.items()},
    )


def look(world: World, start: datetime = BEGINNING, stop: datetime = END, **options: Any) -> Report:
    """``verify`` in this process, with a slice for every partition where nothing else is said."""
    return asyncio.run(verify(settings_of(world), Span(start, stop), **{"least_slice_bytes": 1} | options))


def kinds(report: Report) -> set[tuple[str, str]]:
    """Tables and columns that differ."""
    return {(kind.table, kind.column) for kind in report.wrong}


def middle(world: World) -> tuple[str, datetime]:
    """The key of a joined row with a whole window before it and another after it."""
    found = world.query(
        'SELECT symbol, "timestamp", price_moving_avg, trading_volume_moving_avg, price_volume_ratio, '
        'row_number() OVER (PARTITION BY symbol ORDER BY "timestamp") AS n, count(*) OVER (PARTITION BY symbol) AS rows '
        "FROM stock_analytics_data ORDER BY symbol, n"
    )
    return next(
        (symbol, at)
        for symbol, at, *numbers, n, rows in found
        if 10 < n < rows - 10 and all(number is not None and 1 < abs(number) < 1000 for number in numbers[:2])
    )


def where(key: tuple[str, datetime]) -> str:
    """A condition for one key."""
    return f"symbol = '{key[0].replace(chr(39), chr(39) * 2)}' AND \"timestamp\" = '{key[1].isoformat()}'"


def bend(world: World, table: str, column: str, key: tuple[str, datetime]) -> None:
    """Move one value by its last bit."""
    value = world.query(f"SELECT {column} FROM {table} WHERE {where(key)}")[0][0]
    bent = math.nextafter(value if value is not None else 0.0, math.inf)
    world.query(f"UPDATE {table} SET {column} = '{bent!r}'::float8 WHERE {where(key)}")


def contents(world: World) -> list[Any]:
    """All rows of the three tables, ``processed_at`` aside."""
    return [
        world.query(f"SELECT to_jsonb(t) - 'processed_at' FROM {table} t ORDER BY symbol, \"timestamp\"")
        for table in (*AVERAGES, "stock_analytics_data")
    ]


def alone(world: World, kafka: Any) -> World:
    """The world emptied, with topics of its own."""
    names = [f"{name}-{uuid.uuid4().hex[:8]}" for name in ("prices", "volumes")]
    for name in names:
        services.create_topic(kafka.bootstrap, name, 4)
    world.query("TRUNCATE stock_prices, stock_volumes, stock_analytics_data, tickloom.offsets, tickloom.dead_letters")
    world.query("DELETE FROM tickloom.source")
    return replace(world, topics=dict(zip(("prices", "volumes"), names, strict=True)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_exact_is_called_exact(worlds: Worlds, layout: str) -> None:
    """A false alarm over exact tables would teach its users not to look."""
    world = worlds(layout)
    counts = [world.query(f"SELECT count(*) FROM {table}")[0][0] for table in (*AVERAGES, "stock_analytics_data")]
    report = told(world, code=0)
    assert report["exact"]
    assert list(report["rows"].values()) == counts
    assert report["first"] == report["differences"] == report["left_out"] == report["remaining"] == []
    assert look(world, repair=True).repaired == Counter()
    low, high = world.query('SELECT min("timestamp"), max("timestamp") FROM stock_prices')[0]
    rng = random.Random(layout)
    for _ in range(6):
        start, stop = sorted(low + (high - low) * rng.uniform(-0.1, 1.1) for _ in range(2))
        assert not look(world, start, stop).wrong
        count = f"SELECT count(*) FROM stock_volumes WHERE \"timestamp\" >= '{start}' AND \"timestamp\" < '{stop}'"
        assert look(world, start, stop, least_slice_bytes=2**40).rows["stock_volumes"] == world.query(count)[0][0]


@pytest.mark.parametrize(
    ("layout", "table", "column"),
    [
        *(("hourly", table, column) for table, column in AVERAGES.items()),
        *(
            ("hourly", "stock_analytics_data", column)
            for column in ("price", "volume", "price_moving_avg", "trading_volume_moving_avg", "price_volume_ratio")
        ),
        ("window of one", "stock_prices", "price_moving_avg"),
        ("none", "stock_volumes", "trading_volume_moving_avg"),
        ("daily", "stock_analytics_data", "price_volume_ratio"),
        ("mixed", "stock_prices", "price_moving_avg"),
    ],
)
def test_one_bit_is_found_and_mended(worlds: Worlds, layout: str, table: str, column: str) -> None:
    """Otherwise `verify` would vouch for a wrong number."""
    world = worlds(layout)
    before = contents(world)
    key = middle(world)
    right = world.query(f"SELECT {column}::text FROM {table} WHERE {where(key)}")[0][0]
    bend(world, table, column, key)
    report = told(world, code=3)
    assert report["differences"] == [{"table": table, "column": column, "count": 1}]
    [first] = report["first"]
    assert (first["table"], first["symbol"], first["column"], first["expected"]) == (table, key[0], column, right)
    assert datetime.fromisoformat(first["timestamp"]) == key[1]
    assert first["found"] != right
    assert "--repair" in report["mends"][0]
    mended = look(world, repair=True)
    assert mended.repaired == Counter({table: 1})
    assert not mended.remaining
    assert not look(world).wrong
    assert contents(world) == before


@pytest.mark.parametrize("layout", ["hourly", "none", "window of one"])
@pytest.mark.parametrize("budget", [1, 6, 100])
def test_slices_of_any_size_see_the_same(
    worlds: Worlds, layout: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many locks a server has must not decide what is right: the rows before a slice come from others then."""

    async def few(_: Any) -> int:
        return budget

    monkeypatch.setattr("tickloom.store.verify.lock_budget", few)
    world = worlds(layout)
    before = contents(world)
    assert not look(world).wrong
    assert not look(world, middle(world)[1]).wrong
    world.query("UPDATE stock_volumes SET trading_volume_moving_avg = -7")
    rows = world.query("SELECT count(*) FROM stock_volumes")[0][0]
    assert look(world, repair=True).repaired == Counter({"stock_volumes": rows})
    assert contents(world) == before


@pytest.mark.parametrize("layout", ["hourly", "none"])
def test_a_missing_and_a_surplus_row(worlds: Worlds, layout: str) -> None:
    """A pair that was never joined, or half a pair that was, would go unseen."""
    world = worlds(layout)
    key = middle(world)
    world.query(
        "INSERT INTO stock_analytics_data SELECT 'GHOST', \"timestamp\", price, volume, price_moving_avg, "
        f"trading_volume_moving_avg, price_volume_ratio, processed_at FROM stock_analytics_data WHERE {where(key)}"
    )
    world.query(f"DELETE FROM stock_analytics_data WHERE {where(key)}")
    report = told(world, code=3)
    assert report["differences"] == [{"table": "stock_analytics_data", "column": "row", "count": 2}]
    found = {(row["symbol"], row["found"], row["expected"]) for row in report["first"]}
    assert found == {(key[0], "no row", "a row"), ("GHOST", "a row", "no row")}
    assert {datetime.fromisoformat(row["timestamp"]) for row in report["first"]} == {key[1]}
    assert told(world, "--repair", code=0)["repaired"]["stock_analytics_data"] == 2
    assert world.differences() == []


def test_symbols_that_are_not_known(worlds: Worlds) -> None:
    """A daemon would take them for new: rows twice, and averages that begin in the middle."""
    world = worlds("hourly")
    rows = world.query("SELECT count(*)::int FROM stock_prices")[0][0]
    rows += world.query("SELECT count(*)::int FROM stock_volumes")[0][0]
    known = world.query("SELECT symbol FROM tickloom.symbols ORDER BY 1")
    assert known == world.query("SELECT symbol FROM stock_prices UNION SELECT symbol FROM stock_volumes ORDER BY 1")
    world.query("TRUNCATE tickloom.symbols")
    report = told(world, code=3)
    assert sum(kind["count"] for kind in report["differences"] if kind["column"] == "symbol") == rows
    assert "restart the replicas" in report["mends"][0]
    assert told(world, "--repair", code=0)["remaining"] == []
    assert world.query("SELECT symbol FROM tickloom.symbols ORDER BY 1") == known
    assert told(world, code=0)["exact"]


@pytest.mark.parametrize("table", AVERAGES)
def test_a_deleted_raw_row(worlds: Worlds, table: str) -> None:
    """A lost row would go unseen where its neighbours still look well."""
    world = worlds("hourly")
    key = middle(world)
    after = f"symbol = '{key[0]}' AND \"timestamp\" > '{key[1].isoformat()}'"
    world.query(f"DELETE FROM {table} WHERE {where(key)}")
    report = look(world, limit=100)
    row = next(difference for difference in report.first if difference.column == "row")
    assert (row.symbol, datetime.fromisoformat(row.timestamp or "")) == key
    assert (row.found, row.expected) == ("a row", "no row")
    assert report.wrong[Kind(table, "rows")] == 1
    assert report.wrong[Kind(table, AVERAGES[table])] == 4, "the windows that it was in"
    assert kinds(report) == {
        (table, "rows"),
        (table, AVERAGES[table]),
        ("stock_analytics_data", "row"),
        ("stock_analytics_data", AVERAGES[table]),
    }
    assert any("dropped" in mend and "backup" in mend for mend in report.mends())
    left = told(world, "--repair", code=3)
    assert left["remaining"] == [{"table": table, "column": "rows", "count": 1}], "a repair brings no row back"
    assert kinds(look(world)) == {(table, "rows")}
    computed = f"""SELECT count(*) FROM (SELECT symbol, "timestamp", {AVERAGES[table]} AS kept, avg({table[6:-1]}) OVER
        (PARTITION BY symbol ORDER BY "timestamp" ROWS 4 PRECEDING) AS average FROM {table}) x
        WHERE kept <> average AND {after}"""
    assert world.query(computed)[0][0] == 0


LEDGER = {
    "a sum": ("UPDATE tickloom.offsets SET superseded = superseded + 1", ["next_offset"]),
    "stored": ("UPDATE tickloom.offsets SET stored = stored + 1", ["next_offset", "rows"]),
    "moved": (
        "UPDATE tickloom.offsets SET next_offset = next_offset + 1, skipped = skipped + 2, superseded = superseded - 1",
        [],
    ),
    "next offset": ("UPDATE tickloom.offsets SET next_offset = next_offset - 9999", ["next_offset", "source_offset"]),
    "missing": ("UPDATE tickloom.offsets SET missing = missing + 1, skipped = skipped - 1", ["offsets"]),
}


@pytest.mark.parametrize("what", LEDGER)
def test_a_ledger_that_does_not_add_up(worlds: Worlds, what: str) -> None:
    """Messages that were lost show nowhere else; and a repair must not call this mended."""
    world = worlds("hourly")
    statement, columns = LEDGER[what]
    topic = world.topics["prices"]
    world.query(f"{statement} WHERE topic = '{topic}' AND partition = 2")
    report = look(world, limit=1_000)
    assert sorted({column for _, column in kinds(report)}) == columns
    if not columns:
        return
    named = [difference for difference in report.first if difference.table.startswith("tickloom.")]
    assert {(difference.topic, difference.partition) for difference in named} == {(topic, 2)}
    left = told(world, "--repair", code=3)
    assert {entry["column"] for entry in left["remaining"]} == set(columns)
    assert left["mends"]
    assert not any("--repair` computes" in mend for mend in left["mends"])


def test_a_deleted_dead_letter(worlds: Worlds) -> None:
    """A message that is neither row nor dead letter is lost."""
    world = worlds("hourly")
    topic, partition = world.query(
        "DELETE FROM tickloom.dead_letters WHERE ctid = (SELECT min(ctid) FROM tickloom.dead_letters) RETURNING topic, partition"
    )[0]
    dead = world.query(f"SELECT dead FROM tickloom.offsets WHERE topic = '{topic}' AND partition = {partition}")[0][0]
    report = told(world, code=3)
    assert report["first"] == [
        {
            "table": "tickloom.dead_letters",
            "column": "rows",
            "found": str(dead - 1),
            "expected": str(dead),
            "symbol": None,
            "timestamp": None,
            "topic": topic,
            "partition": partition,
        }
    ]


def test_a_row_that_no_message_brought(worlds: Worlds) -> None:
    """Rows of another program would pass for the market's."""
    world = worlds("none")
    symbol, at = middle(world)
    world.query(
        f"INSERT INTO stock_prices VALUES ('{symbol}', '{at + timedelta(microseconds=1)}', 1, 1, 1, 1, 1, 1, 99999)"
    )
    world.query(f"INSERT INTO stock_volumes VALUES ('GHOST', '{at}', 1, 1, 77, 1)")
    report = look(world, limit=100)
    assert {(d.table, d.symbol, d.found) for d in report.first if d.column == "source_offset"} == {
        ("stock_prices", symbol, "99999"),
        ("stock_volumes", "GHOST", "1"),
    }
    assert {("stock_prices", "rows"), ("stock_volumes", "rows")} <= kinds(report)


@pytest.mark.parametrize("value", ["1e+308", "Infinity", "NaN", None])
def test_a_value_that_no_message_can_have(worlds: Worlds, value: str | None) -> None:
    """A number that Postgres cannot sum would end the look with an error, and hide all else."""
    world = worlds("hourly")
    key = middle(world)
    literal = "NULL" if value is None else f"'{value}'"
    world.query(f"UPDATE stock_prices SET price = {literal} WHERE {where(key)}")
    report = look(world, limit=100)
    [first] = [d for d in report.first if (d.table, d.column) == ("stock_prices", "price")]
    assert (first.symbol, first.found) == (key[0], value)
    repaired = look(world, repair=True)
    assert repaired.remaining == {Kind("stock_prices", "price"): 1}
    assert kinds(look(world)) == {("stock_prices", "price")}


def test_the_edges_of_a_range(worlds: Worlds) -> None:
    """A range that takes a row too many or too few cannot be trusted at its edges."""
    world = worlds("hourly")
    key = middle(world)
    bend(world, "stock_prices", "price_moving_avg", key)
    tick = timedelta(microseconds=1)
    assert kinds(look(world, start=key[1])) == {("stock_prices", "price_moving_avg")}
    assert kinds(look(world, stop=key[1] + tick)) == {("stock_prices", "price_moving_avg")}
    assert kinds(look(world, key[1], key[1] + tick)) == {("stock_prices", "price_moving_avg")}
    assert not look(world, start=key[1] + tick).wrong
    assert not look(world, stop=key[1]).wrong
    assert not look(world, start=key[1] + tick, repair=True).wrong
    east = key[1].astimezone().isoformat()
    assert (
        told(world, "--from", east, "--to", f"{key[1] + tick:%Y-%m-%d %H:%M:%S.%f}", code=3)["first"][0]["symbol"]
        == key[0]
    )
    outside = told(world, "--to", f"{key[1]:%Y-%m-%dT%H:%M:%S.%fZ}", "--repair", code=0)
    assert outside["exact"]
    assert kinds(look(world)) == {("stock_prices", "price_moving_avg")}, "not in the range, so not mended"
    told(world, "--from", f"{key[1]:%Y-%m-%d}", "--repair", code=0)
    assert world.differences() == []


def test_first_differences_are_bounded(worlds: Worlds) -> None:
    """A table that is wrong all over must not fill the memory, nor the screen."""
    world = worlds("hourly")
    world.query("UPDATE stock_prices SET price_moving_avg = -7")
    world.query("DELETE FROM stock_analytics_data WHERE symbol < 'B'")
    done = world.tickloom("verify", "--limit", "3")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert sum(line.startswith("     stock_") for line in lines) == 3
    assert any(line.startswith("     and ") and line.endswith(" more") for line in lines)
    assert any(line.startswith("BAD  stock_prices") and "price_moving_avg" in line for line in lines)
    rows = world.query("SELECT count(*) FROM stock_prices")[0][0]
    report = look(world, limit=3)
    assert report.wrong[Kind("stock_prices", "price_moving_avg")] == rows
    assert len(report.first) == 3
    moments = [difference.timestamp or "" for difference in report.first]
    oldest = world.query('SELECT min("timestamp") FROM stock_prices')[0][0]
    assert moments == sorted(moments)
    assert datetime.fromisoformat(moments[0]) == oldest
    assert look(world, limit=0).first == []
    mended = told(world, "--repair", code=0)
    assert mended["repaired"]["stock_prices"] == rows
    assert world.differences() == []


def drop_before(world: World, at: datetime, *tables: str) -> int:
    """Drop the partitions that end at ``at`` or before, as an operator does; how many."""
    names = [
        row[0]
        for table in tables
        for row in world.query(
            f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass"
        )
        if row[0] < f"{table}_{at:%Y%m%d%H}"
    ]
    for name in names:
        world.query(f"DROP TABLE {name}")
    return len(names)


def test_partitions_that_were_dropped(worlds: Worlds) -> None:
    """Whoever drops old partitions would get false alarms for ever, or a repair that bends right averages."""
    world = worlds("hourly")
    at = middle(world)[1].replace(minute=0, second=0, microsecond=0) + timedelta(hours=5)
    assert drop_before(world, at, *AVERAGES, "stock_analytics_data")
    before = contents(world)
    report = look(world)
    assert kinds(report) == {("stock_prices", "rows"), ("stock_volumes", "rows")}, "the counts tell, and no row does"
    assert report.left_out[Kind("stock_prices", "price_moving_avg", "short")] > 0
    assert any("--from" in mend for mend in report.mends())
    kept = told(world, "--from", at.isoformat(), code=0)
    assert kept["left_out"]
    told(world, "--from", at.isoformat(), "--repair", code=0)
    told(world, "--repair", code=3)
    assert contents(world) == before
    oldest = world.query('SELECT symbol, min("timestamp") FROM stock_prices GROUP BY 1 ORDER BY 1 LIMIT 1')[0]
    bend(world, "stock_analytics_data", "price_moving_avg", (oldest[0], oldest[1]))
    bent = world.query(f"SELECT count(*) FROM stock_analytics_data WHERE {where((oldest[0], oldest[1]))}")[0][0]
    found = kinds(look(world, start=at))
    assert found == ({("stock_analytics_data", "price_moving_avg")} if bent else set())


def test_joined_rows_outlive_their_raw_partitions(worlds: Worlds) -> None:
    """Whoever keeps joined rows longer than raw ones would lose them to a repair."""
    world = worlds("hourly")
    at = middle(world)[1].replace(minute=0, second=0, microsecond=0)
    count = world.query("SELECT count(*) FROM stock_analytics_data")[0][0]
    older = world.query(f"SELECT count(*) FROM stock_analytics_data WHERE \"timestamp\" < '{at.isoformat()}'")[0][0]
    assert drop_before(world, at, *AVERAGES)
    assert older
    world.query("DELETE FROM stock_analytics_data WHERE symbol = 'AAPL' AND \"timestamp\" >= '" + at.isoformat() + "'")
    report = look(world, repair=True)
    assert report.left_out[Kind("stock_analytics_data", "row", "dropped")] == older
    assert set(report.remaining) == {Kind("stock_prices", "rows"), Kind("stock_volumes", "rows")}
    assert world.query("SELECT count(*) FROM stock_analytics_data")[0][0] == count


def test_joined_rows_come_back_from_the_raw_tables(worlds: Worlds) -> None:
    """A partition of the join that was dropped by mistake could only be had again by reading the topics anew."""
    world = worlds("hourly")
    assert drop_before(world, middle(world)[1], "stock_analytics_data")
    assert kinds(look(world)) == {("stock_analytics_data", "row")}
    told(world, "--repair", code=0)
    assert world.differences() == []


BEND_BESIDE = """
    BEGIN;
    LOCK TABLE tickloom.offsets IN SHARE ROW EXCLUSIVE MODE;
    UPDATE stock_prices SET price_moving_avg = -7 WHERE symbol > 'SYM2';
    UPDATE stock_volumes SET trading_volume_moving_avg = -7 WHERE symbol < 'B';
    DELETE FROM stock_analytics_data WHERE hashtext(symbol || "timestamp"::text) % 3 = 0;
    COMMIT
"""


@pytest.mark.parametrize("layout", ["hourly", "none"])
def test_repair_beside_a_running_daemon(worlds: Worlds, layout: str, kafka: Any) -> None:
    """A repair that overwrites what the daemon has just committed would do harm where it should mend."""
    world = alone(worlds(layout), kafka)
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "100", "TICKLOOM_CACHE_MAX_SYMBOLS": "20"}
    things = hostile_things(seed=6, messages=12_000)
    world.produce(things)
    daemon = world.start("run")
    read = "SELECT coalesce(sum(next_offset - first_offset), 0)::int FROM tickloom.offsets"
    beside = 0
    try:
        until(lambda: world.query(read)[0][0] > 1_000)
        for _ in range(200):
            before = world.query(read)[0][0]
            if before == len(things):
                break
            services.execute(world.database_url, BEND_BESIDE)
            report = look(world, repair=True, least_slice_bytes=2**20)
            assert all(kind.mendable for kind in report.wrong), report.lines()
            assert report.repaired
            assert sum(report.repaired.values()) > 0
            after = look(world, least_slice_bytes=2**20)
            assert not after.wrong, after.lines()
            beside += world.query(read)[0][0] > before
        until(lambda: world.query(read)[0][0] == len(things), 120)
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, said[-2000:]
    assert beside >= 3, "the daemon did not commit while tables were being mended"
    assert world.differences() == []


def test_a_repair_between_a_batchs_reading_and_its_commit(worlds: Worlds, kafka: Any) -> None:
    """A batch that had read a wrong average would write it into the join after the repair had mended it everywhere."""
    world = alone(worlds("hourly"), kafka)
    world.settings["TICKLOOM_CACHE_TAIL_ROWS"] = "4"
    world.produce(hostile_things(seed=6, messages=4_000))
    assert world.tickloom("run", "--once").returncode == 0
    symbol, at, source_partition = world.query(
        'SELECT symbol, "timestamp", source_partition FROM stock_prices p JOIN stock_analytics_data USING (symbol, "timestamp") '
        'WHERE (SELECT count(*) FROM stock_prices q WHERE q.symbol = p.symbol AND q."timestamp" > p."timestamp") > 40 '
        'ORDER BY symbol, "timestamp" DESC LIMIT 1'
    )[0]
    world.query(f"UPDATE stock_volumes SET trading_volume_moving_avg = -7 WHERE {where((symbol, at))}")
    daemon = world.start("run", module="tests.acceptance.faulty", FAULTS="freeze@before_ledger:1")
    try:
        value = json.dumps({"symbol": symbol, "price": 0.5, "timestamp": at.isoformat()}).encode()
        world.produce([Thing("prices", symbol.encode(), value, int(at.timestamp() * 1_000), source_partition)])
        until(lambda: frozen(daemon.pid))  # it has read the average, and committed nothing
        told(world, "--repair", code=0)
        daemon.send_signal(signal.SIGCONT)
        until(lambda: world.query(f"SELECT price FROM stock_prices WHERE {where((symbol, at))}") == [(0.5,)])
    finally:
        daemon.send_signal(signal.SIGCONT)
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=60)
    assert world.differences() == []


async def test_repair_waits_for_the_batch_in_flight(worlds: Worlds) -> None:
    """A repair that reads before a batch's commit, and writes after it, would leave averages without its rows."""
    world = await asyncio.to_thread(worlds, "hourly")
    symbol, at = await asyncio.to_thread(middle, world)
    await asyncio.to_thread(bend, world, "stock_prices", "price_moving_avg", (symbol, at))
    writer = await asyncpg.connect(world.database_url)
    try:
        async with writer.transaction():
            row = await writer.fetchrow(
                "UPDATE tickloom.offsets SET next_offset = next_offset + 1, stored = stored + 1 "
                "WHERE topic = $1 AND partition = 0 RETURNING next_offset - 1 AS source_offset",
                world.topics["prices"],
            )
            task = asyncio.create_task(verify(settings_of(world), Span(), repair=True))
            await asyncio.sleep(2)
            await writer.execute(
                'INSERT INTO stock_prices (symbol, "timestamp", price, price_moving_avg, source_partition, source_offset) '
                "VALUES ($1, $2, 1, -7, 0, $3)",
                *(symbol, at - timedelta(microseconds=1), row["source_offset"]),
            )
            assert not task.done()
        report = await task
    finally:
        await writer.close()
    assert report.repaired is not None
    assert report.repaired["stock_prices"] == 5, "the row of the batch, and the windows that it entered"
    assert not (await verify(settings_of(world), Span())).wrong


def test_mistakes_and_outages(worlds: Worlds, database_url: str) -> None:
    """An operator who mistypes, or whose database is away, would read an answer about nothing."""
    world = worlds("hourly")

    def refused(*options: str, code: int, mend: str, **settings: str) -> None:
        done = world.tickloom("verify", *options, **settings)
        assert done.returncode == code, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("tickloom: ")
        assert mend in last
        assert "secret-word" not in done.stderr

    refused("--from", "yesterday", code=2, mend="write it like")
    refused("--to", "0001-01-01T00:00+14:00", code=2, mend="write it like")
    refused("--from", "2026-11-24T11:00+01:00", "--to", "2026-11-24T10:00", code=2, mend="half open")
    refused(code=2, mend="tickloom migrate", TICKLOOM_DATABASE_URL=database_url)
    refused(code=2, mend="window_rows 5, not 7", TICKLOOM_WINDOW_ROWS="7")
    away = urlunsplit(
        urlsplit(world.database_url)._replace(netloc=f"tickloom:secret-word@127.0.0.1:{services.free_port()}")
    )
    refused(code=1, mend="run it again", TICKLOOM_DATABASE_URL=away)
    assert world.tickloom("verify", "--limit", "-1").returncode == 2


def test_a_role_that_may_only_read(worlds: Worlds) -> None:
    """An auditor would need rights to write, only to look."""
    world = worlds("hourly")
    name = f"auditor_{uuid.uuid4().hex[:8]}"
    world.query(f"CREATE ROLE {name} LOGIN PASSWORD 'auditor'")
    world.query(f"GRANT USAGE ON SCHEMA tickloom TO {name}")
    world.query(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, tickloom TO {name}")
    parts = urlsplit(world.database_url)
    url = urlunsplit(parts._replace(netloc=f"{name}:auditor@{parts.hostname}:{parts.port}"))
    auditor = replace(world, database_url=url)
    assert told(auditor, code=0)["exact"]
    done = auditor.tickloom("verify", "--repair")
    assert done.returncode == 2
    assert "GRANT" in done.stderr


def test_progress_where_a_person_waits(worlds: Worlds) -> None:
    """A look of many minutes that says nothing gets killed."""
    world = worlds("hourly")
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "tickloom", "verify", "--json"],
            env=world.environment | {"TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        stdout, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(stdout)["exact"]
        assert b"verify" in os.read(ours, 65_536)
    finally:
        os.close(ours)


def test_shape_of_the_document(worlds: Worlds) -> None:
    """A monitor that reads the document would break with every release."""
    world = worlds("hourly")
    report = told(world, "--from", "2020-01-01", "--to", "2099-01-01T00:00:00.5+02:00", code=0)
    assert sorted(report) == sorted(
        (
            *("exact", "from", "to", "rows", "differences", "first", "left_out"),
            *("repaired", "remaining", "mends", "seconds"),
        )
    )
    assert report["from"] == datetime(2020, 1, 1, tzinfo=UTC).isoformat()
    assert report["to"] == datetime(2098, 12, 31, 22, 0, 0, 500_000, tzinfo=UTC).isoformat()
    assert report["repaired"] is None
    assert told(world, code=0)["from"] is None
