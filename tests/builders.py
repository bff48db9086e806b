"""What many tests build: an engine, a decoded chunk, and a batch joined as the first one of all."""

from collections.abc import Mapping, Sequence

import polars as pl

from tickloom.core.encode import Work
from tickloom.core.engine import Engine, Expiry, NewestRows
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import TABLES, Batch, Chunk, Decoded, Reason, Reject, Side, TopicPartition, rows_schema
from tickloom.core.outputs import Output
from tickloom.core.tails import Tails
from tickloom.settings import Partitioning

HOURLY = dict.fromkeys((table.name for table in TABLES), Partitioning.HOURLY)
UNBOUNDED = BatchLimits(10**9, 10**9, 1)
AT = TopicPartition("p", 0)


def new_engine(
    positions: Mapping[TopicPartition, int],
    logged: Mapping[TopicPartition, int] | None = None,
    tails: Tails | None = None,
    widths: Mapping[str, Partitioning] = HOURLY,
    outputs: Sequence[Output] = (),
) -> Engine:
    """An engine whose batches close when the test says so."""
    if tails is None:
        tails = Tails(5, 16, 1_000, 1 << 20)
    return Engine(Gatherer(UNBOUNDED, positions, logged), tails, widths, outputs=outputs)


def work_alone(engine: Engine, batch: Batch, now_micros: int = 0) -> Work:
    """A batch joined where the tables are empty and all partitions exist."""
    supply_nothing(engine, batch)
    return engine.work(batch, now_micros)


def supply_nothing(engine: Engine, batch: Batch) -> None:
    """Answer all that the engine needs as empty tables would."""
    while (need := engine.needs(batch)) is not None:
        match need:
            case NewestRows():
                engine.supply(need, need.nothing())
            case Expiry():
                engine.supply(need, need.none())
            case _:
                raise AssertionError(f"empty tables cannot answer {need}")


def decoded_at(offsets: Sequence[int], bad: int = 0) -> Decoded:
    """Messages of ``AT``, one a row of no interest; the first ``bad`` of them are rejects."""
    size = len(offsets)
    chunk = Chunk(Side.PRICES, AT.topic, [], [b"x"] * size, [AT.partition] * size, offsets, [1_000] * size)
    rejects = [Reject(AT, offset, None, b"x", (), 1_000, Reason.SCHEMA, "") for offset in offsets[:bad]]
    return Decoded(chunk, pl.DataFrame(schema=rows_schema(Side.PRICES)), rejects)
