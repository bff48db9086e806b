"""The engine by itself: from messages to rows, and what it says it needs."""

import json
from typing import Any

import pytest

from tests.builders import new_engine, supply_nothing, work_alone
from tickloom.core.checks import EventBounds
from tickloom.core.decode import decode
from tickloom.core.engine import Commit, Engine, Expiry, NewestRows, RowsAround, Stored
from tickloom.core.model import Chunk, Decoded, Side, TopicPartition
from tickloom.core.tails import Tails

P, V = TopicPartition("p", 0), TopicPartition("v", 0)
BOUNDS = EventBounds(86_400 * 10**6, 31 * 86_400 * 10**6)
START_MS = 1_790_000_000_000


def decoded(side: Side, first: int, *messages: dict[str, Any]) -> Decoded:
    """Messages at offsets from ``first`` on, with an event second each."""
    values = [json.dumps(message).encode() for message in messages]
    offsets, stamps = range(first, first + len(values)), [START_MS] * len(values)
    return decode(Chunk(side, side.value[0], [], values, [0] * len(values), offsets, stamps), BOUNDS)


def price(symbol: str, second: int, value: float) -> dict[str, Any]:
    return {"symbol": symbol, "price": value, "timestamp": START_MS // 1000 + second}


def volume(symbol: str, second: int, value: float) -> dict[str, Any]:
    return {"symbol": symbol, "volume": value, "timestamp": START_MS // 1000 + second}


def test_from_messages_to_rows() -> None:
    """Another program that drives the core would have to know how the daemon does it."""
    engine = new_engine({P: 0, V: 0})
    engine.add(decoded(Side.PRICES, 0, price("A", 0, 10.0), price("A", 1, 20.0)), now=0.0)
    engine.add(decoded(Side.VOLUMES, 0, volume("A", 1, 4.0)), now=0.0)
    batch = engine.close()
    supply_nothing(engine, batch)
    prices, pairs = engine.joined(batch).sides[Side.PRICES].new, engine.joined(batch).pairs
    assert prices.select("value", "average").rows() == [(10.0, 10.0), (20.0, 15.0)]
    assert pairs.select("price", "volume", "ratio").rows() == [(20.0, 4.0, 5.0)]
    work = engine.work(batch, now_micros=0)
    assert work.encoded is not None
    assert work.encoded.rows == {"stock_prices": 2, "stock_volumes": 1, "stock_analytics_data": 1}


def test_a_batch_sees_the_rows_of_those_in_flight() -> None:
    """Averages would start again at every batch edge while Postgres is slow."""
    engine = new_engine({P: 0, V: 0})
    for number, value in enumerate((10.0, 20.0, 60.0)):
        engine.add(decoded(Side.PRICES, number, price("A", number, value)), 0.0)
        batch = engine.close()
        supply_nothing(engine, batch)
        (average,) = engine.joined(batch).sides[Side.PRICES].new["average"]
        assert average == (10.0, 15.0, 30.0)[number]
        engine.work(batch, 0)


def test_due() -> None:
    """A batch that never closes is data that nobody sees; one that closes too soon costs a transaction each."""
    engine = new_engine({P: 0, V: 0})
    assert not engine.due(10.0), "there is nothing to write"
    engine.add(decoded(Side.PRICES, 0, price("A", 0, 1.0)), now=10.0)
    assert not engine.due(10.5)
    assert engine.due(11.0)
    assert not engine.due(11.0, busy=True), "it may grow while the loader is busy"


def test_a_full_cache_waits_for_a_commit() -> None:
    """Symbols of batches in flight would come on top of the memory that the cache may take."""
    engine = new_engine({P: 0, V: 0}, tails=Tails(5, 16, 1, 1 << 20))
    engine.add(decoded(Side.PRICES, 0, price("A", 0, 1.0)), 0.0)
    work_alone(engine, engine.close())
    engine.add(decoded(Side.PRICES, 1, price("B", 0, 1.0)), 0.0)
    batch = engine.close()
    assert engine.needs(batch) == Commit(1)
    engine.committed()
    assert engine.needs(batch) == NewestRows(["B"], 16)
    assert engine.symbols_cached == 0


def late_row() -> tuple[Engine, Any]:
    """An engine that holds rows from second 100 on and no older ones, and a batch with a row before them."""
    engine = new_engine({P: 0, V: 0}, tails=Tails(2, 4, 10, 1 << 20))
    engine.add(decoded(Side.PRICES, 0, *(price("A", 100 + second, 1.0) for second in range(9))), 0.0)
    work_alone(engine, engine.close())
    engine.add(decoded(Side.PRICES, 9, price("A", 3, 1.0)), 0.0)
    return engine, engine.close()


def test_rows_below_the_tail_are_asked_for() -> None:
    """The averages after a late row would be computed without the rows before it."""
    engine, batch = late_row()
    assert engine.needs(batch) == Commit(1), "what is in flight is not yet in the tables"
    engine.committed()
    need = engine.needs(batch)
    assert isinstance(need, RowsAround)
    assert (need.symbols, need.points[Side.PRICES].ts.tolist()) == (["A"], [(START_MS + 3_000) * 1_000])


@pytest.mark.parametrize("repairs", [None, 7])
def test_work_says_that_averages_were_read(repairs: int | None) -> None:
    """A repair between that read and the batch's commit would be undone in the join."""
    engine, batch = late_row()
    engine.committed()
    need = engine.needs(batch)
    nothing = NewestRows(["A"], 1).nothing()
    around = {side: rows.rows.with_columns(average=0.0).clear() for side, rows in nothing.items()}
    assert need is not None
    engine.supply(need, Stored(around, repairs))
    work = work_alone(engine, batch)
    assert (work.averages_read, work.repairs) == (True, repairs)


def test_an_engine_that_does_not_join() -> None:
    """A careful writer joins by itself, after it knows which rows Postgres refuses."""
    engine, batch = late_row()
    careful = Engine(engine._gatherer, engine._tails, {}, joins=False)
    assert careful.needs(batch) is None
    assert careful.work(batch, 0).encoded is None


def test_rows_of_detached_partitions_are_left_out() -> None:
    """One detached hour of stock_analytics_data would stop the whole flow."""
    engine = new_engine({P: 0, V: 0})
    engine.add(decoded(Side.PRICES, 0, price("A", 0, 1.0), price("A", 1, 1.0)), 0.0)
    engine.add(decoded(Side.VOLUMES, 0, volume("A", 0, 1.0), volume("A", 1, 1.0)), 0.0)
    batch = engine.close()
    need = engine.needs(batch)
    assert isinstance(need, NewestRows)
    engine.supply(need, need.nothing())
    need = engine.needs(batch)
    assert isinstance(need, Expiry)
    engine.supply(need, need.micros == need.micros.max())
    assert engine.needs(batch) is None
    work = engine.work(batch, 0)
    assert work.encoded is not None
    assert work.encoded.rows["stock_analytics_data"] == 1
