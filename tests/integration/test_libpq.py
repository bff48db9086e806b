"""A database that only libpq's own files name, reached for real."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import services
from tickloom.settings import load
from tickloom.store.postgres import connected


@pytest.fixture
def home(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the service ``market`` and its password; the environment names the service."""
    parts = urlsplit(database_url)
    database = parts.path[1:]
    service = f"[market]\nhost={parts.hostname}\nport={parts.port}\ndbname={database}\nuser={parts.username}\n"
    (tmp_path / ".pg_service.conf").write_text(service)
    passwords = tmp_path / ".pgpass"
    passwords.touch(0o600)
    passwords.write_text(f"{parts.hostname}:{parts.port}:{database}:{parts.username}:{parts.password}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGSERVICE", "market")
    return tmp_path


async def test_a_service_and_its_password(home: Path, database_url: str) -> None:
    """What psql reaches with PGSERVICE, tickloom would not, or it would want the password a second time."""
    async with connected(load()) as connection:
        assert await connection.fetchval("SELECT current_database()") == urlsplit(database_url).path[1:]


def test_commands_say_where_the_database_comes_from(home: Path, database_url: str) -> None:
    """With five places to look in, nobody would know which of them is used."""

    def tickloom(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{services.free_port()}"} | settings
        command = [sys.executable, "-m", "tickloom", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    source = f"PGSERVICE market in {home / '.pg_service.conf'}"
    done = tickloom("migrate", "--output", "json")
    assert done.returncode == 0, done.stderr
    assert '"partitions_created": ' in done.stdout
    done = tickloom("check")
    (line,) = (line for line in done.stdout.splitlines() if " database " in line[:16])
    assert line.startswith("ok ")
    assert line.endswith(f"the address comes from {source}")
    (home / ".pgpass").write_text("*:*:*:*:wrong-word\n")
    done = tickloom("check")
    (line,) = (line for line in done.stdout.splitlines() if " database " in line[:16])
    assert line.startswith("BAD")
    assert source in line
    assert "wrong-word" not in done.stdout + done.stderr
    done = tickloom("verify", PGSERVICE="markte")
    assert done.returncode == 2
    assert "no service markte" in done.stderr
