"""Partitions are created by any number of replicas, beside readers, and found under any name: against a real Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.builders import HOURLY
from tickloom.core.model import TABLES, Side
from tickloom.core.partitioning import partition_at
from tickloom.core.timestamps import moment
from tickloom.errors import SchemaMismatch
from tickloom.settings import Partitioning, Settings
from tickloom.store.history import History
from tickloom.store.migrate import migrate
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection, connect

NOW = datetime(2026, 12, 31, 22, 30, tzinfo=UTC)


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_replicas_make_the_same_partitions_at_once(settings: Settings, isolation: str) -> None:
    """A race between replicas would stop one of them, or leave a hole in the table."""
    changed = await connect(settings)
    name = await changed.fetchval("SELECT current_database()")
    await changed.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    connections = [await connect(settings) for _ in range(6)]
    try:
        makers = [Partitioner(HOURLY, 5) for _ in connections]
        made = await asyncio.gather(
            *(maker.ensure_ahead(connection, NOW) for maker, connection in zip(makers, connections, strict=True))
        )
        assert sum(made) == 6 * len(TABLES)
        assert len((await Partitioner(HOURLY, 0).layout(connections[0], "stock_prices")).names) == 6
    finally:
        for connection in (changed, *connections):
            await connection.close()


async def test_readers_do_not_wait_and_are_not_waited_for(settings: Settings, connection: Connection) -> None:
    """A dashboard's long query would stop the flow at the full hour, and all queries behind it."""
    reader = await connect(settings)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT * FROM stock_prices")
            async with asyncio.timeout(5):
                assert await Partitioner(HOURLY, 2).ensure_ahead(connection, NOW) == 3 * len(TABLES)
                await reader.fetch("SELECT * FROM stock_prices")
    finally:
        await reader.close()


@pytest.mark.parametrize("width", [Partitioning.HOURLY, Partitioning.DAILY, Partitioning.MONTHLY])
async def test_bounds_in_the_database(database_url: str, width: Partitioning) -> None:
    """A microsecond that no partition holds would make Postgres refuse the batch."""
    found = Settings(database_url=database_url, prices_partitioning=width)  # type: ignore[arg-type]
    connection = await connect(found)
    try:
        await migrate(connection, found)
        maker = Partitioner({**HOURLY, "stock_prices": width}, 1)
        await maker.ensure_ahead(connection, NOW)
        first = partition_at("stock_prices", width, NOW)
        for moment in (first.start, first.stop - timedelta(microseconds=1), first.stop):
            await connection.execute(
                "INSERT INTO stock_prices (symbol, \"timestamp\", source_partition, source_offset) VALUES ('A', $1, 0, 0)",
                moment,
            )
        rows = await connection.fetch('SELECT tableoid::regclass::text AS name FROM stock_prices ORDER BY "timestamp"')
        after = partition_at("stock_prices", width, first.stop)
        assert [row["name"] for row in rows] == [first.name, first.name, after.name]
    finally:
        await connection.close()


async def test_a_table_in_the_way_is_reported(connection: Connection) -> None:
    """A partition that somebody detached would be silently refilled, or block the flow without a word."""
    name = partition_at("stock_prices", Partitioning.HOURLY, NOW).name
    await connection.execute(f"CREATE TABLE {name} (LIKE stock_prices)")
    with pytest.raises(SchemaMismatch, match="attach, rename or drop"):
        await Partitioner(HOURLY, 0).ensure_ahead(connection, NOW)


async def test_partitions_of_any_name_and_schema_are_read(settings: Settings, connection: Connection) -> None:
    """Rows in a partition that somebody else has named would be overlooked, and averages computed without them."""
    await connection.execute(
        "CREATE SCHEMA elsewhere; "
        "CREATE TABLE \"Odd name\" PARTITION OF stock_prices FOR VALUES FROM ('2026-01-01Z') TO ('2026-01-03Z'); "
        "CREATE TABLE elsewhere.old PARTITION OF stock_prices FOR VALUES FROM ('2025-01-01Z') TO ('2026-01-01Z'); "
        "INSERT INTO tickloom.symbols (symbol) VALUES ('A'); "
        "INSERT INTO stock_prices SELECT 'A', t, 1, 1, 1, 1, 1, 0, 0 "
        "FROM unnest('{2025-06-01Z, 2026-01-02Z}'::timestamptz[]) t"
    )
    history = History(Partitioner(HOURLY, 0), 5, 100)
    rows = (await history.newest(connection, ["A"], 16))[Side.PRICES].rows
    assert [moment(ts).date().isoformat() for ts in rows["ts"]] == ["2025-06-01", "2026-01-02"]
