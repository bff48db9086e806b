"""Two chores that ask Kafka and Postgres every few seconds. So the operator of an idle daemon also learns of an outage, of
waiting messages, and of a transaction that holds them back.

They use a client and a connection of their own, which stay open. Outages that the flow meets count equally (see
``Reachability``).
"""

import asyncio
import time
from collections.abc import Iterable, Mapping

from prometheus_client import Gauge

from tickloom.core.model import TopicPartition
from tickloom.daemon.outages import Outages
from tickloom.errors import Mistake, SourceUnavailable, StoreUnavailable
from tickloom.logs import Logger
from tickloom.observe.events import AssignmentReceived, AssignmentRevoked, Committed, Events, StandingBy, TookOver
from tickloom.observe.health import Health
from tickloom.observe.metrics import Metrics
from tickloom.settings import Settings
from tickloom.source.lag import Backlog, End
from tickloom.source.log_ends import LogEnds
from tickloom.store import ledger
from tickloom.store.postgres import Connection, connect

_EVERY_SECONDS = 2.0
_ANSWER_SECONDS = 4.0
"""Together with the pause before it this bounds the report of an outage to ten seconds, even if the service is silent."""
_OPEN_TOO_LONG_SECONDS = 10.0
_log = Logger(__name__)


class Monitor:
    """Keeps the lag, and shows it in metrics and health. All fields belong to the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics, health: Health, outages: Outages) -> None:
        self._settings, self._metrics, self._health, self._outages = settings, metrics, health, outages
        self._backlog = Backlog()
        self._connection: Connection | None = None
        self._reported_open: set[TopicPartition] = set()  # partitions whose open transaction is in the log

    def subscribe(self, events: Events) -> None:
        """Follow our partitions and their commits. Health must have subscribed before."""
        events.subscribe(AssignmentReceived, lambda event: self._own(event.partitions))
        events.subscribe(AssignmentRevoked, lambda _: self._own(()))
        events.subscribe(StandingBy, lambda _: self._own(()))
        events.subscribe(TookOver, self._took_over)
        events.subscribe(Committed, self._committed)

    async def ask_kafka(self) -> None:
        """Follow the ends of our logs, until cancelled. A replica without partitions asks as well, to notice an outage."""
        ends, loop = LogEnds(self._settings, _ANSWER_SECONDS), asyncio.get_running_loop()
        topics = (self._settings.prices_topic, self._settings.volumes_topic)
        while True:
            partitions = self._backlog.owned or [TopicPartition(topic, 0) for topic in topics]
            try:
                self._note_ends(await loop.run_in_executor(None, ends.ask, partitions))
                self._outages.kafka.answered(self.ask_kafka)
            except (SourceUnavailable, Mistake) as error:
                self._backlog.ends_unknown()
                self._outages.kafka.failed(self.ask_kafka, error)
            self._show()
            await asyncio.sleep(_EVERY_SECONDS)

    async def ask_postgres(self) -> None:
        """Follow the ledger, until cancelled, even if another replica moves it."""
        try:
            while True:
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        if self._connection is None:
                            self._connection = await connect(self._settings)
                        owned = sorted(self._backlog.owned)
                        self._backlog.committed(await ledger.positions(self._connection, owned))
                    self._outages.postgres.answered(self.ask_postgres)
                except (StoreUnavailable, Mistake, TimeoutError) as error:
                    await self._disconnect()
                    silence = TimeoutError(f"no answer within {_ANSWER_SECONDS:.0f} s")
                    self._outages.postgres.failed(self.ask_postgres, error if str(error) else silence)
                self._show()
                await asyncio.sleep(_EVERY_SECONDS)
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _own(self, partitions: Iterable[TopicPartition]) -> None:
        """This replica reads these partitions and no others. The metrics of all others disappear at once."""
        self._backlog.own(partitions)
        self._show()

    def _took_over(self, event: TookOver) -> None:
        self._backlog.own(event.positions)
        self._backlog.committed(event.positions)
        self._show()

    def _committed(self, event: Committed) -> None:
        self._backlog.committed(event.positions, event.newest_ms)
        self._show()

    def _show(self) -> None:
        """Update metrics and health. An unknown value has no series: NaN would spoil each sum and maximum over it, and an
        outage has an alert of its own.
        """
        now, wall, metrics = time.monotonic(), time.time(), self._metrics
        lags, transactions = self._backlog.messages(), self._backlog.open_transactions(now)
        _set_all(metrics.lag_messages, lags)
        _set_all(metrics.lag_seconds, self._backlog.seconds(now, wall))
        _set_all(metrics.open_transaction_messages, {at: one.messages for at, one in transactions.items()})
        _set_all(metrics.open_transaction_seconds, {at: one.seconds for at, one in transactions.items()})
        metrics.standing_by.set(self._health.standing_by is not None)
        self._health.lag_messages = sum(lags.values()) if lags else None
        self._health.tick(now)

    def _note_ends(self, ends: Mapping[TopicPartition, End]) -> None:
        now = time.monotonic()
        self._backlog.ends(ends, now)
        transactions = self._backlog.open_transactions(now)
        for at, one in transactions.items():
            if one.seconds >= _OPEN_TOO_LONG_SECONDS and at not in self._reported_open:
                self._reported_open.add(at)
                _log.warning(
                    "a producer's transaction stays open; no message after its first one can be read until it ends",
                    topic=at.topic,
                    partition=at.partition,
                    messages=one.messages,
                    seconds=round(one.seconds),
                )
        for at in self._reported_open - transactions.keys():
            self._reported_open.discard(at)
            _log.info("the open transaction has ended", topic=at.topic, partition=at.partition)


def _set_all(gauge: Gauge, values: Mapping[TopicPartition, float]) -> None:
    """Give the gauge these series and no others."""
    gauge.clear()
    for at, value in values.items():
        gauge.labels(at.topic, str(at.partition)).set(value)
