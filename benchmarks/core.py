"""CPU of the pure core, by step: decode, gather, join, encode; and of decode by shape. No Kafka, no Postgres.

    python -m benchmarks.core [--sizes 50,500,5000,100000] [--shapes all] [--runs 7] [--symbols 5000]
    python -m benchmarks.core --sizes "" --shapes plain,realistic,iso-mixed

The ticks come in order from ``tickloom.synthetic``, in chunks as the reader makes them: one topic each, at most 10,000
messages, in runs by partition. Every run replays the same log against fresh tails. A column shows the minimum of all runs,
because other work on the machine can only add to it. ``cpu`` counts all threads, ``main`` only the calling one, which
mostly holds the interpreter lock, so that the reader and COPY wait for it.

The second table is about decode alone: the same ticks in each named shape (``tickloom.shapes``), and the ratio of ``cpu``
to that of the plain shape. The shapes take turns within a run, so that a slow minute of the machine affects all of them.
"""

import argparse
import itertools
import resource
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tickloom.core.checks import EventBounds
from tickloom.core.decode import decode
from tickloom.core.engine import Engine, Expiry, Need, NewestRows
from tickloom.core.gather import BatchLimits, Gatherer
from tickloom.core.model import TABLES, Chunk, Decoded, Side, TopicPartition
from tickloom.core.tails import Tails
from tickloom.settings import Partitioning
from tickloom.shapes import PLAIN, SHAPES, Shape, reshaped, shape_named
from tickloom.synthetic import Tick, TickSettings, live

CHUNK_MESSAGES = 10_000
PARTITIONS = 4
WINDOW, TAIL, CACHE_SYMBOLS, CACHE_BYTES = 5, 64, 100_000, 96 * 2**20
WARM_MESSAGES = 200_000
SHAPED_CHUNKS = 4  # of each side, in the log of a shape
STEPS = ("decode", "gather", "join", "encode")
DAY = 86_400 * 10**6
_WIDTHS = dict.fromkeys((table.name for table in TABLES), Partitioning.HOURLY)


@dataclass
class Clock:
    """CPU seconds by step: of all threads, and of the calling thread."""

    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    main: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        cpu, main = time.process_time(), time.thread_time()
        yield
        self.cpu[name] += time.process_time() - cpu
        self.main[name] += time.thread_time() - main


def batches(size: int, count: int, symbols: int) -> list[list[Chunk]]:
    """The log as batches of chunks. The first two batches, of ``WARM_MESSAGES`` together, fill the tails."""
    ticks = live(TickSettings(symbols=symbols))
    offsets: dict[tuple[str, int], int] = defaultdict(int)
    warm = [_chunks(list(itertools.islice(ticks, WARM_MESSAGES // 2)), offsets) for _ in range(2)]
    return warm + [_chunks(list(itertools.islice(ticks, size)), offsets) for _ in range(count)]


def _chunks(ticks: Sequence[Tick], offsets: dict[tuple[str, int], int]) -> list[Chunk]:
    chunks: list[Chunk] = []
    for start in range(0, len(ticks), 2 * CHUNK_MESSAGES):
        for side in Side:
            mine = [tick for tick in ticks[start : start + 2 * CHUNK_MESSAGES] if tick.topic_side == side.value]
            mine.sort(key=_partition)  # the sort is stable: runs by partition, like the answers of a broker
            chunks.append(_chunk(side, mine, offsets))
    return chunks


def _partition(tick: Tick) -> int:
    return zlib.crc32(tick.key) % PARTITIONS


class _Message:
    """The part of a message that decode uses to reject it."""

    def __init__(self, tick: Tick) -> None:
        self._key = tick.key

    def key(self) -> bytes:
        return self._key

    def headers(self) -> None:
        return None


def _chunk(side: Side, ticks: Sequence[Tick], offsets: dict[tuple[str, int], int]) -> Chunk:
    partitions = [_partition(tick) for tick in ticks]
    places: list[int] = []
    for partition in partitions:
        places.append(offsets[side, partition])
        offsets[side, partition] += 1
    stamps = [tick.timestamp_ms for tick in ticks]
    messages = [_Message(tick) for tick in ticks]
    return Chunk(side, side.value, messages, [tick.value for tick in ticks], partitions, places, stamps)


def _none_expired(need: Need) -> object:
    assert isinstance(need, Expiry), need
    return need.none()


def run(log: Sequence[Sequence[Chunk]]) -> Clock:
    """Replay the log once; the two warm-up batches are not counted."""
    positions = {TopicPartition(side.value, number): 0 for side in Side for number in range(PARTITIONS)}
    gatherer = Gatherer(BatchLimits(10**9, 10**9, 1), positions)
    engine = Engine(gatherer, Tails(WINDOW, TAIL, CACHE_SYMBOLS, CACHE_BYTES), _WIDTHS)
    bounds = EventBounds(DAY, 31 * DAY)
    warm, clock = Clock(), Clock()
    for number, chunks in enumerate(log, 1):
        counting = warm if number <= 2 else clock
        for chunk in chunks:
            with counting.step("decode"):
                decoded: Decoded = decode(chunk, bounds)
            with counting.step("gather"):
                engine.add(decoded, 0.0)
        with counting.step("gather"):
            batch = engine.close()
        with counting.step("join"):
            while (need := engine.needs(batch)) is not None:
                engine.supply(need, need.nothing() if isinstance(need, NewestRows) else _none_expired(need))
        with counting.step("encode"):
            engine.work(batch, 1_790_000_000_000_000)
        engine.committed()
    return clock


def by_shape(shapes: Sequence[Shape], runs: int, symbols: int) -> dict[str, tuple[float, float]]:
    """Microseconds of decode per message, by shape: of all threads and of the calling one, the minimum of all runs."""
    count = 2 * CHUNK_MESSAGES * SHAPED_CHUNKS
    logs: dict[str, list[Chunk]] = {}
    for shape in shapes:
        ticks = reshaped(itertools.islice(live(TickSettings(symbols=symbols)), count), shape)
        logs[shape.name] = _chunks(list(ticks), defaultdict(int))
    bounds = EventBounds(DAY, 31 * DAY)
    clocks = [Clock() for _ in range(runs)]
    for chunks in logs.values():  # a warm-up
        decode(chunks[0], bounds)
    for clock in clocks:
        for name, chunks in logs.items():
            for chunk in chunks:
                with clock.step(name):
                    decode(chunk, bounds)
    micros = 1e6 / count
    return {
        name: (min(clock.cpu[name] for clock in clocks) * micros, min(clock.main[name] for clock in clocks) * micros)
        for name in logs
    }


def print_by_shape(shapes: Sequence[Shape], runs: int, symbols: int) -> None:
    """Print the table of ``by_shape``. The plain shape always comes first, because the others are compared with it."""
    found = by_shape([PLAIN, *(shape for shape in shapes if shape is not PLAIN)], runs, symbols)
    print(f"decode by shape, chunks of {CHUNK_MESSAGES:,}: µs per message")
    print(f"{'shape':>20} {'cpu':>7} {'main':>7} {'÷ plain':>8}")
    for name, (cpu, main) in found.items():
        print(f"{name:>20} {cpu:>7.2f} {main:>7.2f} {cpu / found[PLAIN.name][0]:>8.2f}", flush=True)


def print_by_size(sizes: Sequence[int], runs: int, symbols: int) -> None:
    """Print the table of all steps by batch size."""
    print("µs per message (cpu of all threads / of the main thread alone), ms per batch")
    print(f"{'batch':>8} " + " ".join(f"{step:>13}" for step in STEPS) + f" {'all':>13} {'ms a batch':>11}")
    for size in sizes:
        count = max(3, min(100, 300_000 // size))
        log = batches(size, count, symbols)
        clocks = [run(log) for _ in range(runs)]
        cpu = {step: min(clock.cpu[step] for clock in clocks) for step in STEPS}
        own = {step: min(clock.main[step] for clock in clocks) for step in STEPS}
        micros = 1e6 / (size * count)
        cells = [f"{cpu[step] * micros:>6.2f}/{own[step] * micros:>6.2f}" for step in STEPS]
        total, alone = sum(cpu.values()), sum(own.values())
        cells.append(f"{total * micros:>6.2f}/{alone * micros:>6.2f}")
        print(f"{size:>8} " + " ".join(cells) + f" {total / count * 1e3:>11.2f}", flush=True)
    print(f"peak resident: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB, including the log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="50,500,5000,100000")
    parser.add_argument("--shapes", default="all", help='all, names with commas between them, or "" for none')
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--symbols", type=int, default=5_000)
    given = parser.parse_args()
    try:
        shapes = [shape_named(name) for name in (SHAPES if given.shapes == "all" else given.shapes.split(",")) if name]
    except ValueError as error:
        parser.error(str(error))
    if given.sizes:
        print_by_size(list(map(int, given.sizes.split(","))), given.runs, given.symbols)
    if shapes:
        print_by_shape(shapes, given.runs, given.symbols)


if __name__ == "__main__":
    main()
