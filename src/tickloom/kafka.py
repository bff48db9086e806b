"""The seam to librdkafka: how its clients are set, whose turn it is when Kafka refuses, what the cluster says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import confluent_kafka as kafka
import structlog

from tickloom.errors import Mistake, SettingsError, SourceUnavailable, TickloomError
from tickloom.model import Side
from tickloom.settings import Settings

METADATA_TIMEOUT_SECONDS = 10.0
"""Of one question to the brokers."""

_log = structlog.get_logger(__name__)
_E = kafka.KafkaError
_HOPELESS = {
    _E.TOPIC_AUTHORIZATION_FAILED: "grant the client READ and DESCRIBE on both topics",
    _E.GROUP_AUTHORIZATION_FAILED: "grant the client READ on the group",
    _E.CLUSTER_AUTHORIZATION_FAILED: "grant the client its rights on the cluster",
    _E.SASL_AUTHENTICATION_FAILED: "mend the SASL settings in TICKLOOM_KAFKA_OPTIONS",
    _E._AUTHENTICATION: "mend the SASL settings in TICKLOOM_KAFKA_OPTIONS",
    _E.TOPIC_EXCEPTION: "mend the topic's name",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the brokers say of themselves and of the two topics."""

    cluster_id: str
    partitions: Mapping[str, int]


def side_of(settings: Settings) -> dict[str, Side]:
    """Topic name to side."""
    return {settings.prices_topic: Side.PRICES, settings.volumes_topic: Side.VOLUMES}


def client_config(settings: Settings, **ours: Any) -> dict[str, Any]:
    plain = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "group.id": settings.kafka_group_id,
        "client.id": "tickloom",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "log_level": 3,
    }
    return plain | ours | settings.kafka_options


def make_consumer(config: dict[str, Any]) -> Any:
    try:
        return kafka.Consumer(config, logger=_LibrdkafkaLog())
    except (kafka.KafkaException, ValueError, TypeError) as error:
        raise SettingsError(f"librdkafka refuses the settings: {error}; mend TICKLOOM_KAFKA_OPTIONS") from None


class _LibrdkafkaLog:
    """Librdkafka's own lines, as debug: outages are told once, by those who wait for them."""

    def log(self, _level: int, message: str, *args: object) -> None:
        _log.debug("librdkafka", detail=message % args if args else message)


def translate(error: Any) -> TickloomError:
    """Whose turn it is, from a KafkaError."""
    if mend := _HOPELESS.get(error.code()):
        return Mistake(f"Kafka refuses: {error.str()}; {mend}")
    return SourceUnavailable(f"Kafka: {error.str()}")


def describe_cluster(settings: Settings) -> Cluster:
    """Cluster id and partition counts. Blocks up to 10 s a topic.

    Raises ``SourceUnavailable``; ``Mistake`` where a topic does not exist or may not be seen.
    """
    consumer = make_consumer(client_config(settings, **{"allow.auto.create.topics": True} if _mock(settings) else {}))
    try:
        counts: dict[str, int] = {}
        cluster_id = ""
        for topic in side_of(settings):
            metadata = consumer.list_topics(topic, timeout=METADATA_TIMEOUT_SECONDS)
            cluster_id = metadata.cluster_id or ""
            found = metadata.topics[topic]
            if (found.error is not None and found.error.code() == _E.UNKNOWN_TOPIC_OR_PART) or not found.partitions:
                raise Mistake(
                    f"topic {topic} does not exist; create it or mend TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC"
                )
            if found.error is not None:
                raise translate(found.error)
            counts[topic] = len(found.partitions)
        return Cluster(cluster_id, counts)
    except kafka.KafkaException as error:
        raise translate(error.args[0]) from None
    finally:
        consumer.close()


def _mock(settings: Settings) -> bool:
    return "test.mock.num.brokers" in settings.kafka_options


def peek_keys(settings: Settings) -> str:
    """Whether the newest messages have keys, for ``check``. Blocks some seconds. Raises as ``describe_cluster``."""
    cluster = describe_cluster(settings)
    consumer = make_consumer(client_config(settings, **{"auto.offset.reset": "latest"}))
    try:
        seen, keyless = 0, 0
        for topic, count in cluster.partitions.items():
            for partition in range(count):
                at = kafka.TopicPartition(topic, partition)
                low, high = consumer.get_watermark_offsets(at, timeout=METADATA_TIMEOUT_SECONDS)
                if high == low:
                    continue
                consumer.assign([kafka.TopicPartition(topic, partition, max(low, high - 10))])
                for message in consumer.consume(10, 1.0):
                    if message.error() is None:
                        seen += 1
                        keyless += message.key() is None
        if keyless:
            return f"{keyless} of the newest {seen} messages have no key: one replica only; key by symbol for more"
        return f"all of the newest {seen} messages have keys" if seen else "no message yet to judge by"
    except kafka.KafkaException as error:
        raise translate(error.args[0]) from None
    finally:
        consumer.close()
