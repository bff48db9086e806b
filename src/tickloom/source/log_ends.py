"""Asks the brokers where the logs end, with an admin client of its own, which belongs to no group."""

from collections.abc import Iterable
from typing import Any

import confluent_kafka as kafka
from confluent_kafka.admin import OffsetSpec  # pyright: ignore[reportPrivateImportUsage]

from tickloom.core.model import TopicPartition
from tickloom.errors import Mistake, SourceUnavailable
from tickloom.settings import Settings
from tickloom.source.client_config import reader_config
from tickloom.source.clients import NO_ANSWER, Admin
from tickloom.source.lag import End


class LogEnds:
    """Keeps its connections open until an error. Its methods block; only one thread at a time may call them.

    After an error it makes a new client. A client that missed a change of leaders would go on asking with the old leader's
    epoch, and be refused for minutes, until it happens to ask for the cluster's metadata again.
    """

    def __init__(self, settings: Settings, timeout_seconds: float) -> None:
        """``timeout_seconds``: of one question. Connects lazily. Raises ``SettingsError``."""
        self._config, self._timeout = reader_config(settings), timeout_seconds
        self._admin = Admin(self._config)

    def ask(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, End]:
        """The ends of these logs. Blocks, for twice the time limit at most. Raises ``SourceUnavailable``, ``Mistake``."""
        asked = list(partitions)
        try:
            # In this order, so that a message that arrives between the two does not look like an open transaction's.
            high = self._latest(asked, kafka.IsolationLevel.READ_UNCOMMITTED)
            stable = self._latest(asked, kafka.IsolationLevel.READ_COMMITTED)
        except (SourceUnavailable, Mistake):
            self._admin = Admin(self._config)
            raise
        return {at: End(stable[at], max(high[at], stable[at])) for at in asked}

    def _latest(self, asked: Iterable[TopicPartition], level: Any) -> dict[TopicPartition, int]:
        question = {kafka.TopicPartition(at.topic, at.partition): OffsetSpec.latest() for at in asked}
        answers = self._admin.client.list_offsets(question, isolation_level=level, request_timeout=self._timeout)
        found: dict[TopicPartition, int] = {}
        for at, answer in answers.items():
            try:
                offset = answer.result().offset
            except kafka.KafkaException as error:
                raise self._admin.explain(error.args[0]) from None
            # A broker that keeps the connection and stays silent causes this instead of an error.
            if offset < 0:
                raise self._admin.explain(NO_ANSWER)
            found[TopicPartition(at.topic, at.partition)] = offset
        return found
