"""Outages of Kafka and Postgres: which one the daemon waits out now, and the reports to metrics, health and the log."""

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import TypeVar

from tickloom.errors import Mistake, PartitionMissing, SourceRefuses, SourceUnavailable, StoreUnavailable
from tickloom.logs import Logger
from tickloom.observe.events import AssignmentReceived, Committed, Events
from tickloom.observe.health import Health
from tickloom.observe.metrics import Metrics
from tickloom.observe.reachability import Reachability
from tickloom.patience import Failure, outlast
from tickloom.retry import Backoff, RetryPolicy
from tickloom.settings import Settings

_log = Logger(__name__)
_TRUSTED_SECONDS = 10.0
"""A session that lasts this long was not refused: by then it has asked for every partition."""
T = TypeVar("T")


class Outages:
    """The ``StoreObserver`` of all stores, and its counterpart for Kafka. Belongs to the event loop.

    ``current`` is the outage that the daemon waits out now; None without one.
    """

    def __init__(self, settings: Settings, metrics: Metrics, health: Health) -> None:
        self.current: SourceUnavailable | StoreUnavailable | None = None
        self.kafka = Reachability(health.kafka, "kafka", metrics)
        self.postgres = Reachability(health.postgres, "postgres", metrics)
        self._settings, self._metrics, self._health = settings, metrics, health
        self._lack_partitions: set[object] = set()  # stores
        self._served_since: float | None = None  # monotonic: when Kafka let the first session begin
        self._has_committed = False

    def subscribe(self, events: Events) -> None:
        """Follow these events from now on."""
        events.subscribe(
            AssignmentReceived, lambda _: self.kafka.forget(self)
        )  # an empty one: this replica may ask nothing more
        events.subscribe(Committed, self._committed)

    # --- Postgres -----------------------------------------------------------------------------------------------

    def postgres_expected(self) -> None:
        """The daemon is about to ask Postgres for the first time. Until Postgres answers, it counts as away."""
        self.current = StoreUnavailable(
            "Postgres has not answered since the start; is it up? If not, start it, or fix TICKLOOM_DATABASE_URL"
        )

    def postgres_failed(self, store: object, failure: Failure[StoreUnavailable]) -> None:
        """See ``StoreObserver``."""
        error = failure.error
        self.current = error
        if isinstance(error, PartitionMissing):  # Postgres does answer: the wait is for a person
            self._lack_partitions.add(store)
            self._health.missing_partition = str(error)
            self.postgres.answered(store)
        else:
            self._has_partitions(store)
            if failure.attempt > 1:  # a first one may be a conflict with another client, or a connection that broke
                self.postgres.failed(store, error)
        self._retried("postgres")
        wait = round(failure.wait_seconds, 2)
        _log.warning("waiting for Postgres", attempt=failure.attempt, wait_seconds=wait, error=str(error))

    def postgres_answered(self, store: object) -> None:
        """See ``StoreObserver``."""
        self.current = None
        self._has_partitions(store)
        self.postgres.answered(store)

    def store_closed(self, store: object) -> None:
        """See ``StoreObserver``."""
        self._has_partitions(store)
        self.postgres.forget(store)

    def _has_partitions(self, store: object) -> None:
        if store in self._lack_partitions:
            self._lack_partitions.discard(store)
            self._health.missing_partition = ""

    # --- Kafka --------------------------------------------------------------------------------------------------

    async def ask_kafka(self, question: Callable[[], T]) -> T:
        """Run ``question``, which blocks, off the loop, and repeat it until Kafka answers.

        Raises ``Mistake``, also if Kafka refuses this client and has never let it in.
        """
        self.current = SourceUnavailable(
            "Kafka has not answered in time; is it up? If not, start it, or fix TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"
        )
        loop = asyncio.get_running_loop()
        answer = await outlast(
            SourceUnavailable,
            Backoff(RetryPolicy.of(self._settings), Random()),
            lambda: loop.run_in_executor(None, question),
            lambda failure: self.kafka_failed(failure.error, failure.wait_seconds),
        )
        self.current = None
        self.kafka.answered(self)
        return answer

    def session_opened(self) -> None:
        """Kafka has let a session begin."""
        self.kafka.answered(self)
        self._served_since = self._served_since or time.monotonic()

    def kafka_failed(self, error: SourceUnavailable, wait_seconds: float) -> None:
        """The caller waits and asks Kafka again. Raises ``Mistake`` if waiting is useless."""
        if mistake := self.mistake(error):
            raise mistake from error
        self.current = error
        self.kafka.failed(self, error)
        self._retried("kafka")
        _log.warning("waiting for Kafka", wait_seconds=round(wait_seconds, 2), error=str(error))

    def membership_refused(self, error: SourceRefuses) -> Mistake | None:
        """The group does not let us in, and the member keeps asking. Returns the mistake if that is useless."""
        mistake = self.mistake(error)
        if mistake is None:
            self._metrics.retries.labels("kafka").inc()
            _log.warning("waiting for Kafka", error=str(error))
        return mistake

    def mistake(self, error: SourceUnavailable) -> Mistake | None:
        """A refusal from the start is a mistake; a later one is an outage (None), which may end."""
        since = self._served_since
        trusted = self._has_committed or (since is not None and time.monotonic() - since >= _TRUSTED_SECONDS)
        return Mistake(str(error)) if isinstance(error, SourceRefuses) and not trusted else None

    def _committed(self, event: Committed) -> None:
        self._has_committed = self._has_committed or event.total > 0

    def _retried(self, target: str) -> None:
        self._health.beat(time.monotonic())
        self._metrics.retries.labels(target).inc()
