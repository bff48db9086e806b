"""`make peers` measures what it says it measures, and sees what is wrong in a table."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers, verdict
from benchmarks.measure import Measured, measure
from benchmarks.report import Report, Result, Scale
from tests import reference
from tests.waiting import until
from tickloom.shapes import SHAPES, reshaped
from tickloom.synthetic import SIDES, TickSettings, TopicSide, history

ROOT = Path(__file__).parents[2]
COLUMNS = verdict.COLUMNS["stock_volumes"]
ROWS = [("A", minute, 10.0 * minute, 10.0) for minute in range(1, 6)]

GREEDY = """
import subprocess, sys
child = "import time; held = bytearray(150_000_000)\\nwhile time.process_time() < 1.0: pass"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_tickloom_alone(kafka: Any, postgres: Any) -> None:
    """A user who wants to compare would get a stack trace instead of a table."""
    environment = os.environ | {"TICKLOOM_TEST_KAFKA": kafka.bootstrap, "TICKLOOM_TEST_DATABASE_URL": postgres.url}
    command = [sys.executable, "-m", "benchmarks", "--only", "tickloom", "--pairs", "2000", "--repetitions", "1"]
    done = subprocess.run([*command, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["log"]["shape"], document["log"]["bad"]) == ("realistic", 4)  # one in each thousand messages
    (peer,) = document["peers"]
    (run,) = peer["runs"]
    assert (peer["name"], run["exit_code"], run["rows"]) == ("tickloom", 0, 6_000 - 4 - 4)
    assert 0 < run["first_row_seconds"] <= run["seconds"]
    assert run["cpu_seconds"] > 0.2
    assert run["peak_bytes"] > 30_000_000
    assert peer["messages_per_second"] == pytest.approx(4_000 / run["seconds"])
    tables = run["tables"]
    assert tables["stock_prices"]["wanted"] + tables["stock_volumes"]["wanted"] == 4_000 - 4
    assert tables["stock_analytics_data"]["wanted"] == 2_000 - 4
    for table in tables.values():
        assert table["wanted"] == table["found"]
        assert not any(table[kind] for kind in ("missing", "surplus", "values_wrong", "averages_wrong", "last_digits"))


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (ROWS[1:], "missing"),
        ([*ROWS, ("B", 1, 1.0, 1.0)], "surplus"),
        ([*ROWS, ROWS[0]], "surplus"),
        ([("A", 1, 10.5, 10.0), *ROWS[1:]], "values_wrong"),
        ([("A", 1, 10.0, 10.0001), *ROWS[1:]], "averages_wrong"),
        ([("A", 1, 10.0, None), *ROWS[1:]], "averages_wrong"),
        ([("A", 1, 10.0, 10.000000000000002), *ROWS[1:]], "last_digits"),
    ],
)
def test_each_fault_is_counted_as_what_it_is(found: list[Any], kind: str) -> None:
    """A comparison that calls a peer wrong where it is right, or right where it is wrong, is worth nothing."""
    counted = verdict.compare(COLUMNS, ROWS, found)
    kinds = {name: getattr(counted, name) for name in verdict.TableVerdict.__dataclass_fields__}
    assert {name: count for name, count in kinds.items() if count and name not in ("wanted", "found")} == {kind: 1}
    assert counted.wrong == (kind != "last_digits")


def test_words() -> None:
    """The table of the comparison says how much is wrong, out of how much."""
    exact = {table: verdict.TableVerdict(100, 100, 0, 0, 0, 0, 0) for table in verdict.COLUMNS}
    assert verdict.describe(exact) == "all 300 rows right, to the last bit"
    edges = exact | {"stock_volumes": verdict.TableVerdict(100, 90, 10, 0, 0, 20, 0)}
    assert verdict.describe(edges, "averages wrong at batch edges") == (
        "rows missing: 10 of 200; averages wrong at batch edges: 20 of 200"
    )


@pytest.fixture
def tables(database_url: str, tmp_path: Path) -> str:
    """The URL of a database with the peers' tables."""
    workspace = peers.Workspace("", {}, database_url, tmp_path)
    workspace.make_tables(peers.Peer("some", "Some", "some", ""), range(1, 2))
    return database_url


@pytest.mark.parametrize("side", SIDES)
def test_the_jobs_in_python_know_what_is_bad(side: TopicSide, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that takes a bad message for a good one, or the other way round, would be called wrong for our mistake."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks/contract"))
    rules = importlib.import_module("rules")
    name = "price" if side == "prices" else "volume"
    ticks = list(history(TickSettings(symbols=20), 1_000, 0.5, datetime(2026, 3, 1, tzinfo=UTC)))
    for shape in ("bad-10", "tombstones-1", "realistic", "non-ascii"):
        for tick in (tick for tick in reshaped(ticks, SHAPES[shape]) if tick.topic_side == side):
            verdict = reference.reason_of(reference.Record(side, side, 0, 0, tick.key, tick.value, tick.timestamp_ms))
            found = rules.good(tick.value, name, tick.timestamp_ms)
            assert (found is not None) == isinstance(verdict, dict), tick.value


async def _measured(database_url: str, tmp_path: Path, limit_seconds: float, *command: str) -> Measured:
    return await measure(command, os.environ, database_url, tmp_path / "output", limit_seconds)


async def test_what_a_child_uses_counts(tables: str, tmp_path: Path) -> None:
    """A peer that starts a JVM would look as small as the script that starts it."""
    run = await _measured(tables, tmp_path, 60, sys.executable, "-c", GREEDY)
    assert run.exit_code == 0
    assert run.cpu_seconds > 0.8
    assert run.peak_bytes > 150_000_000
    assert run.first_row_seconds is None


async def test_the_limit_ends_all_of_it(tables: str, tmp_path: Path) -> None:
    """A peer that hangs would stop the comparison, and what it leaves running would slow the next one."""
    started = time.monotonic()
    run = await _measured(tables, tmp_path, 1, "bash", "-c", "sleep 3217 & echo $!; wait")
    assert time.monotonic() - started < 20
    assert run.exit_code is None
    left = Path("/proc", (tmp_path / "output").read_text().strip())
    await asyncio.to_thread(until, lambda: not left.exists() or " Z " in (left / "stat").read_text())


async def test_how_far_it_got_and_when_it_began(tables: str, tmp_path: Path) -> None:
    """The start of a JVM would be counted into the rate at which rows come."""
    script = f"""
import asyncio, asyncpg
async def main():
    connection = await asyncpg.connect({tables!r})
    await asyncio.sleep(0.5)
    for second in (3601, 3602):
        await connection.execute(
            "INSERT INTO stock_volumes SELECT 'S' || n, to_timestamp($1), n FROM generate_series(1, 100) n", second)
        await asyncio.sleep(1)
asyncio.run(main())
"""
    run = await _measured(tables, tmp_path, 60, sys.executable, "-c", script)
    assert (run.exit_code, run.first_rows, run.rows) == (0, 100, 200)
    assert run.first_row_seconds is not None
    assert run.first_row_seconds > 0.5
    assert run.steady_share == 0.5


def test_a_peer_that_cannot_be_installed_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A row that is silently left out looks like a choice."""
    (tmp_path / "requirements.txt").write_text("./nowhere\n")
    monkeypatch.setattr(peers, "CACHE", tmp_path / "cache")
    peer = peers.Peer("absent", "Absent", "absent", str(tmp_path))
    with pytest.raises(peers.NotInstalled) as refused:
        peers.install(peer)
    scale = Scale(1, 1, 1, 0.0, "plain", 1, 1.0)
    table = Report(scale, [Result(peer, reason=str(refused.value))], "Kafka", "PostgreSQL").markdown()
    row = table.splitlines()[-1]
    assert row.startswith("| Absent | – |")
    assert "not installed: ERROR" in row
    assert str(tmp_path) not in row
