"""A user's package declares a table, and nothing else: the real program makes it, fills it, judges it and repairs it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.world import World
from tests.hostile import hostile_things

PACKAGE = '''
from datetime import timedelta
from tickloom import Column, Output

rows_by_hour = Output(
    name="stock_rows_hourly",
    columns=(Column("rows", "bigint NOT NULL"),),
    sources=("stock_prices",),
    bucket=timedelta(hours=1),
    select="""
        SELECT symbol, bucket AS "timestamp", count(*) AS rows
        FROM stock_prices
        GROUP BY symbol, bucket
    """,
)
'''
EXPECTED = (
    """SELECT symbol, date_trunc('hour', "timestamp", 'UTC'), count(*) FROM stock_prices GROUP BY 1, 2 ORDER BY 1, 2"""
)
ACTUAL = "TABLE stock_rows_hourly ORDER BY 1, 2"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with the package as pip would install it."""
    (tmp_path / "my_outputs.py").write_text(PACKAGE)
    info = tmp_path / "my_outputs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-outputs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tickloom.outputs]\nrows = my_outputs:rows_by_hour\n")
    return tmp_path


@pytest.fixture
def world(
    kafka: Any, database_url: str, topics: tuple[str, str], package: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A world in which the package is installed for processes that the test starts, and the tables are migrated with it."""
    world = World.make(kafka, database_url, topics)
    monkeypatch.setenv("PYTHONPATH", ":".join([str(package), *(path for path in sys.path if path.endswith("/src"))]))
    done = world.tickloom("migrate")
    assert done.returncode == 0, done.stderr
    return world


def test_one_declaration_is_a_table(world: World) -> None:
    """A new table would be an edit in nine files."""
    world.produce(hostile_things(seed=3, messages=4_000))
    killed = world.start("run", "--once", TICKLOOM_BATCH_MAX_MESSAGES="50")
    deadline = time.monotonic() + 60
    while not world.query(ACTUAL) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = world.tickloom("run", "--once", TICKLOOM_BATCH_MAX_MESSAGES="700")
    assert done.returncode == 0, done.stderr[-3000:]
    assert world.differences() == []
    assert world.query(ACTUAL) == world.query(EXPECTED) != []
    checked = world.tickloom("check")
    assert checked.returncode == 0, checked.stdout
    assert verified(world, code=0)["rows"]["stock_rows_hourly"] == len(world.query(ACTUAL))
    world.query(
        "UPDATE stock_rows_hourly SET rows = rows + 1 WHERE symbol = (SELECT min(symbol) FROM stock_rows_hourly)"
    )
    assert {"stock_rows_hourly"} == {one["table"] for one in verified(world, code=3)["differences"]}
    verified(world, "--repair", code=0)
    assert world.query(ACTUAL) == world.query(EXPECTED)


def test_a_row_that_a_user_refuses_ends_with_code_2(world: World) -> None:
    """A constraint of theirs would cost messages, or the daemon would try for ever."""
    world.query("ALTER TABLE stock_rows_hourly ADD CONSTRAINT few CHECK (rows < 2)")
    world.produce(hostile_things(seed=3, messages=400))
    done = world.tickloom("run", "--once")
    assert done.returncode == 2, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert "stock_rows_hourly" in last
    assert "drop the constraint" in last
    assert world.query("SELECT count(*) FROM tickloom.dead_letters WHERE reason = 'refused'") == [(0,)]
    assert world.query("SELECT sum(stored) FROM tickloom.offsets") in ([(0,)], [(None,)])


def test_a_process_without_the_package_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two replicas would leave the table out of date."""
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path.endswith("/src")))
    done = world.tickloom("run", "--once")
    assert done.returncode == 2
    assert "stock_rows_hourly is an output of this database that this process does not declare" in done.stderr


def test_a_script_may_declare_it_too(world: World) -> None:
    """A user without a package could declare nothing."""
    script = (
        PACKAGE.replace("stock_rows_hourly", "by_script")
        + "\nfrom tickloom import declare\nfrom tickloom.cli import main\ndeclare(rows_by_hour)\nmain()\n"
    )
    command = [sys.executable, "-c", script, "migrate"]
    done = subprocess.run(command, env=world.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert world.query("SELECT name FROM tickloom.outputs ORDER BY 1") == [("by_script",), ("stock_rows_hourly",)]


def test_a_package_that_cannot_be_imported_is_named(world: World, package: Path) -> None:
    """A traceback would name a file, and not the package that is broken."""
    (package / "my_outputs.py").write_text("import nothing_of_that_name")
    done = world.tickloom("verify")
    assert done.returncode == 2
    assert "entry point rows = my_outputs:rows_by_hour of tickloom.outputs cannot be loaded" in done.stderr


def verified(world: World, *options: str, code: int) -> dict[str, Any]:
    """What ``verify --json`` says; it must end with ``code``."""
    done = world.tickloom("verify", "--json", *options)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)
