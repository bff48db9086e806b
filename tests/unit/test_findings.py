"""What `check` finds in a world that answers only in part."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tickloom.commands import findings
from tickloom.settings import Settings
from tickloom.source.cluster import Cluster
from tickloom.store.postgres import Connection


class Database:
    """Answers what `check` asks, but for its clock: there it gives, or raises, what it was made with."""

    def __init__(self, clock: datetime | Exception) -> None:
        self._clock = clock

    async def execute(self, _query: str) -> str:
        return ""

    async def fetch(self, _query: str, *_: object) -> list[Any]:
        return []

    async def fetchrow(self, query: str, *_: object) -> dict[str, Any]:
        if "pg_inherits" in query:
            return {"oids": [1], "names": ["stock_prices_2026112410"]}
        return {"locks": 64, "sessions": 100}

    async def fetchval(self, query: str, *_: object) -> Any:
        if "relpartbound" in query:
            return ["FOR VALUES FROM ('2026-11-24 10:00:00+00') TO ('2026-11-24 11:00:00+00')"]
        if "clock_timestamp" not in query:
            return {"SHOW server_version": "17.0", "SELECT pg_backend_pid()": 7}.get(query, False)
        if isinstance(self._clock, Exception):
            raise self._clock
        return self._clock


@pytest.fixture
def check_with(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`check` against a database; all else is as it should be."""

    async def no_fault(*_: object) -> None:
        pass

    monkeypatch.setattr(findings, "describe_cluster", lambda _settings: Cluster("c", {"a": 4, "b": 4}))
    monkeypatch.setattr(findings, "ask_group", lambda _settings: "may be joined")
    monkeypatch.setattr(findings, "_source", no_fault)
    monkeypatch.setattr(findings, "check_cleanup", lambda _settings: "kept")
    monkeypatch.setattr(findings, "peek_keys", lambda _settings: "all have keys")
    monkeypatch.setattr(findings, "check_schema", no_fault)
    for name in ("rehearse", "rehearse_partitions", "refuse_poolers"):
        monkeypatch.setattr(findings, name, no_fault)

    async def check(database: Database) -> dict[str, findings.Finding]:
        @asynccontextmanager
        async def connected(_settings: Settings) -> AsyncGenerator[Connection]:
            yield Connection(database)

        monkeypatch.setattr(findings, "connected", connected)
        settings = Settings(kafka_bootstrap_servers="127.0.0.1:1")
        return {finding.what: finding for finding in await findings.find_all(settings)}

    return check


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError("the connection was closed in the middle of operation"),
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
        ConnectionResetError("reset by peer"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_database_goes_away_before_the_last_question(check_with: Any, error: Exception) -> None:
    """All that `check` has found by then would be lost behind a stack trace."""
    found = await check_with(Database(error))
    assert not found["clock"].good
    assert all(finding.good for what, finding in found.items() if what != "clock")


@pytest.mark.parametrize(("seconds", "good"), [(0, True), (60, False)])
async def test_clocks_apart(check_with: Any, seconds: int, good: bool) -> None:
    """A machine whose clock is wrong makes partitions for another time, and nobody knows why."""
    found = await check_with(Database(datetime.now(UTC) - timedelta(seconds=seconds)))
    assert found["clock"].good == good
    assert ("run a time service" in found["clock"].detail) != good
