"""`tickloom verify --repair`: it puts right what can be computed, and nothing else, beside a running daemon or without one."""

import asyncio
import json
import signal
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests import services
from tests.hostile import Thing, hostile_things
from tests.integration.filled import (
    AVERAGES,
    Worlds,
    alone,
    bend,
    contents,
    drop_before,
    kinds,
    look,
    middle,
    report_of,
    settings_of,
    where,
)
from tests.waiting import frozen, until
from tickloom.store.slices import Span
from tickloom.store.verdict import Kind
from tickloom.store.verify import verify


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
def test_one_bit_is_found_and_repaired(worlds: Worlds, layout: str, table: str, column: str) -> None:
    """Otherwise `verify` would vouch for a wrong number."""
    world = worlds(layout)
    before = contents(world)
    key = middle(world)
    right = world.query(f"SELECT {column}::text FROM {table} WHERE {where(key)}")[0][0]
    bend(world, table, column, key)
    report = report_of(world, code=3)
    assert report["differences"] == [{"table": table, "column": column, "count": 1}]
    [first] = report["first"]
    assert (first["table"], first["symbol"], first["column"], first["expected"]) == (table, key[0], column, right)
    assert datetime.fromisoformat(first["timestamp"]) == key[1]
    assert first["found"] != right
    assert "--repair" in report["fixes"][0]
    repaired = look(world, repair=True)
    assert repaired.repaired == Counter({table: 1})
    assert not repaired.remaining
    assert not look(world).wrong
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
    report = report_of(world, code=3)
    assert report["differences"] == [{"table": "stock_analytics_data", "column": "row", "count": 2}]
    found = {(row["symbol"], row["found"], row["expected"]) for row in report["first"]}
    assert found == {(key[0], "no row", "a row"), ("GHOST", "a row", "no row")}
    assert {datetime.fromisoformat(row["timestamp"]) for row in report["first"]} == {key[1]}
    assert report_of(world, "--repair", code=0)["repaired"]["stock_analytics_data"] == 2
    assert world.differences() == []


def test_symbols_that_are_not_known(worlds: Worlds) -> None:
    """A daemon would take them for new: rows twice, and averages that begin in the middle."""
    world = worlds("hourly")
    rows = world.query("SELECT count(*)::int FROM stock_prices")[0][0]
    rows += world.query("SELECT count(*)::int FROM stock_volumes")[0][0]
    known = world.query("SELECT symbol FROM tickloom.symbols ORDER BY 1")
    assert known == world.query("SELECT symbol FROM stock_prices UNION SELECT symbol FROM stock_volumes ORDER BY 1")
    world.query("TRUNCATE tickloom.symbols")
    report = report_of(world, code=3)
    assert sum(kind["count"] for kind in report["differences"] if kind["column"] == "symbol") == rows
    assert "restart the replicas" in report["fixes"][0]
    assert report_of(world, "--repair", code=0)["remaining"] == []
    assert world.query("SELECT symbol FROM tickloom.symbols ORDER BY 1") == known
    assert report_of(world, code=0)["exact"]


def test_joined_rows_outlive_their_raw_partitions(worlds: Worlds) -> None:
    """A user who keeps joined rows longer than raw ones would lose them to a repair."""
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
    """A partition of the join that was dropped by mistake could only be had again by reading the topics again."""
    world = worlds("hourly")
    assert drop_before(world, middle(world)[1], "stock_analytics_data")
    assert kinds(look(world)) == {("stock_analytics_data", "row")}
    report_of(world, "--repair", code=0)
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
    """A repair that overwrites what the daemon has just committed would make right rows wrong."""
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
            assert all(kind.repairable for kind in report.wrong), report.lines()
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
    assert beside >= 3, "the daemon did not commit while tables were being repaired"
    assert world.differences() == []


def test_a_repair_between_a_batchs_reading_and_its_commit(worlds: Worlds, kafka: Any) -> None:
    """A batch that had read a wrong average would write it into the join after the repair had put it right everywhere."""
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
        report_of(world, "--repair", code=0)
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
