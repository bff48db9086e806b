"""The ledger's protocol and the making of partitions, against a real Postgres."""

import asyncio
import struct
import uuid
from collections.abc import AsyncGenerator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.proxy import Proxy
from tests.builders import HOURLY, new_engine, work_alone
from tests.contract.owners import take_over
from tests.contract.splits import START, TOPICS, Tick, chunk_of
from tickloom.core.copy_binary import SIGNATURE
from tickloom.core.encode import Work
from tickloom.core.model import TABLES, Side, TopicPartition
from tickloom.core.partitioning import partition_at
from tickloom.core.timestamps import moment
from tickloom.errors import Fenced, LockHeld, SchemaMismatch, StoreUnavailable, WrongSource
from tickloom.settings import Partitioning, Settings
from tickloom.store import ledger
from tickloom.store.history import History
from tickloom.store.loader import Loader, stage
from tickloom.store.migrate import migrate
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection, connect
from tickloom.store.source_claim import claim_source

SOURCES = {TopicPartition("p", 0): 0, TopicPartition("v", 0): 0}
NOW = datetime(2026, 12, 31, 22, 30, tzinfo=UTC)


@pytest.fixture
async def connection(settings: Settings) -> AsyncGenerator[Connection]:
    """A connection with its staging tables."""
    connection = await connect(settings)
    await stage(connection)
    yield connection
    await connection.close()


def work_of(values: list[float]) -> Work:
    engine = new_engine(SOURCES)
    ticks = [(Tick(Side.PRICES, "A", START + n, value, 0), n) for n, value in enumerate(values)]
    engine.add(chunk_of(Side.PRICES, ticks), 0)
    return work_alone(engine, engine.close(), START)


async def owner(connection: Connection, name: str) -> Loader:
    claims = await take_over(connection, SOURCES, name)
    return Loader(TOPICS, {at: claim.epoch for at, claim in claims.items()})


async def test_a_zombie_writes_nothing(connection: Connection) -> None:
    """A process that slept through its successor's take-over would write its rows a second time."""
    work = work_of([1.0, 2.0])
    partitioner = Partitioner(HOURLY, 0)
    await partitioner.ensure_for(connection, dict(work.encoded.needed))
    zombie, successor = await owner(connection, "zombie"), await owner(connection, "successor")
    with pytest.raises(Fenced):
        await zombie.load(connection, work, NOW)
    assert await connection.fetchval("SELECT count(*) FROM stock_prices") == 0
    assert (await successor.load(connection, work, NOW)).stored == 2
    with pytest.raises(Fenced):
        await zombie.load(connection, work, NOW)
    assert await connection.fetchval("SELECT count(*) FROM stock_prices") == 2


async def test_a_lost_answer_is_no_fence(connection: Connection) -> None:
    """A COMMIT whose answer was lost would be loaded twice, or be taken for another owner's."""
    work = work_of([1.0, 2.0, 3.0])
    await Partitioner(HOURLY, 0).ensure_for(connection, dict(work.encoded.needed))
    loader = await owner(connection, "me")
    await loader.load(connection, work, NOW)
    await loader.load(connection, work, NOW)
    row = await connection.fetchrow("SELECT * FROM tickloom.offsets WHERE topic = 'p'")
    assert (row["next_offset"], row["stored"], row["superseded"]) == (3, 3, 0)


async def test_takeover_waits_for_the_transaction_in_flight(settings: Settings, connection: Connection) -> None:
    """A new owner that reads the ledger before the old one's commit would load that batch again."""
    work = work_of([1.0])
    await Partitioner(HOURLY, 0).ensure_for(connection, dict(work.encoded.needed))
    claims = await take_over(connection, SOURCES, "old")
    other = await connect(settings)
    try:
        async with connection.transaction():
            epochs = {at: claim.epoch for at, claim in claims.items()}
            await ledger.compare_and_set(connection, work.batch.progress, epochs, {})
            taking = asyncio.create_task(take_over(other, SOURCES, "new"))
            await asyncio.sleep(0.3)
            assert not taking.done()
        assert (await taking)[TopicPartition("p", 0)].next_offset == 1
    finally:
        await other.close()


@pytest.mark.parametrize("set_role", [False, True])
async def test_a_sleeping_owner_is_ended(settings: Settings, connection: Connection, set_role: bool) -> None:
    """A replica that was stopped in the middle of a transaction would keep its successor waiting for minutes."""
    if set_role:  # sessions belong to the role that has logged in, and act as another
        name = f"login_{uuid.uuid4().hex[:12]}"
        await connection.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD 'weak'; CREATE ROLE acts_{name}; GRANT acts_{name} TO {name}; "
            f"ALTER ROLE {name} SET role = acts_{name}; GRANT USAGE ON SCHEMA tickloom TO acts_{name}; "
            f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA tickloom TO acts_{name}"
        )
        server = settings.database_url.get_secret_value().rpartition("@")[2]
        settings = Settings(database_url=f"postgresql://{name}:weak@{server}")  # type: ignore[arg-type]
        connection = await connect(settings)
        assert await connection.fetchval("SELECT current_user") == f"acts_{name}"
    work = work_of([1.0])
    claims = await take_over(connection, SOURCES, "old")
    epochs = {at: claim.epoch for at, claim in claims.items()}
    asleep = await connect(settings, ledger.session_name("old"))
    bystander = await connect(settings, ledger.session_name("another"))
    try:
        await asleep.execute("BEGIN")
        await ledger.compare_and_set(asleep, work.batch.progress, epochs, {})
        with pytest.raises(LockHeld):
            await take_over(connection, SOURCES, "new")
        claims = await take_over(connection, SOURCES, "new")
        assert claims[TopicPartition("p", 0)] == ledger.Claim(next_offset=0, epoch=2)
        with pytest.raises(StoreUnavailable):
            await asleep.execute("COMMIT")
        assert await bystander.fetchval("SELECT 1") == 1
    finally:
        for one in (asleep, bystander, connection):
            one.terminate()


async def given_up(work: Coroutine[Any, Any, None], ending: str) -> None:
    """It ends soon and as what it is: a cancellation (half a second after its start), or an outage."""
    task = asyncio.create_task(work)
    if ending == "cancelled":
        await asyncio.sleep(0.5)
        task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.done()
    if ending == "cancelled":
        assert task.cancelled()
    else:
        assert isinstance(task.exception(), StoreUnavailable)


@pytest.mark.parametrize("ending", ["cancelled", "timed out"])
async def test_a_connection_falls_silent_in_a_transaction(settings: Settings, ending: str) -> None:
    """A half-open connection would hold the daemon for ever, deaf to SIGTERM and to rebalances."""
    port = urlsplit(settings.database_dsn()).port
    assert port is not None
    with Proxy(port) as proxy:
        url = settings.database_dsn().replace(f":{port}/", f":{proxy.port}/")
        behind = Settings(database_url=url, database_command_timeout_seconds=1)  # type: ignore[arg-type]
        connection = await connect(behind)

        async def work() -> None:
            async with connection.transaction():
                await connection.execute("SELECT 1")
                proxy.deafen()
                await connection.execute("SELECT 2")

        await given_up(work(), ending)
        assert connection.is_closed()


@pytest.mark.parametrize("ending", ["cancelled", "timed out"])
async def test_a_copy_cannot_be_sent(settings: Settings, ending: str) -> None:
    """A network that stands still in the middle of a COPY would hold the daemon for ever, deaf to SIGTERM."""
    port = urlsplit(settings.database_dsn()).port
    assert port is not None
    with Proxy(port) as proxy:
        connection = await connect(
            Settings(database_url=settings.database_dsn().replace(f":{port}/", f":{proxy.port}/"))  # type: ignore[arg-type]
        )
        await connection.execute("CREATE TEMP TABLE rows (line text)")

        async def blocks() -> AsyncGenerator[bytes]:
            yield SIGNATURE
            for number in range(200):
                if number == 3:
                    proxy.stall()
                yield struct.pack("!hi", 1, 2**20) + b"x" * 2**20

        async def work() -> None:
            async with connection.transaction():
                await connection.copy_in((None, "rows"), ["line"], blocks(), 1.0)

        await given_up(work(), ending)
        assert connection.is_closed()


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


async def test_another_source_is_refused(settings: Settings, connection: Connection) -> None:
    """The tables would mix the logs of two clusters."""
    await claim_source(connection, settings, "one")
    await claim_source(connection, settings, "one")
    with pytest.raises(WrongSource, match="cluster_id 'one', not 'two'"):
        await claim_source(connection, settings, "two")


async def test_a_refused_replica_notes_nothing(settings: Settings, connection: Connection) -> None:
    """A daemon of another cluster that is started after an upgrade would write down its topics and group, and the right daemon would be refused."""
    await claim_source(connection, settings, "one")
    await connection.execute("UPDATE tickloom.source SET group_id = NULL")  # as an earlier version has left it
    stranger = settings.model_copy(update={"kafka_group_id": "stranger"})
    theirs = dict.fromkeys((settings.prices_topic, settings.volumes_topic), "an id")
    with pytest.raises(WrongSource, match="cluster_id"):
        await claim_source(connection, stranger, "two", theirs)
    ids = dict.fromkeys(theirs, "another id")
    await claim_source(connection, settings, "one", ids)
    with pytest.raises(WrongSource, match="filled by the group 'tickloom', not 'stranger'"):
        await claim_source(connection, stranger, "one", ids)


@pytest.mark.parametrize(
    ("price", "volume", "ratio"),
    [
        (1.0, 0.0, None),
        (1e15, 1e-300, None),
        (-1e15, 5e-324, None),
        (1e15, 5.57e-294, 1e15 / 5.57e-294),
        (5e-324, 1e15, 0.0),
        (-5e-324, 2.0, 0.0),
        (1e-300, 1e15, 1e-300 / 1e15),
        (3.0, 7.0, 3.0 / 7.0),
        (0.0, 5.0, 0.0),
    ],
)
async def test_ratio_in_sql(connection: Connection, price: float, volume: float, ratio: float | None) -> None:
    """Postgres raises where a quotient leaves float8: one such pair would hold up the flow."""
    assert await connection.fetchval("SELECT tickloom.ratio($1, $2)", price, volume) == ratio


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
