"""CPU of the pure core, by step: decode, gather, symbols, join, encode. No Kafka, no Postgres.

    python -m benchmarks.core [--sizes 50,500,5000,100000] [--runs 7] [--symbols 5000]

Ticks in order from ``tickloom.synthetic``, in chunks as the reader makes them: one topic each, at most 10,000
messages, in runs by partition. Every run replays the same log against fresh tails; a column is the least of all
runs, since whatever else the machine does can only add. ``cpu`` counts all threads, ``main`` the calling one
alone: as a rule the part that holds the interpreter lock, which the reader and COPY then wait for.
"""

import argparse
import itertools
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tickloom.model import TABLES, Chunk, Decoded, Side, TopicPartition
from tickloom.settings import Partitioning
from tickloom.stages.decode import EventBounds, decode
from tickloom.stages.gather import BatchLimits, Gatherer
from tickloom.stages.join import begin, finish, symbols_of
from tickloom.stages.load import prepare
from tickloom.synthetic import Tick, TickSettings, live
from tickloom.tails import NO_FLOOR, Loaded, Tails

CHUNK_MESSAGES = 10_000
PARTITIONS = 4
WINDOW, TAIL, CACHE, ROOM = 5, 64, 100_000, 96 * 2**20
WARM_MESSAGES = 200_000
STEPS = ("decode", "gather", "symbols", "join", "encode")
DAY = 86_400 * 10**6
_WIDTHS = dict.fromkeys((table.name for table in TABLES), Partitioning.HOURLY)
_NO_ROWS = pl.DataFrame(
    schema={"code": pl.UInt32, "ts": pl.Int64, "value": pl.Float64, "partition": pl.Int32, "offset": pl.Int64}
)


@dataclass
class Clock:
    """Seconds by step: of all threads, and of this one."""

    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    main: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        cpu, main = time.process_time(), time.thread_time()
        yield
        self.cpu[name] += time.process_time() - cpu
        self.main[name] += time.thread_time() - main


def batches(size: int, count: int, symbols: int) -> list[list[Chunk]]:
    """The log as batches of chunks: the first ones, of ``WARM_MESSAGES`` in all, fill the tails."""
    ticks = live(TickSettings(symbols=symbols))
    offsets: dict[tuple[str, int], int] = defaultdict(int)
    warm = [_chunks(list(itertools.islice(ticks, WARM_MESSAGES // 2)), offsets) for _ in range(2)]
    return warm + [_chunks(list(itertools.islice(ticks, size)), offsets) for _ in range(count)]


def _chunks(ticks: Sequence[Tick], offsets: dict[tuple[str, int], int]) -> list[Chunk]:
    chunks: list[Chunk] = []
    for start in range(0, len(ticks), 2 * CHUNK_MESSAGES):
        for side in Side:
            mine = [tick for tick in ticks[start : start + 2 * CHUNK_MESSAGES] if tick.topic_side == side.value]
            mine.sort(key=_partition)  # stable: runs by partition, as fetches come
            chunks.append(_chunk(side, mine, offsets))
    return chunks


def _partition(tick: Tick) -> int:
    return int(tick.key[-3:]) % PARTITIONS


def _chunk(side: Side, ticks: Sequence[Tick], offsets: dict[tuple[str, int], int]) -> Chunk:
    partitions = [_partition(tick) for tick in ticks]
    places: list[int] = []
    for partition in partitions:
        places.append(offsets[side, partition])
        offsets[side, partition] += 1
    stamps = [tick.timestamp_ms for tick in ticks]
    return Chunk(side, side.value, [], [tick.value for tick in ticks], partitions, places, stamps)


def run(log: Sequence[Sequence[Chunk]]) -> Clock:
    """One replay; the warm batches are not counted."""
    positions = {TopicPartition(side.value, number): 0 for side in Side for number in range(PARTITIONS)}
    gatherer = Gatherer(BatchLimits(10**9, 10**9, 1), positions)
    tails = Tails(WINDOW, TAIL, CACHE, ROOM)
    bounds = EventBounds(DAY, 31 * DAY)
    warm, clock = Clock(), Clock()
    for number, chunks in enumerate(log, 1):
        counting = warm if number <= 2 else clock
        for chunk in chunks:
            with counting.step("decode"):
                decoded: Decoded = decode(chunk, bounds)
            with counting.step("gather"):
                gatherer.add(decoded, 0.0)
        with counting.step("gather"):
            batch = gatherer.close()
        with counting.step("symbols"):
            symbols = symbols_of(batch)
            missing = tails.missing(symbols.to_list())
        if missing:
            tails.reserve(len(missing))
            tails.insert(missing, dict.fromkeys(Side, Loaded(_NO_ROWS, np.full(len(missing), NO_FLOOR))))
        with counting.step("join"):
            joined = finish(begin(batch, symbols, tails, number), tails)
        with counting.step("encode"):
            prepare(joined, 1_790_000_000_000_000, _WIDTHS)
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="50,500,5000,100000")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--symbols", type=int, default=5_000)
    given = parser.parse_args()
    print("µs a message (cpu of all threads / of the main thread alone), ms a batch")
    print(f"{'batch':>8} " + " ".join(f"{step:>13}" for step in STEPS) + f" {'all':>13} {'ms a batch':>11}")
    for size in map(int, given.sizes.split(",")):
        count = max(3, min(100, 300_000 // size))
        log = batches(size, count, given.symbols)
        clocks = [run(log) for _ in range(given.runs)]
        cpu = {step: min(clock.cpu[step] for clock in clocks) for step in STEPS}
        own = {step: min(clock.main[step] for clock in clocks) for step in STEPS}
        micros = 1e6 / (size * count)
        cells = [f"{cpu[step] * micros:>6.2f}/{own[step] * micros:>6.2f}" for step in STEPS]
        total, alone = sum(cpu.values()), sum(own.values())
        cells.append(f"{total * micros:>6.2f}/{alone * micros:>6.2f}")
        print(f"{size:>8} " + " ".join(cells) + f" {total / count * 1e3:>11.2f}", flush=True)
    print(f"peak resident: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB, the log among it")


if __name__ == "__main__":
    main()
