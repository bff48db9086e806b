"""Asks the brokers where the logs end, whoever reads them: by an admin client of its own, which belongs to no group."""

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

import confluent_kafka as kafka
from confluent_kafka.admin import AdminClient, OffsetSpec  # pyright: ignore[reportPrivateImportUsage]

from tickloom.errors import Mistake, SourceUnavailable
from tickloom.kafka import make_client, reader_config, translate
from tickloom.lag import End
from tickloom.model import TopicPartition
from tickloom.settings import Settings


class LogEnds:
    """Connections that are kept open for as long as they serve. Its methods block; one thread at a time.

    After an error the client is made anew: one that has missed a change of leaders goes on asking in the name of the old
    leader's epoch, and is refused for minutes, until it happens to ask for the cluster's metadata again.
    """

    def __init__(self, settings: Settings, timeout_seconds: float) -> None:
        """``timeout_seconds``: of one question. Connects lazily. Raises ``SettingsError``."""
        self._timeout = timeout_seconds
        # What a connection failed of last, for an answer that did not come only says that it is late. The client must not know
        # us in turn: with the last of its users it closes its connections, and no garbage collector is waited for.
        self._trouble: deque[str] = deque(maxlen=1)
        self._config = {"error_cb": partial(_note, self._trouble)} | reader_config(settings)
        self._client: Any = make_client(AdminClient, self._config)

    def look(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, End]:
        """The ends of these logs. Blocks, for twice the time limit at most. Raises ``SourceUnavailable``, ``Mistake``."""
        asked = list(partitions)
        try:
            # In this order: a message that comes between the two must not look like one of an open transaction.
            high = self._latest(asked, kafka.IsolationLevel.READ_UNCOMMITTED)
            stable = self._latest(asked, kafka.IsolationLevel.READ_COMMITTED)
        except (SourceUnavailable, Mistake):
            self._client = make_client(AdminClient, self._config)
            raise
        return {at: End(stable[at], max(high[at], stable[at])) for at in asked}

    def _latest(self, asked: Iterable[TopicPartition], level: Any) -> dict[TopicPartition, int]:
        self._trouble.clear()
        question = {kafka.TopicPartition(at.topic, at.partition): OffsetSpec.latest() for at in asked}
        answers = self._client.list_offsets(question, isolation_level=level, request_timeout=self._timeout)
        found: dict[TopicPartition, int] = {}
        for at, answer in answers.items():
            try:
                offset = answer.result().offset
            except kafka.KafkaException as error:
                raise self._told(error.args[0]) from None
            if offset < 0:  # this, and no error, comes of a broker that holds its connection and says nothing
                raise SourceUnavailable(f"Kafka does not answer: {self._why('no answer in time')}")
            found[TopicPartition(at.topic, at.partition)] = offset
        return found

    def _told(self, error: Any) -> Exception:
        told = translate(error)
        if error.code() < 0 and isinstance(told, SourceUnavailable):  # librdkafka's own word, not a broker's
            return SourceUnavailable(f"Kafka does not answer: {self._why(error.str())}")
        return told

    def _why(self, otherwise: str) -> str:
        self._client.poll(0)  # runs ``_note``
        return self._trouble[0] if self._trouble else otherwise


def _note(trouble: deque[str], error: Any) -> None:
    if error.code() != kafka.KafkaError._ALL_BROKERS_DOWN:
        trouble.append(error.str())
