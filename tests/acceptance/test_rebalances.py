"""Rebalances are cheap: what a joining and a leaving replica cost, with 5,000 symbols of state to load again."""

import asyncio
import signal
import time
from collections import defaultdict
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any

import asyncpg
import confluent_kafka
import pytest

from tests.acceptance.beside import Beside
from tests.acceptance.world import World
from tests.waiting import until
from tickloom.synthetic import TickSettings, history

PARTITIONS = 6
SYMBOLS = 5_000
PAIRS_A_SECOND = 500
STAYING_SECONDS = 2.0
MOVING_SECONDS = 5.0


class Traffic(Beside):
    """Ticks of all symbols at an even pace, into every partition all the time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": world.bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"}
        )
        self.sent = 0

    def history(self, pairs: int) -> None:
        """Some rows for each symbol."""
        for tick in history(TickSettings(symbols=SYMBOLS), pairs, 0.2, datetime.now(UTC)):
            while True:
                try:
                    self._producer.produce(
                        self._world.topics[tick.topic_side], tick.value, tick.key, timestamp=tick.timestamp_ms
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self.sent += 1
        assert self._producer.flush(60) == 0

    def run(self) -> None:
        start = time.time()
        for number in count():
            due = start + number / PAIRS_A_SECOND
            if (ahead := due - time.time()) > 0 and self.stop.wait(ahead):
                break
            symbol = f"SYM{number * 7919 % SYMBOLS:04d}"
            for side, name in (("prices", "price"), ("volumes", "volume")):
                value = f'{{"symbol":"{symbol}","{name}":{number % 100 + 1},"timestamp":{round(due * 1e6)}}}'
                self._producer.produce(self._world.topics[side], value, symbol, timestamp=round(due * 1_000))
                self.sent += 1
            self._producer.poll(0)
        assert self._producer.flush(60) == 0


class Watch(Beside):
    """Samples of the ledger: when each partition moved, and whose it was."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.moves: dict[tuple[str, int], list[tuple[float, str]]] = defaultdict(list)

    def run(self) -> None:
        asyncio.run(self._sample())

    async def _sample(self) -> None:
        connection = await asyncpg.connect(self._world.database_url)
        last: dict[tuple[str, int], int] = {}
        while not self.stop.is_set():
            for topic, partition, offset, owner in await connection.fetch(
                "SELECT topic, partition, next_offset, owner FROM tickloom.offsets"
            ):
                if last.get((topic, partition)) != offset:
                    last[topic, partition] = offset
                    self.moves[topic, partition].append((time.monotonic(), owner))
            await asyncio.sleep(0.02)
        await connection.close()

    def standstills(self, since: float) -> tuple[list[float], list[float]]:
        """The longest standstill of each partition since then: of those that stayed, and of those that moved."""
        stayed: list[float] = []
        moved: list[float] = []
        for moves in self.moves.values():
            recent = [move for move in moves if move[0] > since - 1]
            longest = max(after[0] - before[0] for before, after in pairwise(recent))
            (stayed if len({owner for _, owner in recent}) == 1 else moved).append(longest)
        return stayed, moved


@pytest.mark.parametrize(
    "options",
    ["{}", '{"group.protocol": "consumer", "group.remote.assignor": "range"}'],
    ids=["classic", "consumer"],
)
def test_a_rebalance_is_short(kafka: Any, database_url: str, topics: tuple[str, str], options: str) -> None:
    """Each deployment and each crash would be an outage of all replicas."""
    world = World.make(kafka, database_url, topics, PARTITIONS)
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": options}
    traffic = Traffic(world)
    traffic.history(50_000)
    first = world.start("run")
    until(lambda: world.loaded() == traffic.sent)
    with Watch(world) as watch, traffic:
        time.sleep(2)
        joined = time.monotonic()
        second = world.start("run")
        until(lambda: world.owners() == 2)
        time.sleep(6)
        costs = {"join": watch.standstills(joined)}
        left = time.monotonic()
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
        until(lambda: world.owners() == 1)
        time.sleep(3)
        costs["leave"] = watch.standstills(left)
    until(lambda: world.loaded() == traffic.sent)
    first.send_signal(signal.SIGTERM)
    for daemon in (first, second):
        _, output = daemon.communicate(timeout=60)
        assert daemon.returncode == 0, output[-2000:]
    for what, (stayed, moved) in costs.items():
        print(f"{what}: stayed {max(stayed):.2f} s, moved {max(moved):.2f} s", flush=True)
        assert len(stayed) == len(moved) == PARTITIONS
        assert max(stayed) < STAYING_SECONDS, stayed
        assert max(moved) < MOVING_SECONDS, moved
    assert world.query("SELECT count(*) FROM tickloom.dead_letters")[0][0] == 0
