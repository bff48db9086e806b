"""`tickloom verify` on tables that the real daemon filled from a hostile log: exact tables are called exact, and every changed value is found."""

import json
import os
import pty
import random
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests import services
from tests.integration.filled import (
    AVERAGES,
    LAYOUTS,
    Worlds,
    bend,
    contents,
    drop_before,
    kinds,
    look,
    middle,
    report_of,
    where,
)
from tickloom.store.verdict import Kind


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_exact_is_called_exact(worlds: Worlds, layout: str) -> None:
    """A false alarm over exact tables would teach its users not to look."""
    world = worlds(layout)
    counts = [world.query(f"SELECT count(*) FROM {table}")[0][0] for table in (*AVERAGES, "stock_analytics_data")]
    report = report_of(world, code=0)
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
    assert any("dropped" in fix and "backup" in fix for fix in report.fixes())
    left = report_of(world, "--repair", code=3)
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
    """Messages that were lost show nowhere else; and a repair must not call this repaired."""
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
    left = report_of(world, "--repair", code=3)
    assert {entry["column"] for entry in left["remaining"]} == set(columns)
    assert left["fixes"]
    assert not any("--repair` computes" in fix for fix in left["fixes"])


def test_a_deleted_dead_letter(worlds: Worlds) -> None:
    """A message that is neither row nor dead letter is lost."""
    world = worlds("hourly")
    topic, partition = world.query(
        "DELETE FROM tickloom.dead_letters WHERE ctid = (SELECT min(ctid) FROM tickloom.dead_letters) RETURNING topic, partition"
    )[0]
    dead = world.query(f"SELECT dead FROM tickloom.offsets WHERE topic = '{topic}' AND partition = {partition}")[0][0]
    report = report_of(world, code=3)
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
    """A number that Postgres cannot sum would end the check with an error, and hide all else."""
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
        report_of(world, "--from", east, "--to", f"{key[1] + tick:%Y-%m-%d %H:%M:%S.%f}", code=3)["first"][0]["symbol"]
        == key[0]
    )
    outside = report_of(world, "--to", f"{key[1]:%Y-%m-%dT%H:%M:%S.%fZ}", "--repair", code=0)
    assert outside["exact"]
    assert kinds(look(world)) == {("stock_prices", "price_moving_avg")}, "not in the range, so not repaired"
    report_of(world, "--from", f"{key[1]:%Y-%m-%d}", "--repair", code=0)
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
    repaired = report_of(world, "--repair", code=0)
    assert repaired["repaired"]["stock_prices"] == rows
    assert world.differences() == []


def test_partitions_that_were_dropped(worlds: Worlds) -> None:
    """A user who drops old partitions would get false alarms for ever, or a repair that bends right averages."""
    world = worlds("hourly")
    at = middle(world)[1].replace(minute=0, second=0, microsecond=0) + timedelta(hours=5)
    assert drop_before(world, at, *AVERAGES, "stock_analytics_data")
    before = contents(world)
    report = look(world)
    assert kinds(report) == {("stock_prices", "rows"), ("stock_volumes", "rows")}, "the counts show it, and no row does"
    assert report.left_out[Kind("stock_prices", "price_moving_avg", "short")] > 0
    assert any("--from" in fix for fix in report.fixes())
    kept = report_of(world, "--from", at.isoformat(), code=0)
    assert kept["left_out"]
    report_of(world, "--from", at.isoformat(), "--repair", code=0)
    report_of(world, "--repair", code=3)
    assert contents(world) == before
    oldest = world.query('SELECT symbol, min("timestamp") FROM stock_prices GROUP BY 1 ORDER BY 1 LIMIT 1')[0]
    bend(world, "stock_analytics_data", "price_moving_avg", (oldest[0], oldest[1]))
    bent = world.query(f"SELECT count(*) FROM stock_analytics_data WHERE {where((oldest[0], oldest[1]))}")[0][0]
    found = kinds(look(world, start=at))
    assert found == ({("stock_analytics_data", "price_moving_avg")} if bent else set())


def test_mistakes_and_outages(worlds: Worlds, database_url: str) -> None:
    """An operator who mistypes, or whose database is away, would read an answer about nothing."""
    world = worlds("hourly")

    def refused(*options: str, code: int, fix: str, **settings: str) -> None:
        done = world.tickloom("verify", *options, **settings)
        assert done.returncode == code, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("tickloom: ")
        assert fix in last
        assert "secret-word" not in done.stderr

    refused("--from", "yesterday", code=2, fix="write it like")
    refused("--to", "0001-01-01T00:00+14:00", code=2, fix="write it like")
    refused("--from", "2026-11-24T11:00+01:00", "--to", "2026-11-24T10:00", code=2, fix="half open")
    refused(code=2, fix="tickloom migrate", TICKLOOM_DATABASE_URL=database_url)
    refused(code=2, fix="window_rows 5, not 7", TICKLOOM_WINDOW_ROWS="7")
    away = urlunsplit(
        urlsplit(world.database_url)._replace(netloc=f"tickloom:secret-word@127.0.0.1:{services.free_port()}")
    )
    refused(code=1, fix="run it again", TICKLOOM_DATABASE_URL=away)
    assert world.tickloom("verify", "--limit", "-1").returncode == 2


def test_a_role_that_may_only_read(worlds: Worlds) -> None:
    """An auditor would need rights to write, only to read."""
    world = worlds("hourly")
    name = f"auditor_{uuid.uuid4().hex[:8]}"
    world.query(f"CREATE ROLE {name} LOGIN PASSWORD 'auditor'")
    world.query(f"GRANT USAGE ON SCHEMA tickloom TO {name}")
    world.query(f"GRANT SELECT ON ALL TABLES IN SCHEMA public, tickloom TO {name}")
    parts = urlsplit(world.database_url)
    url = urlunsplit(parts._replace(netloc=f"{name}:auditor@{parts.hostname}:{parts.port}"))
    auditor = replace(world, database_url=url)
    assert report_of(auditor, code=0)["exact"]
    done = auditor.tickloom("verify", "--repair")
    assert done.returncode == 2
    assert "GRANT" in done.stderr


def test_progress_where_a_person_waits(worlds: Worlds) -> None:
    """A check of many minutes that says nothing gets killed."""
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
    report = report_of(world, "--from", "2020-01-01", "--to", "2099-01-01T00:00:00.5+02:00", code=0)
    assert sorted(report) == sorted(
        (
            *("exact", "from", "to", "rows", "differences", "first", "left_out"),
            *("repaired", "remaining", "fixes", "seconds"),
        )
    )
    assert report["from"] == datetime(2020, 1, 1, tzinfo=UTC).isoformat()
    assert report["to"] == datetime(2098, 12, 31, 22, 0, 0, 500_000, tzinfo=UTC).isoformat()
    assert report["repaired"] is None
    assert report_of(world, code=0)["from"] is None
