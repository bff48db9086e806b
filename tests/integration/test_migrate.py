"""Databases on their way to the newest version: new ones, those from before numbered migrations, failures in between."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.acceptance.world import World
from tests.hostile import Thing
from tickloom.errors import LockHeld, NotAllowed, SchemaMismatch
from tickloom.settings import Settings
from tickloom.store import migrate as module
from tickloom.store.check import check_schema, check_tables
from tickloom.store.migrate import migrate
from tickloom.store.postgres import Connection, connect
from tickloom.store.versions import Migration, applied_migrations, known_migrations

BEFORE = Path(__file__).parents[1] / "fixtures/schema_before_migrations.sql"
NEWEST = known_migrations()[-1].version
CATALOGUE = """
    WITH ours AS (
        SELECT c.oid::regclass::text AS name, c.* FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname IN ('public', 'tickloom') AND NOT relispartition
    )
    SELECT concat_ws(' ', name, relkind, relpersistence, relreplident, relrowsecurity, reloptions, relacl, pg_get_partkeydef(oid)) FROM ours
    UNION ALL SELECT concat_ws(
        ' ', name, attname, format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull, pg_get_expr(adbin, adrelid),
        attgenerated, attidentity, attacl
    ) FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
    UNION ALL SELECT concat_ws(' ', name, conname, contype, pg_get_constraintdef(k.oid)) FROM ours JOIN pg_constraint k ON conrelid = ours.oid
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM ours JOIN pg_index ON indrelid = ours.oid
    UNION ALL SELECT concat_ws(' ', name, pg_get_triggerdef(t.oid)) FROM ours JOIN pg_trigger t ON tgrelid = ours.oid
    UNION ALL SELECT concat_ws(' ', pg_get_functiondef(oid), proacl) FROM pg_proc WHERE pronamespace = 'tickloom'::regnamespace
    UNION ALL SELECT concat_ws(' ', nspname, nspacl) FROM pg_namespace WHERE nspname = 'tickloom'
    UNION ALL SELECT concat_ws(' ', version, name) FROM tickloom.migrations
    ORDER BY 1
"""
"""All that a dump would show of the schema, except for the order of columns and the partitions."""


@pytest.fixture
def empty(database_url: str) -> Settings:
    """Settings of an empty database."""
    return Settings(database_url=database_url)  # type: ignore[arg-type]


@pytest.fixture
async def raw(empty: Settings) -> AsyncGenerator[Connection]:
    """A connection to it."""
    connection = await connect(empty)
    yield connection
    await connection.close()


@pytest.fixture
async def old(empty: Settings, database_url: str) -> AsyncGenerator[Connection]:
    """A connection to a database from before numbered migrations, with data."""
    await asyncio.to_thread(services.execute, database_url, BEFORE.read_text())
    connection = await connect(empty)
    yield connection
    await connection.close()


@pytest.fixture
async def new(postgres: services.Postgres | services.Given) -> AsyncGenerator[Connection]:
    """A connection to a database of its own that was migrated when it was empty."""
    url = await asyncio.to_thread(services.new_database, postgres)
    found = Settings(database_url=url)  # type: ignore[arg-type]
    connection = await connect(found)
    await migrate(connection, found)
    yield connection
    await connection.close()


async def catalogue(connection: Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(CATALOGUE)]


async def contents(connection: Connection) -> dict[str, list[str]]:
    """The rows of all tables that the fixture fills."""
    names = ["stock_prices", "stock_volumes", "stock_analytics_data"]
    names += [f"tickloom.{name}" for name in ("offsets", "dead_letters", "gaps", "symbols", "sharing", "source")]
    return {
        name: [row[0] for row in await connection.fetch(f"SELECT t::text FROM {name} t ORDER BY 1")] for name in names
    }


async def test_a_new_database(empty: Settings, raw: Connection) -> None:
    """`migrate` would not say what it did, or do it again."""
    done = await migrate(raw, empty)
    assert done[0] == "version 1: bookkeeping"
    assert "created stock_prices, partitioning hourly" in done
    assert done[-1] == f"the tables are at version {NEWEST}"
    assert await migrate(raw, empty) == done[-1:]
    applied = await raw.fetch("SELECT version, name FROM tickloom.migrations ORDER BY version")
    assert [tuple(row) for row in applied] == [(one.version, one.name) for one in known_migrations()]


async def test_an_upgraded_database_equals_a_new_one(empty: Settings, old: Connection, new: Connection) -> None:
    """Upgraded databases would lack a default or an index that new ones have, and behave differently for ever."""
    before = await contents(old)
    assert all(before.values())
    done = await migrate(old, empty)
    assert done[0] == "adopted the tables from before numbered migrations"
    facts = await catalogue(new)
    assert any("tickloom.offsets" in fact and "fillfactor=50" in fact for fact in facts)
    assert await catalogue(old) == facts
    assert await contents(old) == before


@pytest.mark.parametrize(
    "earlier",
    [
        "ALTER TABLE tickloom.offsets DROP COLUMN newest_timestamp",
        "ALTER TABLE tickloom.symbols DROP COLUMN since, DROP COLUMN home, "
        "ADD COLUMN prices_partition int, ADD COLUMN volumes_partition int; "
        "CREATE INDEX torn ON tickloom.symbols (symbol) WHERE prices_partition <> volumes_partition",
        "ALTER TABLE tickloom.source DROP COLUMN repairs, DROP COLUMN group_id, DROP COLUMN prices_topic_id, "
        "DROP COLUMN volumes_topic_id, REPLICA IDENTITY DEFAULT",
        "ALTER TABLE stock_prices DROP COLUMN source_timestamp; ALTER TABLE stock_volumes DROP COLUMN source_timestamp",
        "DROP TABLE tickloom.sharing",
        "DROP FUNCTION tickloom.make_partitions; DROP FUNCTION tickloom.partition_state; DROP FUNCTION tickloom.is_detached; "
        "CREATE FUNCTION tickloom.make_partitions(text, text[], timestamptz[], timestamptz[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
    ids=["newest_timestamp", "symbols", "source", "source_timestamp", "sharing", "functions"],
)
async def test_earlier_databases(earlier: str, empty: Settings, old: Connection, new: Connection) -> None:
    """A database of one of the first versions could not be upgraded."""
    await old.execute(earlier)
    await migrate(old, empty)
    assert await catalogue(old) == await catalogue(new)


async def test_older_than_the_first_release(empty: Settings, old: Connection) -> None:
    """Symbols that have rows would be taken for new, and their averages begin again."""
    await old.execute("DROP TABLE tickloom.symbols")
    with pytest.raises(SchemaMismatch, match="older than the first release"):
        await migrate(old, empty)
    assert await applied_migrations(old) == {}


async def test_versions_that_do_not_fit(settings: Settings, connection: Connection) -> None:
    """A daemon would write into tables that it does not know, or that lack what it needs."""
    await connection.execute("DELETE FROM tickloom.migrations WHERE version = $1", NEWEST)
    with pytest.raises(
        SchemaMismatch, match=f"at version {NEWEST - 1}, this tickloom needs {NEWEST}; run `tickloom migrate`"
    ):
        await check_schema(connection, settings)
    await migrate(connection, settings)
    await connection.execute("INSERT INTO tickloom.migrations VALUES (99, 'later')")
    for refused in (check_schema, migrate):
        with pytest.raises(SchemaMismatch, match=rf"newer tickloom \(version 99; this one knows {NEWEST}\): install"):
            await refused(connection, settings)
    await check_tables(connection, settings)  # what a daemon that was running before goes by


async def test_another_builds_migration(settings: Settings, connection: Connection) -> None:
    """Two branches that number their migrations alike would each take the other's for its own."""
    await connection.execute("UPDATE tickloom.migrations SET name = 'theirs' WHERE version = 2")
    for refused in (check_schema, migrate):
        with pytest.raises(SchemaMismatch, match="version 2 of the database is 'theirs'"):
            await refused(connection, settings)


async def test_a_failed_migration_leaves_what_was_before(settings: Settings, connection: Connection) -> None:
    """Half a migration would be a version that nobody knows."""
    good = Migration(NEWEST + 1, "good", "CREATE TABLE tickloom.good (a int)")
    bad = Migration(NEWEST + 2, "bad", "CREATE TABLE tickloom.bad (a int); SELECT 1 / 0")
    with pytest.raises(SchemaMismatch, match=rf"migration {bad.file} failed and was rolled back: division by zero"):
        await migrate(connection, settings, [*known_migrations(), good, bad])
    assert max(await applied_migrations(connection)) == good.version
    assert await connection.fetchval("SELECT to_regclass('tickloom.good') IS NOT NULL")
    assert await connection.fetchval("SELECT to_regclass('tickloom.bad') IS NULL")


async def test_several_at_once(empty: Settings) -> None:
    """Replicas that start together, each after its own `migrate`, would fail."""
    connections = [await connect(empty) for _ in range(4)]
    try:
        done = await asyncio.gather(*(migrate(connection, empty) for connection in connections))
    finally:
        for connection in connections:
            await connection.close()
    lines = [line for lines in done for line in lines[:-1]]
    assert sorted(lines) == sorted(set(lines))
    assert {lines[-1] for lines in done} == {f"the tables are at version {NEWEST}"}


async def test_a_long_reader(empty: Settings, old: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that queues behind a backup would have the whole daemon queue behind itself."""
    monkeypatch.setattr(module, "LOCK_PAUSES_SECONDS", (0.1,))
    reader = await connect(empty, "a backup")
    try:
        async with reader.transaction():
            await reader.fetch("SELECT * FROM tickloom.offsets")
            with pytest.raises(
                LockHeld, match=r"0001_bookkeeping.sql failed.* held by \d+ a backup since .*pg_terminate"
            ):
                await migrate(old, empty)
            assert await old.fetchval("SELECT count(*) FROM tickloom.offsets") == 4
        await migrate(old, empty)
    finally:
        await reader.close()


async def test_a_missing_output_table_is_created(settings: Settings, connection: Connection) -> None:
    """A table that a new version declares would need a migration for each width that a user may choose."""
    await connection.execute("DROP TABLE stock_analytics_data")
    await connection.execute(
        "CREATE OR REPLACE FUNCTION tickloom.output_tables() RETURNS text[] LANGUAGE sql AS $$SELECT '{stock_prices,theirs}'::text[]$$"
    )
    done = await migrate(
        connection, settings.model_copy(update={"analytics_partitioning": settings.prices_partitioning})
    )
    assert done == ["created stock_analytics_data, partitioning hourly", f"the tables are at version {NEWEST}"]
    served = await connection.fetchval("SELECT tickloom.output_tables()")
    assert served == ["stock_analytics_data", "stock_prices", "stock_volumes", "theirs"]


async def test_only_the_owner_migrates(settings: Settings, connection: Connection) -> None:
    """A role without rights would learn that only from the first migration that it cannot make."""
    role = f"r{settings.database_url.get_secret_value().rpartition('/')[2]}"
    await connection.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA tickloom TO {role}")
    await connection.execute(f"SET ROLE {role}")
    with pytest.raises(NotAllowed, match=r"the tables belong to .*; run `tickloom migrate` as "):
        await migrate(connection, settings)


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """The old database in a world of its own: its ledger is about topics that end where it ends."""
    services.execute(database_url, BEFORE.read_text())
    world = World(kafka.bootstrap, database_url, dict(zip(("prices", "volumes"), topics, strict=True)), 2)
    for side, topic in world.topics.items():
        services.create_topic(kafka.bootstrap, topic, 2)
        for table in ("offsets", "dead_letters", "gaps"):
            world.query(f"UPDATE tickloom.{table} SET topic = '{topic}' WHERE topic = 'before-{side}'")
        world.query(f"UPDATE tickloom.source SET {side}_topic = '{topic}', {side}_topic_id = NULL, group_id = NULL")
        ends = world.query(f"SELECT partition, next_offset FROM tickloom.offsets WHERE topic = '{topic}'")
        world.produce(Thing(side, None, b"loaded before", 0, partition) for partition, end in ends for _ in range(end))
    return world


def refuses(world: World, *command: str) -> str:
    """The command ends with 2; gives the last line that it writes."""
    done = world.tickloom(*command)
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1]


def test_the_daemon_goes_on_after_an_upgrade(world: World) -> None:
    """An upgrade would lose the place in the log, or the rows that the averages of new rows need."""
    for command in (("run", "--once"), ("verify",)):
        assert f"at version 0, this tickloom needs {NEWEST}; run `tickloom migrate`" in refuses(world, *command)
    migrated = world.tickloom("migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stdout.splitlines()[-1] == f"the tables are at version {NEWEST}"
    here = re.search("cluster_id 'cluster-before', not ('.+')", refuses(world, "run", "--once"))
    assert here
    world.query(f"UPDATE tickloom.source SET cluster_id = {here[1]}")
    after = 1_795_518_360_000  # 2026-11-24T11:06:00Z, a minute after the last loaded message
    for n in range(3):
        for side, name in (("prices", "price"), ("volumes", "volume")):
            value = json.dumps({"symbol": "AAPL", name: n, "timestamp": after + n}).encode()
            world.produce([Thing(side, b"AAPL", value, after + n)])
    done = world.tickloom("run", "--once")
    assert done.returncode == 0, done.stderr
    newest = (
        "SELECT price, price_moving_avg FROM stock_prices WHERE symbol = 'AAPL' ORDER BY \"timestamp\" DESC LIMIT 1"
    )
    assert world.query(newest) == [(2.0, (64 + 65 + 0 + 1 + 2) / 5)]
    assert world.tickloom("verify").returncode == 0


def test_a_newer_database(world: World) -> None:
    """A program that was rolled back would write into tables that it does not know."""
    assert world.tickloom("migrate").returncode == 0
    world.query("INSERT INTO tickloom.migrations VALUES (99, 'later')")
    for command in (("run", "--once"), ("verify",), ("migrate",)):
        assert "migrated by a newer tickloom" in refuses(world, *command)
    checked = world.tickloom("check")
    assert checked.returncode == 3
    assert "migrated by a newer tickloom" in checked.stdout
