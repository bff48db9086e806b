"""What stands at the daemon's edges: settings, Kafka's options and passwords, HTTP, the group. Each is told, with the fix."""

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.world import World
from tests.hostile import hostile_things


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world with some messages in it."""
    world = World.make(kafka, database_url, topics)
    world.produce(hostile_things(seed=1, messages=50))
    return world


def refused(world: World, *told: str, command: tuple[str, ...] = ("run", "--once"), **settings: str) -> str:
    """The command ends with 2 and a last line that holds ``told``; gives that line."""
    done = world.tickloom(*command, timeout=60, **settings)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stdout + done.stderr[-2000:]
    assert last.startswith("tickloom: ")
    for part in told:
        assert part in last
    assert "secret-word" not in done.stderr
    return last


# --- settings ---------------------------------------------------------------------------------------------------


def test_kafka_options_from_a_file(world: World, tmp_path: Path) -> None:
    """Where the SASL password is, a file is what people want; "Input should be a valid dictionary" was what they got."""
    file = tmp_path / "tickloom_kafka_options"
    file.write_bytes('\ufeff{"client.rack": "a",\r\n "session.timeout.ms": 6000}\r\n'.encode())
    done = world.tickloom("run", "--once", TICKLOOM_KAFKA_OPTIONS_FILE=str(file))
    assert done.returncode == 0, done.stderr
    assert world.differences() == []
    done = world.tickloom("check", TICKLOOM_SECRETS_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text('{"sasl.password": "secret-word",}')
    refused(world, f"TICKLOOM_KAFKA_OPTIONS_FILE ({file}): not JSON", TICKLOOM_KAFKA_OPTIONS_FILE=str(file))
    refused(world, f"TICKLOOM_SECRETS_DIR ({file}): not JSON", TICKLOOM_SECRETS_DIR=str(tmp_path))


@pytest.mark.parametrize(
    "command", [("run",), ("run", "--once"), ("migrate",), ("verify",), ("bench", "--messages", "0")]
)
def test_unknown_names_are_refused(
    database_url: str, topics: tuple[str, str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The daemon would go on with a default in place of what somebody has set: another window, another database."""
    world = World("127.0.0.1:1", database_url, dict(zip(("prices", "volumes"), topics, strict=True)))
    refused(world, "TICKLOOM_WINDOW_ROW ", "TICKLOOM_WINDOW_ROWS?", command=command, TICKLOOM_WINDOW_ROW="7")
    missing = str(tmp_path / "missing")
    refused(world, f"no folder {missing}", command=command, TICKLOOM_SECRETS_DIR=missing)
    (tmp_path / "tickloom_database_urll").write_text(database_url)
    refused(world, "tickloom_database_url?", command=command, TICKLOOM_SECRETS_DIR=str(tmp_path))


def test_check_says_unknown_names_beside_all_else(world: World, tmp_path: Path) -> None:
    """One mistake would hide the others."""
    missing = str(tmp_path / "missing")
    done = world.tickloom("check", TICKLOOM_WINDOW_ROW="7", TICKLOOM_SECRETS_DIR=missing)
    assert done.returncode == 3
    assert "TICKLOOM_WINDOW_ROWS?" in done.stdout
    assert missing in done.stdout
    assert "ok   broker" in done.stdout


@pytest.mark.parametrize("name", ["auto.offset.reset", "topic.auto.offset.reset", "Auto.Offset.Reset"])
def test_a_reset_cannot_hide_a_gap(world: World, name: str) -> None:
    """2,500 messages that retention took were counted as skipped: no gap, no halt."""
    told = refused(world, f"{name} cannot be overridden", TICKLOOM_KAFKA_OPTIONS=f'{{"{name}": "earliest"}}')
    assert "jumped over" in told
    assert "TICKLOOM_GAP_POLICY" in told
    assert world.query("SELECT * FROM tickloom.offsets") == []
