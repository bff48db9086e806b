"""A hostile log leaves exactly the tables, dead letters and ledger of the SQL reference."""

import random
import time
from typing import Any

import pytest

from tests.acceptance.world import World
from tests.hostile import hostile_things


@pytest.mark.parametrize(
    ("messages", "settings"),
    [
        (40_000, {}),
        (40_000, {"TICKLOOM_CACHE_MAX_SYMBOLS": "3"}),
        (40_000, {"TICKLOOM_BATCH_MAX_MESSAGES": "11"}),
        (
            6_000,
            {"TICKLOOM_BATCH_MAX_MESSAGES": "500", "TICKLOOM_CACHE_MAX_SYMBOLS": "3", "TICKLOOM_CACHE_TAIL_ROWS": "4"},
        ),
        (6_000, {"TICKLOOM_WINDOW_ROWS": "1"}),
    ],
    ids=["default", "tiny cache", "tiny batches", "small everything", "window of one"],
)
def test_hostile_log(
    kafka: Any, database_url: str, topics: tuple[str, str], messages: int, settings: dict[str, str]
) -> None:
    """Nobody could trust a number in the tables."""
    world = World.make(kafka, database_url, topics)
    world.settings |= settings
    world.produce(hostile_things(seed=messages, messages=messages))
    world.drain()
    assert world.differences(int(settings.get("TICKLOOM_WINDOW_ROWS", "5"))) == []


def test_killed_again_and_again(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A crash would lose rows, double them, or make averages wrong around it."""
    world = World.make(kafka, database_url, topics)
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "300"}
    world.produce(hostile_things(seed=7, messages=20_000))
    rng = random.Random(7)
    for _ in range(6):
        victim = world.start("run", "--once")
        time.sleep(rng.uniform(0.8, 3.0))
        victim.kill()
        victim.communicate()
    world.drain()
    assert world.differences() == []


def test_halves_far_apart(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A volume that comes ten thousand messages after its price would never be joined."""
    world = World.make(kafka, database_url, topics)
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "700", "TICKLOOM_CACHE_MAX_SYMBOLS": "5"}
    things = [thing for thing in hostile_things(seed=11, messages=22_000) if thing.value]
    for side in ("prices", "volumes"):
        world.produce([thing for thing in things if thing.side == side])
        world.drain()
    assert world.differences() == []
