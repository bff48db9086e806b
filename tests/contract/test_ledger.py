"""The ledger's protocol, against a real Postgres."""

import asyncio
import struct
import uuid
from collections.abc import AsyncGenerator, Coroutine
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.proxy import Proxy
from tests.builders import HOURLY, new_engine, work_alone
from tests.contract.owners import take_over
from tests.contract.splits import START, TOPICS, Tick, chunk_of
from tickloom.core.copy_binary import SIGNATURE
from tickloom.core.encode import Work
from tickloom.core.model import Side, TopicPartition
from tickloom.errors import Fenced, LockHeld, StoreUnavailable
from tickloom.settings import Settings
from tickloom.store import ledger
from tickloom.store.loader import Loader, stage
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import Connection, connect

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
