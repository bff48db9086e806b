"""Everything that the bench does in Kafka: topics and groups of its own, producers, and reading without any other work.

All methods block, and the callers run them in threads. Setting ``Broker.stop`` ends them early.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import confluent_kafka as kafka
from confluent_kafka import admin as kafka_admin

from tickloom.errors import Mistake, SettingsError, SourceUnavailable
from tickloom.settings import Settings
from tickloom.source.client_config import reader_config
from tickloom.source.clients import translate
from tickloom.synthetic import SIDES, Tick, TopicSide

_ANSWER_SECONDS = 5.0
_ADMIN_SECONDS = 30.0
_SILENCE_SECONDS = 30.0
_CONSUME_MESSAGES = 10_000
_TOPIC_CONFIG = {"retention.ms": "-1", "retention.bytes": "-1", "message.timestamp.type": "CreateTime"}


class Broker:
    """The bench's access to the broker in the settings."""

    def __init__(self, settings: Settings) -> None:
        """Connects lazily. Raises ``SettingsError``."""
        self.stop = threading.Event()
        self._settings = settings
        options = {"bootstrap.servers": settings.kafka_bootstrap_servers, "client.id": "tickloom-bench", "log_level": 0}
        self._config = options | settings.kafka_options
        try:
            self._admin: Any = kafka_admin.AdminClient(self._config)
        except (kafka.KafkaException, ValueError, TypeError) as error:
            raise SettingsError(f"librdkafka refuses the settings: {error}; fix TICKLOOM_KAFKA_OPTIONS") from None

    def check(self) -> None:
        """Check that the broker answers. Raises ``SourceUnavailable`` or ``Mistake`` at once: a bench waits for no outage."""
        try:
            self._admin.list_topics(timeout=_ANSWER_SECONDS)
        except kafka.KafkaException as error:
            translated = translate(error.args[0])
            servers = self._settings.kafka_bootstrap_servers
            raise type(translated)(
                f"{translated}; is a broker up at {servers}? If not, fix TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"
            ) from None

    def create(self, topics: Iterable[str], partitions: int) -> None:
        """Create the topics, and wait until each partition has a leader. Raises ``SourceUnavailable``, ``Mistake``."""
        topics = list(topics)
        wanted = [
            kafka_admin.NewTopic(name, partitions, config=_TOPIC_CONFIG)  # pyright: ignore[reportPrivateImportUsage]
            for name in topics
        ]
        try:
            for created in self._admin.create_topics(wanted, operation_timeout=_ADMIN_SECONDS).values():
                created.result(_ADMIN_SECONDS)
        except kafka.KafkaException as error:
            raise _cannot_create(error.args[0]) from None
        except TimeoutError:
            raise SourceUnavailable(f"the broker created no topic in {_ADMIN_SECONDS:.0f} s; see its log") from None
        deadline = time.monotonic() + _ADMIN_SECONDS
        while True:
            try:
                self.end_of(topics)
                return
            except SourceUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def delete(self, topics: Iterable[str], groups: Iterable[str]) -> list[str]:
        """Delete these topics and groups. Never raises: returns a warning for each that could not be deleted."""
        pending: dict[str, Any] = {}
        if topics := list(topics):
            pending |= self._admin.delete_topics(topics, operation_timeout=_ADMIN_SECONDS)
        if groups := list(groups):
            pending |= self._admin.delete_consumer_groups(groups, request_timeout=_ADMIN_SECONDS)
        warnings: list[str] = []
        for name, deleted in pending.items():
            try:
                deleted.result(_ADMIN_SECONDS)
            except Exception as error:  # an earlier error, which ended the bench, must not be hidden by this one
                if not _did_not_exist(error):
                    warnings.append(f"{name} could not be deleted: {error or type(error).__name__}; delete it")
        return warnings

    def fill(self, topics: Mapping[TopicSide, str], ticks: Iterable[Tick], sent_so_far: Callable[[int], None]) -> None:
        """Send all ticks as fast as possible, and report now and then how many were sent. Raises ``SourceUnavailable``."""
        producer: Any = kafka.Producer(
            self._config | {"enable.idempotence": True, "linger.ms": 20, "compression.type": "lz4"}
        )
        before = self.end_of(topics.values())
        sent = 0
        for tick in ticks:
            if self.stop.is_set():
                return
            _produce(producer, topics[tick.topic_side], tick)
            sent += 1
            if sent % _CONSUME_MESSAGES == 0:
                producer.poll(0)
                sent_so_far(sent)
        producer.flush(_SILENCE_SECONDS)
        arrived = self.end_of(topics.values()) - before
        if arrived != sent:
            raise SourceUnavailable(
                f"only {arrived} of {sent} messages arrived at the broker; see its log, and run the bench again"
            )

    def end_of(self, topics: Iterable[str]) -> int:
        """The number of messages in all these topics together. Raises ``SourceUnavailable``, ``Mistake``."""
        consumer: Any = kafka.Consumer(reader_config(self._settings))
        try:
            return sum(
                consumer.get_watermark_offsets(at, timeout=_ADMIN_SECONDS)[1]
                for name in topics
                for at in _partitions(consumer, name)
            )
        except kafka.KafkaException as error:
            raise translate(error.args[0]) from None
        finally:
            consumer.close()

    def read_all(self, topics: Mapping[TopicSide, str], messages: int) -> float:
        """Seconds to read both topics with two consumers like the daemon's, and without any other work.

        Raises ``SourceUnavailable``.
        """
        started = time.perf_counter()
        consumers: dict[TopicSide, Any] = {side: kafka.Consumer(reader_config(self._settings)) for side in SIDES}
        try:
            for side, consumer in consumers.items():
                consumer.assign(_partitions(consumer, topics[side]))
            left, last_message = messages, started
            while left > 0 and not self.stop.is_set():
                count = sum(_read_some(consumer) for consumer in consumers.values())
                left -= count
                now = time.perf_counter()
                last_message = now if count else last_message
                if now - last_message > _SILENCE_SECONDS:
                    raise SourceUnavailable(f"the broker fell silent before the last {left} messages; see its log")
            return time.perf_counter() - started
        finally:
            for consumer in consumers.values():
                consumer.close()

    def paced(
        self, topics: Mapping[TopicSide, str], ticks: Iterable[Tick], note: Callable[[int, Tick, float], None]
    ) -> None:
        """Send each tick at its ``timestamp_ms``, or at once if that has passed, with librdkafka's default producer.

        Calls ``note`` before each tick with its number (from 0), the tick, and by how many seconds it is late.
        """
        producer: Any = kafka.Producer(self._config)
        for number, tick in enumerate(ticks):
            due = tick.timestamp_ms / 1_000
            while (ahead := due - time.time()) > 0:
                if self.stop.is_set():
                    return
                producer.poll(0)
                time.sleep(min(ahead, 0.05))
            note(number, tick, -ahead)
            _produce(producer, topics[tick.topic_side], tick)
        producer.flush(_SILENCE_SECONDS)


def client_versions() -> dict[str, str]:
    """The versions of the Python client and of the C library under it."""
    return {"confluent_kafka": str(kafka.__version__), "librdkafka": str(kafka.libversion()[0])}


def _cannot_create(error: Any) -> Exception:
    """The error for a topic that cannot be created."""
    if error.code() in (kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED, kafka.KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return Mistake(
            f"Kafka refuses: {error.str()}; the bench creates topics of its own: grant the client CREATE, DELETE, READ and "
            f"WRITE on the topics tickloom_bench_*, or use another cluster"
        )
    return translate(error)


def _did_not_exist(error: Exception) -> bool:
    """Whether there was nothing to delete: a bench that ends early may not have created everything."""
    codes = (kafka.KafkaError.UNKNOWN_TOPIC_OR_PART, kafka.KafkaError.GROUP_ID_NOT_FOUND)
    return isinstance(error, kafka.KafkaException) and error.args[0].code() in codes


def _produce(producer: Any, topic: str, tick: Tick) -> None:
    while True:
        try:
            producer.produce(topic, tick.value, tick.key, timestamp=tick.timestamp_ms)
            return
        except BufferError:  # librdkafka's queue is full: let it send some
            producer.poll(0.05)


def _partitions(consumer: Any, topic: str) -> list[Any]:
    """All partitions of a topic, to be read from their first offset."""
    found = consumer.list_topics(topic, timeout=_ADMIN_SECONDS).topics[topic]
    if found.error is not None:
        raise kafka.KafkaException(found.error)
    return [kafka.TopicPartition(topic, number, 0) for number in found.partitions]


def _read_some(consumer: Any) -> int:
    """Read the messages that are available, at most a chunk; returns their number. Waits a little for the first."""
    found: list[Any] = consumer.consume(1, 0.01)
    if found:
        found += consumer.consume(_CONSUME_MESSAGES - 1, 0)
    return sum(message.error() is None for message in found)
