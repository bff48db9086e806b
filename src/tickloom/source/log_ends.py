"""Asks the brokers where the logs end, whoever reads them: by an admin client of its own, which belongs to no group."""

import time
from collections.abc import Iterable
from typing import Any

import confluent_kafka as kafka
from confluent_kafka.admin import OffsetSpec  # pyright: ignore[reportPrivateImportUsage]

from tickloom.core.model import TopicPartition
from tickloom.errors import Mistake, SourceUnavailable, TickloomError
from tickloom.settings import Settings
from tickloom.source.kafka import Complaints, make_admin, reader_config
from tickloom.source.lag import End

_NO_ANSWER = kafka.KafkaError(kafka.KafkaError._TIMED_OUT, "no answer in time")


class LogEnds:
    """Connections that are kept open for as long as they serve. Its methods block; one thread at a time.

    After an error the client is made anew: one that has missed a change of leaders goes on asking in the name of the old
    leader's epoch, and is refused for minutes, until it happens to ask for the cluster's metadata again.
    """

    def __init__(self, settings: Settings, timeout_seconds: float) -> None:
        """``timeout_seconds``: of one question. Connects lazily. Raises ``SettingsError``."""
        self._config, self._timeout = reader_config(settings), timeout_seconds
        self._connect()

    def look(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, End]:
        """The ends of these logs. Blocks, for twice the time limit at most. Raises ``SourceUnavailable``, ``Mistake``."""
        asked = list(partitions)
        try:
            # In this order: a message that comes between the two must not look like one of an open transaction.
            high = self._latest(asked, kafka.IsolationLevel.READ_UNCOMMITTED)
            stable = self._latest(asked, kafka.IsolationLevel.READ_COMMITTED)
        except (SourceUnavailable, Mistake):
            self._connect()
            raise
        return {at: End(stable[at], max(high[at], stable[at])) for at in asked}

    def _connect(self) -> None:
        # The client knows its complaints, not us: with the last of its users it closes its connections, and no garbage
        # collector is waited for.
        self._complaints = Complaints(self._config)
        self._client: Any = make_admin(self._config | {"error_cb": self._complaints.note})

    def _latest(self, asked: Iterable[TopicPartition], level: Any) -> dict[TopicPartition, int]:
        question = {kafka.TopicPartition(at.topic, at.partition): OffsetSpec.latest() for at in asked}
        answers = self._client.list_offsets(question, isolation_level=level, request_timeout=self._timeout)
        found: dict[TopicPartition, int] = {}
        for at, answer in answers.items():
            try:
                offset = answer.result().offset
            except kafka.KafkaException as error:
                raise self._told(error.args[0]) from None
            if offset < 0:  # this, and no error, comes of a broker that holds its connection and says nothing
                raise self._told(_NO_ANSWER)
            found[TopicPartition(at.topic, at.partition)] = offset
        return found

    def _told(self, error: Any) -> TickloomError:
        self._client.poll(0)  # notes what there is to complain of
        if error.code() < 0:  # librdkafka's own word, not a broker's: it got no answer
            error = _NO_ANSWER
        return self._complaints.explain(error, time.monotonic())
