"""The daemon dies, or its connection does, at every named point of the flow; the tables stay exact."""

import random
from typing import Any

from tests.acceptance.faulty import POINTS
from tests.acceptance.world import World
from tests.hostile import hostile_things

STATES = ("40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P02", "25006", "08006", "58030")
"""Bad days by SQLSTATE: serialisation, deadlock, disk, memory, connections, locks, cancelled, shutdown, crash, a
read-only standby, a broken connection, an I/O error."""


def _world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    world = World.make(kafka, database_url, topics)
    # A static member comes back without waiting for the session timeout of its former self.
    world.settings |= {"TICKLOOM_KAFKA_OPTIONS": '{"group.instance.id": "one"}', "TICKLOOM_RETRY_MAX_SECONDS": "0.5"}
    world.settings |= {"TICKLOOM_BATCH_MAX_MESSAGES": "200"}
    return world


def _struck(world: World, faults: list[str], code: int) -> None:
    done = world.tickloom("run", "--once", module="tests.acceptance.faulty", FAULTS=",".join(faults))
    struck = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert sorted(struck) == sorted(f"fault: {fault}" for fault in faults)
    assert done.returncode == code, done.stderr[-3000:]


def test_killed_at_every_point(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A crash just there would lose a batch, or load it twice."""
    world = _world(kafka, database_url, topics)
    world.produce(hostile_things(seed=31, messages=12_000))
    rng = random.Random(31)
    for point in POINTS:
        hit = 1 if "take_over" in point else rng.randrange(1, 4)  # there is one take-over a run
        _struck(world, [f"kill@{point}:{hit}"], -9)
    _struck_by_nothing(world)


def test_connection_lost_at_every_point(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """An answer that never came would be taken for a failure that was a success, or the other way round."""
    world = _world(kafka, database_url, topics)
    world.produce(hostile_things(seed=32, messages=8_000))
    batches = [f"{when}_{what}" for what in ("ledger", "copy", "commit") for when in ("before", "after")]
    faults = [f"lose@{point}:{number + 2}" for number, point in enumerate(batches)]
    _struck(world, ["lose@before_take_over:1", "lose@after_take_over:1", *faults], 0)
    assert world.differences() == []


def test_refused_at_every_point(kafka: Any, database_url: str, topics: tuple[str, str]) -> None:
    """A bad day of the database would cost a batch, or turn it into dead letters."""
    world = _world(kafka, database_url, topics)
    world.produce(hostile_things(seed=33, messages=12_000))
    points = ("before_commit", "after_copy", "after_ledger")
    faults = [f"{state}@{points[number % 3]}:{3 * number + 2}" for number, state in enumerate(STATES)]
    _struck(world, [f"{state}@before_take_over:{number + 1}" for number, state in enumerate(STATES[:2])] + faults, 0)
    assert world.differences() == []


def _struck_by_nothing(world: World) -> None:
    world.drain()
    assert world.differences() == []
