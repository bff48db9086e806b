"""This replica's membership of the group, apart from reading; and settle: the offsets, committed to Kafka as a courtesy.

The member subscribes to both topics, and every partition is paused from its assignment on: the member is polled for
callbacks, and makes the courtesy commits. The rebalance callbacks run in its thread, inside ``poll``. The thread talks
to the event loop by ``notify`` only.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import confluent_kafka as kafka

from tickloom.core.model import Batch, TopicPartition, side_of
from tickloom.errors import Mistake, SourceRefuses, SourceUnavailable
from tickloom.logs import Logger
from tickloom.settings import Settings
from tickloom.source.client_config import member_config, reader_config, uses_consumer_protocol
from tickloom.source.clients import Admin, make_consumer

_log = Logger(__name__)
_POLL_SECONDS = 0.05
"""Upper bound on how long a member takes to notice that it is to leave, and on how late a courtesy commit is made."""
_REPEAT_SECONDS = 10.0
"""How often a refusal that lasts is reported."""
_DESCRIBE_SECONDS = 4.0
"""Time limit of a question about the group."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """These partitions, all of them, are ours now."""

    partitions: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Revoked:
    """The partitions are being taken from us; set ``done`` when nothing of theirs is in flight any more."""

    done: threading.Event


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """The membership has ended with ``error``."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class MemberRefused:
    """The group does not let us in, or no longer does; the member goes on trying."""

    error: SourceRefuses


MemberEvent: TypeAlias = Assigned | Revoked | MemberFailed | MemberRefused


class Member:
    """This replica's membership of the group, with a thread that lives from ``start`` to ``leave``."""

    def __init__(self, settings: Settings, notify: Callable[[MemberEvent], None]) -> None:
        """``notify`` is called in the member's thread. Raises ``SettingsError``."""
        self._settings = settings
        self._notify = notify
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._to_commit: dict[TopicPartition, int] = {}  # by the loop and this thread, under the lock
        config = member_config(settings)
        self.may_be_spare_in_silence = self._incremental = uses_consumer_protocol(config)
        """Whether the client may join a group in which all partitions are taken and never call back. That is so with
        KIP-848's protocol, where the first assignment is empty."""
        self._refused_at = 0.0  # monotonic: when a refusal was last reported; only the thread writes it
        self._consumer = make_consumer(config)
        self._thread = threading.Thread(target=self._run, name="tickloom-member", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def leave(self) -> None:
        """Leave the group; blocks until that is done, 10 s at most. Also for a member that never started."""
        self._stop.set()
        if self._thread.ident is None:
            self._consumer.close()
        else:
            self._thread.join(10)

    def is_spare(self, partitions: int) -> bool:
        """Whether members of the group own all of the topics' ``partitions``. A member asks this that was given none.
        Blocks for some seconds at most; False where Kafka does not say.

        Which of them we are does not matter. Do not ask: ``memberid()`` was seen to wait for ever while it held the GIL.
        """
        group, topics = self._settings.kafka_group_id, side_of(self._settings)
        client = Admin(reader_config(self._settings)).client
        try:
            described = client.describe_consumer_groups([group], request_timeout=_DESCRIBE_SECONDS)[group].result()
        except kafka.KafkaException as error:
            _log.debug("the group does not describe itself", error=str(error))
            return False
        owned = [at for member in described.members for at in member.assignment.topic_partitions if at.topic in topics]
        return len(owned) >= partitions

    def settle(self, batch: Batch) -> None:
        """Commit the offsets that the ledger already holds, as a courtesy to lag monitors. Never waits, never fails: the
        member's thread commits the newest offsets that it was given.
        """
        with self._lock:
            self._to_commit |= {source: step.next_offset for source, step in batch.progress.items()}

    def _run(self) -> None:
        try:
            self._consumer.subscribe(
                list(side_of(self._settings)), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            while not self._stop.is_set():
                message = self._consumer.poll(_POLL_SECONDS)
                self._commit_newest()
                self._report_refusal(self._consumer.refusal(self._refused_at))
                if message is not None and message.error() is not None:
                    self._complain(message.error())
        except BaseException as error:
            self._notify(MemberFailed(error))
        finally:
            with suppress(kafka.KafkaException, RuntimeError):
                self._commit_newest()
                self._consumer.close()

    def _commit_newest(self) -> None:
        with self._lock:
            offsets, self._to_commit = self._to_commit, {}
        wanted = [kafka.TopicPartition(at.topic, at.partition, offset) for at, offset in offsets.items()]
        if wanted:
            try:
                self._consumer.commit(offsets=wanted, asynchronous=True)
            except kafka.KafkaException as error:  # a courtesy: the ledger is what counts
                _log.debug("courtesy commit failed", error=str(error))

    def _complain(self, error: Any) -> None:
        translated = self._consumer.explain(error, idle=False)
        if isinstance(translated, Mistake):
            raise translated
        if isinstance(translated, SourceRefuses):
            self._report_refusal(translated)
        if (
            error.fatal() or error.code() == kafka.KafkaError._FATAL
        ):  # an error with this code says that it is not fatal
            raise SourceUnavailable(f"Kafka ended the membership: {error.str()}")
        _log.debug("group", error=error.str())

    def _report_refusal(self, error: SourceRefuses | None) -> None:
        """Report it at once, and then every ten seconds for as long as it lasts."""
        now = time.monotonic()
        if error is not None and now >= self._refused_at + _REPEAT_SECONDS:
            self._refused_at = now
            self._notify(MemberRefused(error))

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        if self._incremental:
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        if partitions:
            consumer.pause(partitions)
        self._report_assignment(consumer)

    def _revoked(self, consumer: Any, partitions: list[Any]) -> None:
        done = threading.Event()
        if self._stop.is_set():  # we leave: sessions have ended, and perhaps nobody reads our events any more
            done.set()
        self._notify(Revoked(done))
        if not done.wait(self._settings.revoke_timeout_seconds + 5):
            _log.warning("the batch in flight outlived the revocation; the ledger fences it")
        self._commit_newest()  # while they are ours: a later commit would set their next owner back
        if self._incremental:
            consumer.incremental_unassign(partitions)
            if not self._stop.is_set():
                self._report_assignment(consumer)
        else:
            consumer.unassign()

    def _report_assignment(self, consumer: Any) -> None:
        assigned = frozenset(TopicPartition(at.topic, at.partition) for at in consumer.assignment())
        self._notify(Assigned(assigned))
