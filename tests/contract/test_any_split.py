"""Any split of any log into batches leaves the tables that one SQL query over the whole log gives.

Decoded rows go through gather, join and load into a real Postgres, without a broker: thousands of logs a minute.
The judge is the reference of all tests, which shares nothing with the project.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeAlias

import asyncpg
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders import HOURLY, new_engine
from tests.contract.owners import take_over
from tests.reference import Judged, differences_from
from tickloom.core.engine import Commit, Engine
from tickloom.core.model import Chunk, Decoded, Side, TopicPartition, rows_schema
from tickloom.core.tails import ROW_BYTES, Tails
from tickloom.settings import Partitioning, Settings
from tickloom.store import postgres
from tickloom.store.history import History
from tickloom.store.loader import Loader, stage
from tickloom.store.migrate import migrate
from tickloom.store.outputs import declared, tables
from tickloom.store.partitions import Partitioner
from tickloom.store.postgres import connect
from tickloom.store.supplier import Supplier

Database: TypeAlias = tuple[asyncio.Runner, Any, Any, Partitioning]
TOPICS = {Side.PRICES: "p", Side.VOLUMES: "v"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = 1_790_000_000_000_000
STEP = 977_000_000  # some 16 minutes, so that rows spread over hourly partitions


@dataclass(frozen=True)
class Tick:
    side: Side
    symbol: str
    ts: int
    value: float
    partition: int
    record_ms: int = 0


VALUES = st.one_of(
    st.floats(0, 1000, allow_nan=False, width=32),
    st.sampled_from([0.0, 1e15, 1e-300, 0.1, 1 / 3, 5e-324, 123.456, 1e15 - 1]),
)
TICKS = st.builds(
    Tick,
    side=st.sampled_from(Side),
    symbol=st.sampled_from(["A", "B", "Ünï", "a"]),
    ts=st.integers(0, 40).map(lambda n: START + n * STEP),
    value=VALUES,
    partition=st.integers(0, 1),
    record_ms=st.integers(-1, 9),
)


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Tick], list[int]]:
    """A log and how it is cut. Drawn tick by tick, or by a seed: that gives long logs of few symbols, full of late rows."""
    if draw(st.booleans()):
        ticks = draw(st.lists(TICKS, min_size=1, max_size=120))
    else:
        random = Random(draw(st.integers(0, 2**32)))
        symbols = ["A", "B", "Ünï", "a"][: random.randint(1, 3)]
        late = random.choice([3, 10, 60])
        ticks = [
            Tick(
                random.choice(tuple(Side)),
                random.choice(symbols),
                START + max(0, number // 2 - int(late * random.random() ** 3)) * STEP,
                random.choice([round(random.uniform(0, 1000), 3), 0.0, 1e15, 0.1]),
                random.randint(0, 1),
                random.randint(-1, number),
            )
            for number in range(random.randint(30, 160))
        ]
    cuts = draw(st.one_of(st.just([1] * len(ticks)), st.just([len(ticks)]), st.lists(st.integers(1, 30), min_size=1)))
    return ticks, cuts


def chunk_of(side: Side, ticks: list[tuple[Tick, int]]) -> Decoded:
    mine = [(tick, offset) for tick, offset in ticks if tick.side is side]
    columns = {
        "symbol": [tick.symbol for tick, _ in mine],
        "ts": [tick.ts for tick, _ in mine],
        "value": [tick.value for tick, _ in mine],
        "open_price": [None] * len(mine),
        "high_price": [2.5] * len(mine),
        "low_price": [None] * len(mine),
        "partition": [tick.partition for tick, _ in mine],
        "offset": [offset for _, offset in mine],
    }
    times = [tick.record_ms for tick, _ in mine]
    chunk = Chunk(side, TOPICS[side], [], [b"x"] * len(mine), columns["partition"], columns["offset"], times)
    columns["logged"] = chunk.logged.tolist()
    frame = pl.DataFrame({name: columns[name] for name in rows_schema(side)}, schema=rows_schema(side))
    return Decoded(chunk, frame, [])


async def begin_session(
    connection: postgres.Connection, sources: dict[TopicPartition, int], tails: Tails, widths: dict[str, Partitioning]
) -> tuple[Engine, Loader]:
    """What goes on from the ledger."""
    claims = await take_over(connection, sources, "test")
    positions = {at: claim.next_offset for at, claim in claims.items()}
    logged = {at: claim.logged for at, claim in claims.items()}
    engine = new_engine(positions, logged, tails, widths, declared())
    return engine, Loader(TOPICS, {at: claim.epoch for at, claim in claims.items()})


async def run_log(
    connection: postgres.Connection,
    ticks: list[Tick],
    cuts: list[int],
    window: int,
    restarts: bool,
    new_tails: Callable[[], Tails],
    width: Partitioning,
    budget: int,
    after_each: Callable[[], Awaitable[None]] | None = None,
) -> None:
    names = ", ".join(table.name for table in tables())
    await connection.execute(f"TRUNCATE {names}, tickloom.offsets, tickloom.symbols")
    widths = dict.fromkeys(HOURLY, width) | {output.name: output.partitioning for output in declared()}
    sources = {TopicPartition(topic, partition): 0 for topic in TOPICS.values() for partition in (0, 1)}
    engine, loader = await begin_session(connection, sources, new_tails(), widths)
    partitioner = Partitioner(widths, 0)
    supplier = Supplier(lambda work: work(connection), History(partitioner, window, budget), partitioner)
    next_offset = dict.fromkeys(sources, 0)
    at = 0
    for cut in cuts * len(ticks):
        part = []
        for tick in ticks[at : at + cut]:
            source = TopicPartition(TOPICS[tick.side], tick.partition)
            part.append((tick, next_offset[source]))
            next_offset[source] += 1
        at += cut
        if not part:
            break
        if restarts:
            engine, loader = await begin_session(connection, sources, new_tails(), widths)
        for side in Side:
            if any(tick.side is side for tick, _ in part):
                engine.add(chunk_of(side, part), 0.0)
        batch = engine.close()
        while (need := engine.needs(batch)) is not None:
            assert not isinstance(need, Commit), "nothing is in flight"
            engine.supply(need, await supplier.fetch(need))
        work = engine.work(batch, START)
        assert work.encoded is not None
        await partitioner.ensure_for(connection, work.encoded.needed)
        await loader.load(connection, work, datetime.now(UTC))
        engine.committed()
        if after_each is not None:
            await after_each()


async def differences(judge: Any, ticks: list[Tick], window: int) -> list[str]:
    """What the reference finds wrong; ``judge`` is a connection of its own."""
    judged = Judged(topics={side.value: topic for side, topic in TOPICS.items()})
    ends: Counter[tuple[str, int]] = Counter()
    latest: dict[tuple[str, int], int] = {}  # record timestamp that a partition has seen
    for tick in ticks:
        at = (TOPICS[tick.side], tick.partition)
        latest[at] = max(latest.get(at, 0), tick.record_ms)
        optional = (None, 2.5, None) if tick.side is Side.PRICES else (None, None, None)
        moment, seen = EPOCH + timedelta(microseconds=tick.ts), EPOCH + timedelta(milliseconds=latest[at])
        judged.rows[tick.side].append((tick.symbol, moment, tick.value, *optional, tick.partition, ends[at], seen))
        ends[at] += 1
    return await differences_from(judge, judged, dict(ends), window)


@pytest.fixture(scope="module", params=[Partitioning.NONE, Partitioning.HOURLY], ids=str)
def database(postgres: Any, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A loop, a connection to tables of that partitioning, and one for the judge, for all examples of the module."""
    from tests.services import new_database

    with asyncio.Runner() as runner:
        widths = {f"{name}_partitioning": request.param for name in ("prices", "volumes", "analytics")}
        configured = Settings(database_url=new_database(postgres), **widths)  # type: ignore[arg-type]

        async def open_() -> Any:
            connection = await connect(configured)
            await migrate(connection, configured)
            await stage(connection)
            return connection

        connection, judge = runner.run(open_()), runner.run(asyncpg.connect(configured.database_dsn()))
        yield runner, connection, judge, request.param
        runner.run(connection.close())
        runner.run(judge.close())


@pytest.mark.parametrize("restarts", [False, True], ids=["one session", "restarts"])
@given(
    log=logs(),
    window=st.integers(1, 6),
    cache=st.integers(1, 4),
    spare=st.one_of(st.just(0), st.integers(0, 12)),
    cramped=st.booleans(),
    budget=st.integers(1, 5),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_gives_the_reference(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    restarts: bool,
    log: tuple[list[Tick], list[int]],
    window: int,
    cache: int,
    spare: int,
    cramped: bool,
    budget: int,
) -> None:
    """Otherwise a user's averages would depend on how fast the messages happened to come."""
    runner, connection, judge, width = database
    ticks, cuts = log
    monkeypatch.setattr("tickloom.core.tails._FIRST_SLOTS", 1)  # so that four symbols make the cache grow
    monkeypatch.setattr("tickloom.core.tails._LOADED_ROWS", 1)  # and that less is loaded than there is room for
    monkeypatch.setattr("tickloom.store.history._GENEROUS_PARTITIONS", budget)  # and that it is not looked for far back
    # A cramped cache has room for the least rows of two symbols: its tails shrink as more come.
    tail = 2 * window + 6 + spare if cramped else max(1, window + spare)
    room = 2 * len(Side) * ROW_BYTES * (2 * window + 6) if cramped else 2**30
    runner.run(
        run_log(connection, ticks, cuts, window, restarts, lambda: Tails(window, tail, cache, room), width, budget)
    )
    assert runner.run(differences(judge, ticks, window)) == []
