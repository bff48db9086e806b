"""Small random logs, and how they go through the engine into a real Postgres, batch by batch, without a broker."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import polars as pl
from hypothesis import strategies as st

from tests.builders import HOURLY, new_engine
from tests.contract.owners import take_over
from tests.reference import Judged, differences_from
from tickloom.core.engine import Commit, Engine
from tickloom.core.model import Chunk, Decoded, Side, TopicPartition, rows_schema
from tickloom.core.tails import Tails
from tickloom.settings import Partitioning
from tickloom.store import postgres
from tickloom.store.history import History
from tickloom.store.loader import Loader
from tickloom.store.outputs import declared, tables
from tickloom.store.partitions import Partitioner
from tickloom.store.supplier import Supplier

TOPICS = {Side.PRICES: "p", Side.VOLUMES: "v"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = 1_790_000_000_000_000
STEP = 977_000_000  # some 16 minutes, so that rows spread over hourly partitions


@dataclass(frozen=True)
class Tick:
    """A row to be, in the partition that its message comes in."""

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
    """The ticks of this side, with their offsets, as decoded rows."""
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
    """An engine and a loader that continue where the ledger is."""
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
    """Load the ticks into emptied tables, in batches of the sizes of ``cuts``, in one session or in one for each batch."""
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
