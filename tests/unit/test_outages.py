"""What an outage of Kafka or Postgres leads to."""

import pytest

from tests.commits import committed
from tickloom.daemon.outages import Outages
from tickloom.errors import Mistake, PartitionMissing, SourceRefuses, SourceUnavailable, StoreUnavailable
from tickloom.observe.events import Events
from tickloom.observe.health import Health
from tickloom.observe.metrics import Metrics
from tickloom.patience import Failure
from tickloom.settings import Settings

FLOW, OTHER = object(), object()


class World:
    """Outages, and where they show."""

    def __init__(self) -> None:
        self.metrics, self.health, self.events = Metrics(), Health(10, 0), Events()
        settings = Settings(retry_initial_seconds=0.001, retry_max_seconds=0.002)
        self.outages = Outages(settings, self.metrics, self.health)
        self.outages.subscribe(self.events)

    def retries(self, target: str) -> float | None:
        return self.metrics.registry.get_sample_value("tickloom_retries_total", {"target": target})


def test_one_failure_is_no_outage() -> None:
    """Each deadlock between two replicas would look as if the database were down."""
    world = World()
    world.outages.postgres_failed(FLOW, Failure(StoreUnavailable("deadlock"), 1, 0.1))
    assert world.health.postgres.up is None
    assert world.retries("postgres") == 1
    world.outages.postgres_failed(FLOW, Failure(StoreUnavailable("refused"), 2, 0.1))
    assert world.health.postgres.up is False
    assert str(world.outages.current) == "refused"
    world.outages.postgres_answered(FLOW)
    assert world.health.postgres.up is True
    assert world.outages.current is None


def test_a_missing_partition_is_shown_until_it_exists() -> None:
    """Nobody would learn which partition the flow waits for, or it would be shown long after it was made."""
    world = World()
    failure: Failure[StoreUnavailable] = Failure(PartitionMissing("create p"), 3, 0.1)
    world.outages.postgres_failed(FLOW, failure)
    assert (world.health.missing_partition, world.health.postgres.up) == ("create p", True)
    world.outages.postgres_answered(OTHER)
    assert world.health.missing_partition == "create p", "another store has enough partitions"
    world.outages.postgres_answered(FLOW)
    assert world.health.missing_partition == ""
    world.outages.postgres_failed(FLOW, failure)
    world.outages.store_closed(FLOW)
    assert world.health.missing_partition == "", "nobody waits for it any more"


async def test_kafka_is_asked_until_it_answers() -> None:
    """A daemon that starts before the broker would give up."""
    world, errors = World(), [SourceUnavailable("no broker"), SourceUnavailable("no leader")]

    def question() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    assert await world.outages.ask_kafka(question) == "answer"
    assert world.retries("kafka") == 2
    assert world.health.kafka.up is True
    assert world.outages.current is None


async def test_what_kafka_refuses_at_the_start_is_a_mistake() -> None:
    """A wrong password would be waited out for ever, while the deployment looks fine."""

    def question() -> None:
        raise SourceRefuses("wrong password")

    with pytest.raises(Mistake, match="wrong password"):
        await World().outages.ask_kafka(question)


def test_what_kafka_refuses_later_is_waited_out() -> None:
    """A password that is rotated in Kafka would end all daemons at once."""
    world = World()
    world.events.publish(committed())
    world.outages.kafka_failed(SourceRefuses("wrong password"), 0.1)
    assert world.health.kafka.up is False
    assert isinstance(world.outages.current, SourceRefuses)
