"""A connection as it is handed out, on a real Postgres."""

import asyncio
import uuid
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tickloom.errors import Mistake, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store import postgres


def settings_for(url: str, **others: float) -> Settings:
    return Settings.model_validate({"database_url": url, **others})


async def sessions(url: str) -> int:
    """How many sessions the database has, but for the one that asks."""
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def until_there_are(count: int, url: str) -> None:
    """Waits until the server has noticed, too; fails when it does not."""
    for _ in range(200):
        if await sessions(url) == count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"there are {await sessions(url)} sessions, not {count}")


async def test_a_session_is_set_up(database_url: str) -> None:
    """A replica that vanished would hold its locks for ever, and its successor could not find its session."""
    name = f"it's a \\ {uuid.uuid4().hex[:8]}"
    connection = await postgres.connect(settings_for(database_url, database_command_timeout_seconds=7.5), name)
    try:
        found = {
            setting: await connection.fetchval("SELECT current_setting($1)", setting)
            for setting in (
                *("application_name", "statement_timeout", "default_transaction_isolation"),
                *("idle_in_transaction_session_timeout", "tcp_user_timeout", "search_path"),
            )
        }
    finally:
        await connection.close()
    assert found == {
        "application_name": name,
        "statement_timeout": "7500ms",
        "default_transaction_isolation": "read committed",
        "idle_in_transaction_session_timeout": "1min",
        "tcp_user_timeout": "30000",
        "search_path": "public",  # the tests' role is called tickloom
    }


async def test_the_search_path_of_others_is_theirs(database_url: str) -> None:
    """Tables in a schema that the role's search path names would not be found."""
    role = f"r{uuid.uuid4().hex[:8]}"
    connection = await postgres.connect(settings_for(database_url))
    await connection.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'; ALTER ROLE {role} SET search_path = market, public"
    )
    await connection.close()
    parts = urlsplit(database_url)
    url = urlunsplit(parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}"))
    connection = await postgres.connect(settings_for(url))
    try:
        assert await connection.fetchval("SELECT current_setting('search_path')") == "market, public"
    finally:
        await connection.close()


async def test_a_connection_that_cannot_be_set_up_is_closed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try of an outage would leave a session behind, until the database has none left for anybody."""
    monkeypatch.setattr(postgres, "_SESSION_SETTINGS", "SET no_such_setting = 1")
    with pytest.raises(Mistake, match="no_such_setting"):
        await postgres.connect(settings_for(database_url))
    await until_there_are(0, database_url)


async def test_a_set_up_without_an_answer_is_given_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has gone silent by then would be waited for as long as a statement may take: minutes."""
    monkeypatch.setattr(postgres, "_SESSION_SETTINGS", "SELECT pg_sleep(4)")
    with pytest.raises(StoreUnavailable):
        await postgres.connect(settings_for(database_url, database_connect_timeout_seconds=1))
    await until_there_are(0, database_url)


async def test_a_set_up_that_is_cancelled_is_closed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is stopped at that moment would leave a session behind."""
    monkeypatch.setattr(postgres, "_SESSION_SETTINGS", "SELECT pg_sleep(4)")
    task = asyncio.create_task(postgres.connect(settings_for(database_url)))
    await until_there_are(1, database_url)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_there_are(0, database_url)
