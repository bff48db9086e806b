"""The seam to librdkafka: how its clients are set, whose turn it is when Kafka refuses, what the cluster says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import confluent_kafka as kafka
from confluent_kafka.admin import AdminClient

from tickloom.errors import Mistake, SettingsError, SourceUnavailable, TickloomError, TopicMissing
from tickloom.logs import Logger
from tickloom.model import Side
from tickloom.settings import Settings

METADATA_TIMEOUT_SECONDS = 10.0
"""Of one question to the brokers."""

_SESSION_TIMEOUT_MS = 10_000
"""A dead replica's partitions wait this long for their next owner; librdkafka's default is 45 s."""
_HEARTBEAT_MS = 500
"""Upper bound on how long a replica takes to learn that another one joins or leaves, while all others wait; by default 3 s."""
_METADATA_REFRESH_MS = 10_000
"""New partitions of the topics are noticed within this time; librdkafka's default is five minutes."""
_QUEUE_MAX_KBYTES = 2**21 - 1  # librdkafka takes no more
_FETCH_MAX_PARTITION_BYTES = 2**19
"""Of one answer: as long a run of one partition comes before the next has its turn, while the other side may be somewhere
else. librdkafka doubles it where a batch of the producer's is larger."""
_MEMBERSHIP_OPTIONS = (
    *("group.protocol", "group.protocol.type", "group.remote.assignor", "group.instance.id"),
    *("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms"),
)
"""What makes a member of a group: some are valid only together, so all of them go to the member, and to nobody else."""

_log = Logger(__name__)
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


def member_config(settings: Settings) -> dict[str, Any]:
    """The librdkafka properties of the group's member, which reads nothing."""
    ours = {
        "auto.offset.reset": "earliest",
        "queued.max.messages.kbytes": 1024,
        "topic.metadata.refresh.interval.ms": _METADATA_REFRESH_MS,
    }
    config = _config(settings, ours)
    if uses_consumer_protocol(config):
        return {"group.remote.assignor": "range"} | config
    classic = {
        "partition.assignment.strategy": "range",
        "session.timeout.ms": _session_timeout_ms(config),
        "heartbeat.interval.ms": _HEARTBEAT_MS,
    }
    return classic | config


def reader_config(settings: Settings) -> dict[str, Any]:
    """The librdkafka properties of all consumers but the member: they belong to no group, whatever ``group.id`` says.

    An answer of a broker is as large as ``queued.max.messages.kbytes`` at most: librdkafka sees to that while
    ``fetch.max.bytes`` is not set, and keeps it in line with the user's ``message.max.bytes``.
    """
    ours = {
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": min(settings.fetch_max_bytes // 1024, _QUEUE_MAX_KBYTES),
        "max.partition.fetch.bytes": _FETCH_MAX_PARTITION_BYTES,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": 50,
        "fetch.error.backoff.ms": 100,
    }
    return {name: value for name, value in _config(settings, ours).items() if name not in _MEMBERSHIP_OPTIONS}


def check_options(settings: Settings) -> None:
    """Have librdkafka read the properties of each kind of consumer. Takes milliseconds, needs no broker.

    Raises ``SettingsError``.
    """
    for config in (member_config(settings), reader_config(settings)):
        make_consumer(config).close()


def uses_consumer_protocol(config: Mapping[str, Any]) -> bool:
    """Whether the member speaks KIP-848's protocol, where the brokers hold the timeouts and the assignors."""
    return str(config.get("group.protocol")).lower() == "consumer"


def _config(settings: Settings, ours: Mapping[str, Any]) -> dict[str, Any]:
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
    return {**plain, **ours, **settings.kafka_options}


def _session_timeout_ms(config: Mapping[str, Any]) -> int:
    """Ours, but no longer than the user's ``max.poll.interval.ms``: librdkafka would refuse the two together."""
    try:
        return min(_SESSION_TIMEOUT_MS, int(config.get("max.poll.interval.ms", _SESSION_TIMEOUT_MS)))
    except (TypeError, ValueError):  # librdkafka says what is wrong with it
        return _SESSION_TIMEOUT_MS


def make_consumer(config: dict[str, Any]) -> Any:
    """A consumer, whose own threads connect in the background. Raises ``SettingsError``."""
    try:
        return kafka.Consumer(config, logger=_LibrdkafkaLog())
    except kafka.KafkaException as error:
        why = error.args[0].str().strip().removeprefix("Failed to create consumer: ")
    except (ValueError, TypeError) as error:
        why = str(error)
    raise SettingsError(f"librdkafka refuses the settings: {why}; mend TICKLOOM_KAFKA_OPTIONS")


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

    Raises ``SourceUnavailable``; ``TopicMissing`` where one does not exist, ``Mistake`` where it may not be seen.
    """
    consumer = make_consumer(reader_config(settings) | ({"allow.auto.create.topics": True} if _mock(settings) else {}))
    try:
        counts: dict[str, int] = {}
        cluster_id = ""
        for topic in side_of(settings):
            metadata = consumer.list_topics(topic, timeout=METADATA_TIMEOUT_SECONDS)
            cluster_id = metadata.cluster_id or ""
            found = metadata.topics[topic]
            if (found.error is not None and found.error.code() == _E.UNKNOWN_TOPIC_OR_PART) or not found.partitions:
                raise TopicMissing(
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


class TopicIds:
    """Asks the brokers for the ids of both topics, over a connection that is kept."""

    def __init__(self, settings: Settings) -> None:
        """Connects lazily."""
        self._topics = list(side_of(settings))
        self._admin = None if _mock(settings) else AdminClient(reader_config(settings), logger=_LibrdkafkaLog())

    def read(self, timeout_seconds: float = METADATA_TIMEOUT_SECONDS) -> dict[str, str]:
        """Each topic's id, where the brokers have such (Kafka 2.8 on; librdkafka's mock cluster has none). Blocks.

        Raises ``SourceUnavailable``, ``TopicMissing``, ``Mistake``.
        """
        if self._admin is None:
            return {}
        ids: dict[str, str] = {}
        asked = self._admin.describe_topics(kafka.TopicCollection(self._topics), request_timeout=timeout_seconds)
        for topic, answer in asked.items():
            try:
                ids[topic] = str(answer.result().topic_id)
            except kafka.KafkaException as error:
                if error.args[0].code() == _E.UNKNOWN_TOPIC_OR_PART:
                    raise TopicMissing(f"topic {topic} does not exist any more") from None
                raise translate(error.args[0]) from None
        return {topic: found for topic, found in ids.items() if found.strip("A=")}  # all zero: none


def _mock(settings: Settings) -> bool:
    return "test.mock.num.brokers" in settings.kafka_options


def peek_keys(settings: Settings) -> str:
    """Whether the newest messages have keys, for ``check``. Blocks some seconds. Raises as ``describe_cluster``."""
    cluster = describe_cluster(settings)
    consumer = make_consumer(reader_config(settings))
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
