"""The seam to librdkafka: how its clients are set, whose turn it is when Kafka refuses, what the cluster says of itself."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import confluent_kafka as kafka
from confluent_kafka.admin import AdminClient, ConfigResource  # pyright: ignore[reportPrivateImportUsage]

from tickloom.core.model import side_of
from tickloom.errors import Mistake, SettingsError, SourceRefuses, SourceUnavailable, TickloomError, TopicMissing
from tickloom.logs import Logger
from tickloom.settings import Settings

METADATA_TIMEOUT_SECONDS = 10.0
"""Of one question to the brokers."""

_SESSION_TIMEOUT_MS = 10_000
"""A dead replica's partitions wait this long for their next owner; librdkafka's default is 45 s."""
_RECONNECT_MAX_MS = 1_000
"""A broker that is back is found this soon; librdkafka's default is 10 s."""
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
T = TypeVar("T")
_E = kafka.KafkaError
_RIGHTS = {
    _E.TOPIC_AUTHORIZATION_FAILED: "READ and DESCRIBE on the topics of TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC",
    _E.GROUP_AUTHORIZATION_FAILED: "READ on the group of TICKLOOM_KAFKA_GROUP_ID",
    _E.CLUSTER_AUTHORIZATION_FAILED: "its rights on the cluster",
}
_IN_VAIN = (_E._TRANSPORT, _E._TIMED_OUT, _E._ALL_BROKERS_DOWN, _E._WAIT_COORD)
"""A call that waited for the client's own threads ends with one of these, and why is for them to say."""
_COMPLAINTS_SECONDS = 30.0
"""For so long a complaint may explain what fails."""
_OF_A_BROKER = re.compile(r"(?:\w+://)?(?P<address>\S+?:\d+)/(?P<id>\w+): (?P<told>.*?)(?: \(after \d+ms in state .*)?")
"""How librdkafka begins and ends what it says of one: ``sasl_ssl://host:9092/bootstrap: … (after 5ms in state CONNECT)``."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the brokers say of themselves and of the two topics."""

    cluster_id: str
    partitions: Mapping[str, int]


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
        "reconnect.backoff.max.ms": _RECONNECT_MAX_MS,
        "log_level": 3,
    }
    return {**plain, **ours, **settings.kafka_options}  # none that ``options`` refuses is in the last


def _session_timeout_ms(config: Mapping[str, Any]) -> int:
    """Ours, but no longer than the user's ``max.poll.interval.ms``: librdkafka would refuse the two together."""
    try:
        return min(_SESSION_TIMEOUT_MS, int(config.get("max.poll.interval.ms", _SESSION_TIMEOUT_MS)))
    except (TypeError, ValueError):  # librdkafka says what is wrong with it
        return _SESSION_TIMEOUT_MS


class Client(kafka.Consumer):
    """A consumer that remembers what its own threads complain of: an error of one of its methods does not say it."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Raises what the Kafka client raises; see ``make_consumer``."""
        self._complaints = Complaints(config)
        super().__init__(config | {"error_cb": self._complaints.note}, logger=_LibrdkafkaLog())

    def explain(self, error: Any, *, idle: bool = True) -> TickloomError:
        """What a KafkaError of this client means, and whose turn it is. An ``idle`` client, which reads nothing, is asked
        for its newest complaints; one that reads has told them with its messages.
        """
        if idle:
            self.poll(0)
        return self._complaints.explain(error, time.monotonic())

    def refusal(self, since: float) -> SourceRefuses | None:
        """Whether a broker has not let this client in ``since`` then (monotonic). No method fails of that: the client tries
        for ever, and reads nothing meanwhile.
        """
        return self._complaints.refusal(since)


class Complaints:
    """The last complaint of each kind. Written where the client is polled, read by whoever was waiting."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._last: dict[int, tuple[float, str]] = {}  # by code: when (monotonic), and what

    def note(self, error: Any) -> None:
        """librdkafka's ``error_cb``."""
        self._last[error.code()] = (time.monotonic(), error.str())

    def explain(self, error: Any, now: float) -> TickloomError:
        """As ``Client.explain``; ``now`` in monotonic seconds."""
        if error.code() not in _IN_VAIN:
            return translate(error, self._whom())
        fresh = {code: said for code, (at, said) in self._last.items() if now - at <= _COMPLAINTS_SECONDS}
        for code in (_E._AUTHENTICATION, _E._SSL, _E._RESOLVE, _E._BAD_MSG, _E._TRANSPORT):
            if code in fresh:
                return self._told(code, fresh[code])
        return SourceUnavailable(
            f"Kafka: {error.str()}; is a broker up at {self._config['bootstrap.servers']}, and does it speak "
            f"security.protocol {self._protocol()}? Else mend TICKLOOM_KAFKA_BOOTSTRAP_SERVERS or TICKLOOM_KAFKA_OPTIONS"
        )

    def refusal(self, since: float) -> SourceRefuses | None:
        """As ``Client.refusal``."""
        for code, (at, said) in self._last.items():
            if at > since and isinstance(told := self._told(code, said), SourceRefuses):
                return told
        return None

    def _told(self, code: int, said: str) -> TickloomError:
        match = _OF_A_BROKER.fullmatch(said)
        if match is None:
            return SourceUnavailable(f"Kafka: {said}; if it lasts, mend TICKLOOM_KAFKA_OPTIONS")
        address, told = match["address"], match["told"]
        addresses = (
            "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS" if match["id"] == "bootstrap" else "the brokers' advertised.listeners"
        )
        if code == _E._AUTHENTICATION and "Disconnected" not in told:
            return SourceRefuses(
                f"Kafka at {address} does not let {self._whom()} in by {self._mechanism()}: {told}; mend sasl.username, "
                f"sasl.password, sasl.mechanism or security.protocol in TICKLOOM_KAFKA_OPTIONS, or the user on the brokers"
            )
        if code == _E._SSL and "certificate" in told:
            return SourceRefuses(
                f"no TLS with Kafka at {address}: {told}; mend ssl.ca.location and the other ssl.… in TICKLOOM_KAFKA_OPTIONS"
            )
        if "SSL" in told or code in (_E._AUTHENTICATION, _E._SSL, _E._BAD_MSG):
            return SourceUnavailable(
                f"no understanding with Kafka at {address} by security.protocol {self._protocol()}: {told}; mend "
                f"security.protocol in TICKLOOM_KAFKA_OPTIONS to what that listener speaks, or mend {addresses}"
            )
        return SourceUnavailable(f"no way to Kafka at {address}: {told}; is the broker up? Else mend {addresses}")

    def _protocol(self) -> str:
        return str(self._config.get("security.protocol", "plaintext"))

    def _mechanism(self) -> str:
        return str(self._config.get("sasl.mechanism", self._config.get("sasl.mechanisms", "GSSAPI")))

    def _whom(self) -> str:
        names = ("sasl.username", "sasl.oauthbearer.client.id", "sasl.kerberos.principal")
        return next((repr(self._config[name]) for name in names if name in self._config), "the client")


def make_consumer(config: dict[str, Any]) -> Client:
    """A consumer, whose own threads connect in the background. Raises ``SettingsError``."""
    return _make(Client, config)


def make_admin(config: dict[str, Any]) -> Any:
    """An admin client, as ``make_consumer``. Raises ``SettingsError``."""
    return _make(partial(AdminClient, logger=_LibrdkafkaLog()), config)


def _make(kind: Callable[[dict[str, Any]], T], config: dict[str, Any]) -> T:
    try:
        return kind(config)
    except kafka.KafkaException as error:
        why = error.args[0].str().strip().removeprefix("Failed to create consumer: ")
    except (ValueError, TypeError) as error:
        why = str(error)
    raise SettingsError(f"librdkafka refuses the settings: {why}; mend TICKLOOM_KAFKA_OPTIONS")


class _LibrdkafkaLog:
    """Librdkafka's own lines, as debug: outages are told once, by those who wait for them."""

    def log(self, _level: int, message: str, *args: object) -> None:
        _log.debug("librdkafka", detail=message % args if args else message)


def translate(error: Any, whom: str = "the client") -> TickloomError:
    """Whose turn it is, from a KafkaError. ``whom``: as whom we come."""
    code = error.code()
    if rights := _RIGHTS.get(code):
        return SourceRefuses(f"Kafka refuses {whom}: {error.str()}; grant {whom} {rights}")
    if code in (_E._AUTHENTICATION, _E.SASL_AUTHENTICATION_FAILED):
        return SourceRefuses(f"Kafka refuses {whom}: {error.str()}; mend the SASL settings in TICKLOOM_KAFKA_OPTIONS")
    if code == _E._FATAL and "group.instance.id" in error.str():
        return Mistake(
            f"Kafka: {error.str()}; two replicas may not have one group.instance.id: give each its own, or none, in "
            f"TICKLOOM_KAFKA_OPTIONS"
        )
    if code == _E.TOPIC_EXCEPTION:
        return Mistake(f"Kafka refuses: {error.str()}; mend the topic's name")
    return SourceUnavailable(f"Kafka: {error.str()}")


def describe_cluster(settings: Settings) -> Cluster:
    """Cluster id and partition counts. Blocks up to 10 s a topic.

    Raises ``SourceUnavailable``, ``SourceRefuses``; ``TopicMissing`` where one does not exist.
    """
    consumer = make_consumer(reader_config(settings))
    try:
        counts: dict[str, int] = {}
        cluster_id = ""
        for topic in side_of(settings):
            metadata = consumer.list_topics(topic, timeout=METADATA_TIMEOUT_SECONDS)
            cluster_id = metadata.cluster_id or ""
            found = metadata.topics[topic]
            if found.error is not None and found.error.code() != _E.UNKNOWN_TOPIC_OR_PART:
                raise consumer.explain(found.error)
            if found.error is not None or not found.partitions:
                raise TopicMissing(
                    f"topic {topic} does not exist; create it or mend TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC"
                )
            counts[topic] = len(found.partitions)
        return Cluster(cluster_id, counts)
    except kafka.KafkaException as error:
        raise consumer.explain(error.args[0]) from None
    finally:
        consumer.close()


def ask_group(settings: Settings) -> str:
    """Whether the group lets us in, for ``check``. Blocks up to 10 s. Raises ``SourceUnavailable``, ``SourceRefuses``."""
    consumer = make_consumer(reader_config(settings))
    try:
        consumer.committed([kafka.TopicPartition(settings.prices_topic, 0)], timeout=METADATA_TIMEOUT_SECONDS)
        return f"{settings.kafka_group_id} may be joined"
    except kafka.KafkaException as error:
        raise consumer.explain(error.args[0]) from None
    finally:
        consumer.close()


class TopicIds:
    """Asks the brokers for the ids of both topics, over a connection that is kept."""

    def __init__(self, settings: Settings) -> None:
        """Connects lazily."""
        self._topics = list(side_of(settings))
        self._admin: Any = make_admin(reader_config(settings))
        self._mock: bool | None = None

    def close(self) -> None:
        """Let the connection go: with its last user the client does, and no garbage collector is waited for."""
        self._admin = None

    def read(self, timeout_seconds: float = METADATA_TIMEOUT_SECONDS) -> dict[str, str]:
        """Each topic's id, where the brokers have such (Kafka 2.8 on; librdkafka's mock cluster has none). Blocks.

        Raises ``SourceUnavailable``, ``TopicMissing``, ``Mistake``.
        """
        admin = self._admin
        if admin is None:  # another thread may close while this one waits for its turn
            raise SourceUnavailable("Kafka is no longer asked: this connection was closed")
        if self._of_a_mock(admin, timeout_seconds):
            return {}
        ids: dict[str, str] = {}
        asked = admin.describe_topics(kafka.TopicCollection(self._topics), request_timeout=timeout_seconds)
        for topic, answer in asked.items():
            try:
                ids[topic] = str(answer.result().topic_id)
            except kafka.KafkaException as error:
                if error.args[0].code() == _E.UNKNOWN_TOPIC_OR_PART:
                    raise TopicMissing(f"topic {topic} does not exist any more") from None
                raise translate(error.args[0]) from None
        return {topic: found for topic, found in ids.items() if found.strip("A=")}  # all zero: none

    def _of_a_mock(self, admin: Any, timeout_seconds: float) -> bool:
        """Whether this is librdkafka's mock cluster, whose controller is no broker: a question for it waits in vain."""
        if self._mock is None:
            try:
                metadata = admin.list_topics(self._topics[0], timeout=timeout_seconds)
            except kafka.KafkaException as error:
                raise translate(error.args[0]) from None
            self._mock = str(metadata.cluster_id).startswith("mockCluster")
        return self._mock


def look_at_cleanup(settings: Settings) -> str:
    """Whether Kafka keeps all messages of the topics until they are old, for ``check``. Blocks up to 10 s.

    Raises ``Mistake`` where it compacts them, ``SourceUnavailable``.
    """
    admin = make_admin(reader_config(settings))
    topics = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in side_of(settings)]
    asked = admin.describe_configs(topics, request_timeout=METADATA_TIMEOUT_SECONDS)
    for topic, answer in asked.items():
        try:
            policy = str(answer.result()["cleanup.policy"].value)
        except kafka.KafkaException as error:
            if error.args[0].code() == _E.TOPIC_AUTHORIZATION_FAILED:
                return "the client may not ask (DESCRIBE_CONFIGS); see that cleanup.policy is delete"
            raise translate(error.args[0]) from None
        if "compact" in policy:
            raise Mistake(
                f"topic {topic.name} has cleanup.policy={policy}: of messages with the same key Kafka drops all but the newest, "
                f"read or not; set it to delete"
            )
    return "messages are kept until they are old"


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
                    error = message.error()
                    if error is None:
                        seen += 1
                        keyless += message.key() is None
                    elif error.code() in _RIGHTS:
                        raise consumer.explain(error)
        if keyless:
            return f"{keyless} of the newest {seen} messages have no key: one replica only; key by symbol for more"
        return f"all of the newest {seen} messages have keys" if seen else "no message yet to judge by"
    except kafka.KafkaException as error:
        raise consumer.explain(error.args[0]) from None
    finally:
        consumer.close()
