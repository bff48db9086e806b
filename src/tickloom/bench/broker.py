"""All that the bench does with Kafka: topics and groups of its own, producers, and reading without anything else.

Everything here blocks; the callers run it in threads. ``Broker.stop`` ends what is under way.
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
    """The broker of the settings, as the bench uses it."""

    def __init__(self, settings: Settings) -> None:
        """Connects lazily. Raises ``SettingsError``."""
        self.stop = threading.Event()
        self._settings = settings
        options = {"bootstrap.servers": settings.kafka_bootstrap_servers, "client.id": "tickloom-bench", "log_level": 0}
        self._config = options | settings.kafka_options
        try:
            self._admin: Any = kafka_admin.AdminClient(self._config)
        except (kafka.KafkaException, ValueError, TypeError) as error:
            raise SettingsError(f"librdkafka refuses the settings: {error}; mend TICKLOOM_KAFKA_OPTIONS") from None

    def check(self) -> None:
        """Whether it answers. Raises ``SourceUnavailable``, ``Mistake``: a bench does not wait for better days."""
        try:
            self._admin.list_topics(timeout=_ANSWER_SECONDS)
        except kafka.KafkaException as error:
            told = translate(error.args[0])
            servers = self._settings.kafka_bootstrap_servers
            raise type(told)(
                f"{told}; is a broker up at {servers}? Else mend TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"
            ) from None

    def create(self, topics: Iterable[str], partitions: int) -> None:
        """Make the topics; returns when each partition has its leader. Raises ``SourceUnavailable``, ``Mistake``."""
        topics = list(topics)
        wanted = [
            kafka_admin.NewTopic(name, partitions, config=_TOPIC_CONFIG)  # pyright: ignore[reportPrivateImportUsage]
            for name in topics
        ]
        try:
            for made in self._admin.create_topics(wanted, operation_timeout=_ADMIN_SECONDS).values():
                made.result(_ADMIN_SECONDS)
        except kafka.KafkaException as error:
            raise _told(error.args[0]) from None
        except TimeoutError:
            raise SourceUnavailable(f"the broker made no topic in {_ADMIN_SECONDS:.0f} s; see its log") from None
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
        """Delete what the bench made; never raises, but returns a line for each that is left behind."""
        doing: dict[str, Any] = {}
        if topics := list(topics):
            doing |= self._admin.delete_topics(topics, operation_timeout=_ADMIN_SECONDS)
        if groups := list(groups):
            doing |= self._admin.delete_consumer_groups(groups, request_timeout=_ADMIN_SECONDS)
        left: list[str] = []
        for name, done in doing.items():
            try:
                done.result(_ADMIN_SECONDS)
            except Exception as error:  # what was wrong before must not be hidden by this
                if not _never_there(error):
                    left.append(f"{name} is left behind: {error or type(error).__name__}")
        return left

    def fill(self, topics: Mapping[TopicSide, str], ticks: Iterable[Tick], told: Callable[[int], None]) -> None:
        """Send all of them as fast as they go; ``told`` hears how many were sent. Raises ``SourceUnavailable``."""
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
                told(sent)
        producer.flush(_SILENCE_SECONDS)
        arrived = self.end_of(topics.values()) - before
        if arrived != sent:
            raise SourceUnavailable(f"only {arrived} of {sent} messages arrived at the broker; see its log, then again")

    def end_of(self, topics: Iterable[str]) -> int:
        """The number of messages that the topics hold, all in all. Raises ``SourceUnavailable``, ``Mistake``."""
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
        """Seconds for the raw messages of both topics, by two consumers like the daemon's, and nothing else."""
        started = time.perf_counter()
        consumers: dict[TopicSide, Any] = {side: kafka.Consumer(reader_config(self._settings)) for side in SIDES}
        try:
            for side, consumer in consumers.items():
                consumer.assign(_partitions(consumer, topics[side]))
            left, heard = messages, started
            while left > 0 and not self.stop.is_set():
                got = sum(_read_some(consumer) for consumer in consumers.values())
                left -= got
                now = time.perf_counter()
                heard = now if got else heard
                if now - heard > _SILENCE_SECONDS:
                    raise SourceUnavailable(f"the broker fell silent with {left} messages to come; see its log")
            return time.perf_counter() - started
        finally:
            for consumer in consumers.values():
                consumer.close()

    def paced(
        self, topics: Mapping[TopicSide, str], ticks: Iterable[Tick], note: Callable[[int, Tick, float], None]
    ) -> None:
        """Send each tick at its ``timestamp_ms``, late ones at once, with a producer as librdkafka makes it.

        ``note`` hears before each sending the tick's number, from 0, the tick, and by how many seconds it is late.
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
    """Of the Python client and of the C library under it."""
    return {"confluent_kafka": str(kafka.__version__), "librdkafka": str(kafka.libversion()[0])}


def _told(error: Any) -> Exception:
    """Whose turn it is when a topic cannot be made."""
    if error.code() in (kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED, kafka.KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return Mistake(
            f"Kafka refuses: {error.str()}; the bench makes topics of its own: grant the client CREATE, DELETE, READ and "
            f"WRITE on the topics tickloom_bench_*, or bench another cluster"
        )
    return translate(error)


def _never_there(error: Exception) -> bool:
    """Whether there was nothing to delete: a bench that ends early has not made everything."""
    gone = (kafka.KafkaError.UNKNOWN_TOPIC_OR_PART, kafka.KafkaError.GROUP_ID_NOT_FOUND)
    return isinstance(error, kafka.KafkaException) and error.args[0].code() in gone


def _produce(producer: Any, topic: str, tick: Tick) -> None:
    while True:
        try:
            producer.produce(topic, tick.value, tick.key, timestamp=tick.timestamp_ms)
            return
        except BufferError:  # full: let some go first
            producer.poll(0.05)


def _partitions(consumer: Any, topic: str) -> list[Any]:
    """All partitions of a topic, from their start."""
    found = consumer.list_topics(topic, timeout=_ADMIN_SECONDS).topics[topic]
    if found.error is not None:
        raise kafka.KafkaException(found.error)
    return [kafka.TopicPartition(topic, number, 0) for number in found.partitions]


def _read_some(consumer: Any) -> int:
    """How many messages there were to have, at most a chunk; waits a little for the first."""
    found: list[Any] = consumer.consume(1, 0.01)
    if found:
        found += consumer.consume(_CONSUME_MESSAGES - 1, 0)
    return sum(message.error() is None for message in found)
