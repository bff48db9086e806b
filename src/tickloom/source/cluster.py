"""What the cluster says about itself, the two topics and the group."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka as kafka
from confluent_kafka.admin import ConfigResource  # pyright: ignore[reportPrivateImportUsage]

from tickloom.core.model import TopicPartition, side_of
from tickloom.errors import Mistake, TopicMissing
from tickloom.settings import Settings
from tickloom.source.client_config import reader_config
from tickloom.source.clients import METADATA_TIMEOUT_SECONDS, NO_RIGHTS, Admin, Consumer, make_consumer

_NEWEST_MESSAGES = 10
"""How many messages of each partition ``peek_keys`` reads."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster and the two topics. ``partitions`` and ``topic_ids``: by topic; a topic has no id where the brokers give
    none (before Kafka 2.8, and in librdkafka's mock cluster).
    """

    cluster_id: str
    partitions: Mapping[str, int]
    topic_ids: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def everything(self) -> frozenset[TopicPartition]:
        """All partitions of both topics."""
        return frozenset(TopicPartition(topic, at) for topic, count in self.partitions.items() for at in range(count))


class Topics:
    """Asks the brokers about the two topics, over connections that are kept until ``close``. Its methods block; one thread
    at a time.
    """

    def __init__(self, settings: Settings) -> None:
        """Connects lazily. Raises ``SettingsError``."""
        self._topics = list(side_of(settings))
        self._admin: Admin | None = Admin(reader_config(settings))

    def close(self) -> None:
        """Close the connections."""
        self._admin = None

    def describe(self, timeout_seconds: float = METADATA_TIMEOUT_SECONDS) -> Cluster:
        """The cluster's id, and partition counts and ids of the topics.

        Raises ``SourceUnavailable``, ``SourceRefuses``, ``Mistake`` (``TopicMissing`` where a topic does not exist).
        """
        assert self._admin is not None
        asked = self._admin.client.describe_cluster(request_timeout=timeout_seconds)
        found = dict(self._described(timeout_seconds))
        try:
            cluster_id = asked.result().cluster_id or ""
        except kafka.KafkaException as error:
            raise self._admin.explain(error.args[0]) from None
        return Cluster(cluster_id, {topic: len(one.partitions) for topic, one in found.items()}, _ids(found))

    def ids(self, timeout_seconds: float = METADATA_TIMEOUT_SECONDS) -> Mapping[str, str]:
        """The topics' ids, as in ``Cluster.topic_ids``. Raises as ``describe``."""
        return _ids(dict(self._described(timeout_seconds)))

    def _described(self, timeout_seconds: float) -> Iterator[tuple[str, Any]]:
        """Each topic with its description."""
        assert self._admin is not None
        asked = self._admin.client.describe_topics(kafka.TopicCollection(self._topics), request_timeout=timeout_seconds)
        for topic, answer in asked.items():
            try:
                described = answer.result()
            except kafka.KafkaException as error:
                if error.args[0].code() != kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise self._admin.explain(error.args[0]) from None
                described = None
            if described is None or not described.partitions:
                raise TopicMissing(
                    f"topic {topic} does not exist; create it or fix TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC"
                )
            yield topic, described


def _ids(described: Mapping[str, Any]) -> dict[str, str]:
    found = {topic: str(one.topic_id) for topic, one in described.items()}
    return {topic: topic_id for topic, topic_id in found.items() if topic_id.strip("A=")}  # all zero: none


def describe_cluster(settings: Settings) -> Cluster:
    """``Topics.describe`` over connections of its own. Blocks up to 10 s. Raises as that."""
    with closing(Topics(settings)) as topics:
        return topics.describe()


# --- what ``check`` asks ----------------------------------------------------------------------------------------


def ask_group(settings: Settings) -> str:
    """Whether the group lets us in. Blocks up to 10 s. Raises ``SourceUnavailable``, ``SourceRefuses``."""
    with closing(make_consumer(reader_config(settings))) as consumer:
        try:
            consumer.committed([kafka.TopicPartition(settings.prices_topic, 0)], timeout=METADATA_TIMEOUT_SECONDS)
        except kafka.KafkaException as error:
            raise consumer.explain(error.args[0]) from None
    return f"{settings.kafka_group_id} may be joined"


def check_cleanup(settings: Settings) -> str:
    """Whether Kafka keeps all messages of the topics until they are old. Blocks up to 10 s.

    Raises ``Mistake`` where it compacts them, ``SourceUnavailable``.
    """
    admin = Admin(reader_config(settings))
    topics = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in side_of(settings)]
    asked = admin.client.describe_configs(topics, request_timeout=METADATA_TIMEOUT_SECONDS)
    for topic, answer in asked.items():
        try:
            policy = str(answer.result()["cleanup.policy"].value)
        except kafka.KafkaException as error:
            if error.args[0].code() == kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return "the client may not ask (DESCRIBE_CONFIGS); make sure that cleanup.policy is delete"
            raise admin.explain(error.args[0]) from None
        if "compact" in policy:
            raise Mistake(
                f"topic {topic.name} has cleanup.policy={policy}: Kafka keeps only the newest of the messages with the same "
                f"key, whether the others were read or not; set it to delete"
            )
    return "messages are kept until they are old"


def peek_keys(settings: Settings) -> str:
    """Whether the newest messages have keys. Blocks some seconds. Raises as ``describe_cluster``."""
    everything = describe_cluster(settings).everything
    seen, keyless = 0, 0
    with closing(make_consumer(reader_config(settings))) as consumer:
        try:
            for at in sorted(everything):
                for message in _newest(consumer, at):
                    seen += 1
                    keyless += message.key() is None
        except kafka.KafkaException as error:
            raise consumer.explain(error.args[0]) from None
    if keyless:
        return f"{keyless} of the newest {seen} messages have no key: one replica only; key by symbol for more"
    return f"all of the newest {seen} messages have keys" if seen else "no message yet to judge by"


def _newest(consumer: Consumer, at: TopicPartition) -> Iterator[Any]:
    """The newest messages of a partition, those that come within a second."""
    low, high = consumer.get_watermark_offsets(
        kafka.TopicPartition(at.topic, at.partition), timeout=METADATA_TIMEOUT_SECONDS
    )
    if high == low:
        return
    consumer.assign([kafka.TopicPartition(at.topic, at.partition, max(low, high - _NEWEST_MESSAGES))])
    for message in consumer.consume(_NEWEST_MESSAGES, 1.0):
        error = message.error()
        if error is None:
            yield message
        elif error.code() in NO_RIGHTS:
            raise consumer.explain(error)
