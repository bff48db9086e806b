"""What the cluster says about itself and the topics, asked of librdkafka's mock cluster, as the demo does."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import confluent_kafka as kafka
import pytest

from tickloom.core.model import TopicPartition
from tickloom.errors import SourceUnavailable, TopicMissing
from tickloom.settings import Settings
from tickloom.source.cluster import Topics, describe_cluster


@pytest.fixture(scope="module")
def embedded() -> Iterator[Settings]:
    """Settings for an embedded broker, which has the topics that they name."""
    producer: Any = kafka.Producer({"bootstrap.servers": "embedded:1", "test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    settings = Settings(kafka_bootstrap_servers=f"{broker.host}:{broker.port}")
    for topic in (settings.prices_topic, settings.volumes_topic):
        producer.list_topics(topic, timeout=10)  # the first question makes the topic
    yield settings
    producer.flush(1)  # the broker lives as long as its producer


def test_the_embedded_broker_is_described(embedded: Settings) -> None:
    """The demo's broker never answers questions to its controller, so the demo would show nothing but an outage."""
    found = describe_cluster(embedded)
    assert found.partitions == {"stock_prices": 4, "stock_volumes": 4}
    assert found.topic_ids == {}
    assert found.everything == {TopicPartition(topic, n) for topic in found.partitions for n in range(4)}


def test_a_missing_topic_is_named(embedded: Settings) -> None:
    """A user would look for the fault in a topic that exists."""
    with pytest.raises(TopicMissing, match="topic no-such-topic does not exist"):
        describe_cluster(embedded.model_copy(update={"volumes_topic": "no-such-topic"}))


def test_closed_connections_are_an_outage(embedded: Settings) -> None:
    """A chore that asks while a session ends would end the daemon, as if it had met a bug."""
    with closing(Topics(embedded)) as topics:
        assert topics.ids() == {}
    with pytest.raises(SourceUnavailable):
        topics.ids()
