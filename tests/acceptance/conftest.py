"""Fixtures that several files of acceptance tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.acceptance.replica import Replica, Start
from tests.acceptance.world import World


@pytest.fixture
def world(kafka: Any, database_url: str, topics: tuple[str, str]) -> World:
    """A world with empty topics of four partitions, and empty tables."""
    return World.make(kafka, database_url, topics)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts replicas of a world; those that still run at the end are killed."""
    replicas: list[Replica] = []

    def start_one(world: World, **options: str) -> Replica:
        log = tmp_path / f"replica-{len(replicas)}.log"
        with log.open("w") as output:
            replicas.append(Replica(world.start("run", output=output, **options), log))
        return replicas[-1]

    yield start_one
    for replica in replicas:
        replica.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[services.Kafka]:
    """A broker that the test may kill."""
    folder = tmp_path / "broker"
    folder.mkdir()
    own = services.Kafka(folder)
    own.start()
    yield own
    own.kill()
