"""Two chores that ask Kafka and Postgres every few seconds, so that an operator learns what a daemon at rest would not:
that one of them is away, how much waits, and who holds it up.

They use a client and a connection of their own, kept open; what the flow meets meanwhile counts as much (``Reach``).
"""

import asyncio
import time
from collections.abc import Iterable, Mapping

from prometheus_client import Gauge

from tickloom.core.model import TopicPartition
from tickloom.errors import Mistake, SourceUnavailable, StoreUnavailable
from tickloom.logs import Logger
from tickloom.observe.health import Health, Service
from tickloom.observe.metrics import Metrics
from tickloom.settings import Settings
from tickloom.source.lag import Backlog, End
from tickloom.source.log_ends import LogEnds
from tickloom.store import ledger
from tickloom.store.postgres import Connection, connect

_EVERY_SECONDS = 2.0
_ANSWER_SECONDS = 4.0
"""With the pause before it: an outage is told within ten seconds, also where nothing refuses and all is silent."""
_OPEN_TOO_LONG_SECONDS = 10.0
_log = Logger(__name__)


class Reach:
    """What is known of one service: as health, as metric, and as a line in the log when it changes."""

    def __init__(self, service: Service, target: str, metrics: Metrics) -> None:
        self._service = service
        self._up = metrics.up.labels(target)
        self._changed = metrics.up_changed.labels(target)

    def failed(self, who: object, error: Exception) -> None:
        """``who`` was not served."""
        before = time.time() - self._service.since
        if self._service.complain(who, str(error), time.time()):
            self._tell(0)
            _log.warning(f"{self._service.name} is away", error=str(error), seconds_up=round(before))

    def served(self, who: object) -> None:
        """``who`` was served."""
        was, before = self._service.up, time.time() - self._service.since
        if self._service.praise(who, time.time()):
            self._tell(1)
            if was is False:
                _log.info(f"{self._service.name} is back", seconds_away=round(before, 1))

    def withdraw(self, who: object) -> None:
        """``who`` asks no longer."""
        self._service.withdraw(who)

    def _tell(self, up: int) -> None:
        self._up.set(up)
        self._changed.set(self._service.since)


class Watch:
    """All fields belong to the event loop. The two chores run until they are cancelled."""

    def __init__(self, settings: Settings, metrics: Metrics, health: Health) -> None:
        self.kafka = Reach(health.kafka, "kafka", metrics)
        self.postgres = Reach(health.postgres, "postgres", metrics)
        self._settings, self._metrics, self._health = settings, metrics, health
        self._backlog = Backlog()
        self._told_open: set[TopicPartition] = set()

    def own(self, partitions: Iterable[TopicPartition]) -> None:
        """It is ours to read these partitions, and no other: what was told of others goes at once."""
        self._backlog.own(partitions)
        self.tell()

    def committed(
        self, positions: Mapping[TopicPartition, int], newest_ms: Mapping[TopicPartition, int] | None = None
    ) -> None:
        """As ``Backlog.committed``."""
        self._backlog.committed(positions, newest_ms)
        self.tell()

    async def ask_kafka(self) -> None:
        """Where our logs end; without any of our own, of the first partition of each topic, for the answer's sake."""
        ends, loop = LogEnds(self._settings, _ANSWER_SECONDS), asyncio.get_running_loop()
        topics = (self._settings.prices_topic, self._settings.volumes_topic)
        while True:
            partitions = self._backlog.owned or [TopicPartition(topic, 0) for topic in topics]
            try:
                self._see(await loop.run_in_executor(None, ends.look, partitions))
                self.kafka.served(self.ask_kafka)
            except (SourceUnavailable, Mistake) as error:
                self._backlog.ends_unknown()
                self.kafka.failed(self.ask_kafka, error)
            self.tell()
            await asyncio.sleep(_EVERY_SECONDS)

    async def ask_postgres(self) -> None:
        """How far the ledger is, also where nobody of us moves it."""
        connection: Connection | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        if connection is None:
                            connection = await connect(self._settings)
                        self._backlog.committed(await ledger.positions(connection, sorted(self._backlog.owned)))
                    self.postgres.served(self.ask_postgres)
                except (StoreUnavailable, Mistake, TimeoutError) as error:
                    await _close(connection)
                    connection = None
                    told = error if str(error) else TimeoutError(f"no answer within {_ANSWER_SECONDS:.0f} s")
                    self.postgres.failed(self.ask_postgres, told)
                self.tell()
                await asyncio.sleep(_EVERY_SECONDS)
        finally:
            await _close(connection)

    def tell(self) -> None:
        """Metrics and health say what is known now. What is not known has no series: NaN would spoil each sum and
        maximum over it, and an alert on the outage itself is there.
        """
        now, wall, metrics = time.monotonic(), time.time(), self._metrics
        lags, open_ones = self._backlog.messages(), self._backlog.open_transactions(now)
        _show(metrics.lag_messages, lags)
        _show(metrics.lag_seconds, self._backlog.seconds(now, wall))
        _show(metrics.open_transaction_messages, {at: one.messages for at, one in open_ones.items()})
        _show(metrics.open_transaction_seconds, {at: one.seconds for at, one in open_ones.items()})
        metrics.standing_by.set(self._health.waiting_for is not None)
        self._health.lag_messages = sum(lags.values()) if lags else None
        self._health.rest(now)

    def _see(self, ends: Mapping[TopicPartition, End]) -> None:
        now = time.monotonic()
        self._backlog.ends(ends, now)
        open_ones = self._backlog.open_transactions(now)
        for at, one in open_ones.items():
            if one.seconds >= _OPEN_TOO_LONG_SECONDS and at not in self._told_open:
                self._told_open.add(at)
                _log.warning(
                    "a producer's transaction stays open; what lies behind its first message cannot be read before it ends",
                    topic=at.topic,
                    partition=at.partition,
                    messages=one.messages,
                    seconds=round(one.seconds),
                )
        for at in self._told_open - open_ones.keys():
            self._told_open.discard(at)
            _log.info("the open transaction has ended", topic=at.topic, partition=at.partition)


def _show(gauge: Gauge, values: Mapping[TopicPartition, float]) -> None:
    gauge.clear()
    for at, value in values.items():
        gauge.labels(at.topic, str(at.partition)).set(value)


async def _close(connection: Connection | None) -> None:
    if connection is not None:
        await connection.close()
