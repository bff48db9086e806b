"""Asks the brokers about the cluster, the two topics and the group."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import confluent_kafka as kafka
from confluent_kafka.admin import ConfigResource  # pyright: ignore[reportPrivateImportUsage]

from tickloom.core.model import TopicPartition, side_of
from tickloom.errors import Mistake, SourceUnavailable, TopicMissing
from tickloom.settings import Settings
from tickloom.source.client_config import reader_config
from tickloom.source.clients import METADATA_TIMEOUT_SECONDS, NO_RIGHTS, Admin, Consumer, make_consumer

_Described: TypeAlias = tuple[int, str]
_MOCK_CLUSTER = "mockCluster"
_NEWEST_MESSAGES = 10
"""How many messages of each partition ``peek_keys`` reads."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster and the two topics. ``partitions`` (counts) and ``topic_ids`` are by topic. Kafka before 2.8 and
    librdkafka's mock cluster give topics no ids, so ``topic_ids`` is empty there.
    """

    cluster_id: str
    partitions: Mapping[str, int]
    topic_ids: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def everything(self) -> frozenset[TopicPartition]:
        """All partitions of both topics."""
        return frozenset(TopicPartition(topic, at) for topic, count in self.partitions.items() for at in range(count))


class Topics:
    """Asks the brokers about the two topics, over connections that stay open until ``close``. The methods block, and several
    threads may call them at once.
    """

    def __init__(self, settings: Settings) -> None:
        """Connects lazily. Raises ``SettingsError``."""
        self._topics = list(side_of(settings))
        self._admin: Admin | None = Admin(reader_config(settings))
        self._cluster_id: str | None = None  # it does not change

    def close(self) -> None:
        """Close the connections as soon as no thread waits for an answer."""
        self._admin = None

    def describe(self, timeout_seconds: float = METADATA_TIMEOUT_SECONDS) -> Cluster:
        """The cluster's id, and partition counts and ids of the topics.

        Raises ``SourceUnavailable``, ``SourceRefuses``, ``Mistake`` (``TopicMissing`` if a topic does not exist).
        """
        cluster_id, found = self._described(timeout_seconds)
        return Cluster(cluster_id, {topic: count for topic, (count, _) in found.items()}, _ids(found))

    def ids(self, timeout_seconds: float = METADATA_TIMEOUT_SECONDS) -> Mapping[str, str]:
        """The topics' ids, as in ``Cluster.topic_ids``. Raises the same errors as ``describe``."""
        return _ids(self._described(timeout_seconds)[1])

    def _described(self, timeout_seconds: float) -> tuple[str, dict[str, _Described]]:
        """The cluster's id, and each topic's partition count and id."""
        admin = self._admin
        if admin is None:
            raise SourceUnavailable("these connections to Kafka were closed")
        try:
            cluster_id = self._cluster_id
            if cluster_id is None:
                cluster_id = str(admin.client.list_topics(self._topics[0], timeout=timeout_seconds).cluster_id or "")
                self._cluster_id = cluster_id
            if cluster_id.startswith(_MOCK_CLUSTER):
                found = {topic: _ask_mock(admin, topic, timeout_seconds) for topic in self._topics}
            else:
                asked = admin.client.describe_topics(
                    kafka.TopicCollection(self._topics), request_timeout=timeout_seconds
                )
                found = {topic: _described(answer) for topic, answer in asked.items()}
        except kafka.KafkaException as error:
            raise admin.explain(error.args[0]) from None
        for topic, (count, _) in found.items():
            if not count:
                raise TopicMissing(
                    f"topic {topic} does not exist; create it or fix TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC"
                )
        return cluster_id, found


def _described(answer: Any) -> _Described:
    """A topic's partition count (0 if it does not exist) and its id. Raises ``KafkaException``."""
    try:
        found = answer.result()
    except kafka.KafkaException as error:
        if error.args[0].code() == kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
            return 0, ""
        raise
    return len(found.partitions), str(found.topic_id)


def _ask_mock(admin: Admin, topic: str, timeout_seconds: float) -> _Described:
    """Like ``_described``, for librdkafka's mock cluster. Its controller is no broker and answers no question."""
    return len(admin.client.list_topics(topic, timeout=timeout_seconds).topics[topic].partitions), ""


def _ids(found: Mapping[str, _Described]) -> dict[str, str]:
    return {topic: topic_id for topic, (_, topic_id) in found.items() if topic_id.strip("A=")}  # all zeros: no id


def describe_cluster(settings: Settings) -> Cluster:
    """``Topics.describe`` over connections of its own. Blocks up to 10 s. Raises the same errors."""
    with closing(Topics(settings)) as topics:
        return topics.describe()


# --- for ``tickloom check`` -------------------------------------------------------------------------------------


def ask_group(settings: Settings) -> str:
    """Check that the group lets us in. Blocks up to 10 s. Raises ``SourceUnavailable``, ``SourceRefuses``."""
    with closing(make_consumer(reader_config(settings))) as consumer:
        try:
            consumer.committed([kafka.TopicPartition(settings.prices_topic, 0)], timeout=METADATA_TIMEOUT_SECONDS)
        except kafka.KafkaException as error:
            raise consumer.explain(error.args[0]) from None
    return f"{settings.kafka_group_id} may be joined"


def check_cleanup(settings: Settings) -> str:
    """Check that Kafka keeps all messages of the topics until they are old. Blocks up to 10 s.

    Raises ``Mistake`` if it compacts a topic, ``SourceUnavailable``.
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
                f"topic {topic.name} has cleanup.policy={policy}: of all messages with the same key Kafka keeps only the "
                f"newest, even if the others were not read yet; set it to delete"
            )
    return "messages are kept until they are old"


def peek_keys(settings: Settings) -> str:
    """Report whether the newest messages have keys. Blocks some seconds. Raises the same errors as ``describe_cluster``."""
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
    return f"all of the newest {seen} messages have keys" if seen else "the topics have no messages yet"


def _newest(consumer: Consumer, at: TopicPartition) -> Iterator[Any]:
    """The newest messages of a partition, as far as they arrive within a second."""
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
