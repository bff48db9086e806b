"""Poolers, and what is done to the database at night: the daemon goes on, or says what to type."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests import services
from tests.acceptance.replica import Start
from tests.acceptance.roles import found_bad
from tests.acceptance.ticks import HOUR, NOW, OLD, pairs, part_of, tick
from tests.acceptance.world import World
from tests.waiting import until


@pytest.mark.parametrize("options", [(), ("server_round_robin=1",)])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_changes_servers(world: World, mode: str, options: tuple[str, ...]) -> None:
    """Session settings and staging tables would land anywhere; rows of one daemon in the batches of another."""
    world.produce(pairs(NOW, 10))
    with services.pgbouncer(world.database_url, mode, *options) as url:
        done = world.tickloom("run", "--once", timeout=60, TICKLOOM_DATABASE_URL=url)
        assert done.returncode == 2, done.stderr
        assert f"a pooler in {mode} mode" in done.stderr.splitlines()[-1]
        assert "session mode" in done.stderr.splitlines()[-1]
        world.settings["TICKLOOM_DATABASE_URL"] = url
        assert f"a pooler in {mode} mode" in str(found_bad(world))
    assert world.query("SELECT count(*) FROM tickloom.offsets") == [(0,)]


def test_a_pooler_in_session_mode(world: World) -> None:
    """A user who reaches Postgres only through pgbouncer would be refused for nothing."""
    world.produce(pairs(OLD, 20) + pairs(NOW, 20))
    with services.pgbouncer(world.database_url, "session") as url:
        world.settings["TICKLOOM_DATABASE_URL"] = url
        assert found_bad(world) == {}
        for _ in range(2):
            world.drain()
            world.produce(pairs(OLD + 500, 20))
    assert world.dead_letters() == {}


def test_transactions_are_read_only_by_default(world: World, start: Start) -> None:
    """Providers set this when the disk is full: a daemon that ends, or says nothing, would not come back."""
    database = urlsplit(world.database_url).path[1:]
    world.produce(pairs(NOW, 20))
    world.query(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert "default_transaction_read_only" in str(found_bad(world))
    with start(world, TICKLOOM_RETRY_MAX_SECONDS="0.3") as daemon:
        until(lambda: "RESET default_transaction_read_only" in daemon.output())
        assert daemon.process.poll() is None
        services.execute(
            urlunsplit(urlsplit(world.database_url)._replace(path="/postgres")),
            f"ALTER DATABASE {database} RESET default_transaction_read_only",
        )
        until(lambda: world.loaded() == 40)
    assert world.differences() == []


@contextmanager
def held(url: str, query: str) -> Iterator[None]:
    """A transaction that has run a query stays open while inside."""

    async def begin() -> Any:
        connection = await asyncpg.connect(url)
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.execute(query)
        return connection

    with asyncio.Runner() as runner:
        connection = runner.run(begin())
        try:
            yield
        finally:
            runner.run(connection.close())


def test_a_tables_tablespace(world: World) -> None:
    """Partitions that are made while somebody reads would land on another disk than the others."""
    space = f"space_{uuid.uuid4().hex[:8]}"
    services.execute(
        world.database_url, "SET allow_in_place_tablespaces = on", f"CREATE TABLESPACE {space} LOCATION ''"
    )
    world.query(f"ALTER TABLE stock_prices SET TABLESPACE {space}")
    world.produce(pairs(OLD, 4))
    with held(world.database_url, "SELECT * FROM stock_prices"):
        world.drain()
    found = world.query(
        "SELECT spcname FROM pg_class LEFT JOIN pg_tablespace t ON t.oid = reltablespace "
        f"WHERE relname = '{part_of('stock_prices', OLD)}'"
    )
    assert found == [(space,)]


def test_maintenance_beside_the_flow(world: World, start: Start) -> None:
    """A night's maintenance would end the daemon, or cost rows: a dump's snapshot, VACUUM FULL, REINDEX, other disks, locks."""
    space = f"space_{uuid.uuid4().hex[:8]}"
    services.execute(
        world.database_url, "SET allow_in_place_tablespaces = on", f"CREATE TABLESPACE {space} LOCATION ''"
    )
    world.produce(pairs(OLD, 40) + pairs(NOW, 40))
    count = 160
    with start(world), held(world.database_url, "SELECT 1"):
        until(lambda: world.loaded() == 160)
        part = part_of("stock_prices", OLD)
        for statement in (
            f"VACUUM FULL {part}",
            "VACUUM FULL tickloom.offsets",
            f"REINDEX TABLE {part}",
            f"ALTER TABLE {part} SET TABLESPACE {space}",
            f"CLUSTER {part} USING {part}_pkey",
            "ANALYZE",
        ):
            with held(world.database_url, "LOCK TABLE stock_volumes IN ACCESS EXCLUSIVE MODE"):
                world.produce(pairs(OLD, 20, step=count))  # new rows, and corrections of the first one
            world.query(statement)
            count += 40
        until(lambda: world.loaded() == count)
    assert world.dead_letters() == {}
    assert world.differences() == []


def test_a_table_is_renamed_under_the_daemon(world: World, start: Start) -> None:
    """The daemon would try again for ever."""
    world.produce(pairs(NOW, 5))
    daemon = start(world)
    until(lambda: world.loaded() == 10)
    world.query("ALTER TABLE stock_volumes RENAME TO old_volumes")
    world.produce(pairs(NOW + HOUR // 60, 5))
    last = daemon.mistake()
    assert "stock_volumes" in last
    assert "tickloom migrate" in last


def test_rows_that_cannot_be_changed(world: World) -> None:
    """A correction that a trigger swallows would be counted, or tried again for ever."""
    world.produce(pairs(NOW, 5))
    world.drain()
    world.query("CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    world.query("CREATE TRIGGER no BEFORE UPDATE ON stock_prices FOR EACH ROW EXECUTE FUNCTION public.no()")
    world.produce([tick("prices", "S0", NOW, 9.0)])
    done = world.tickloom("run", "--once", timeout=60)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "check the table's triggers" in done.stderr.splitlines()[-1]
    assert world.loaded() == 10
