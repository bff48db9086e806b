"""This replica's membership of the group, which is apart from reading. Also settle: commits offsets to Kafka as a courtesy.

The member subscribes to both topics, and pauses every partition as soon as it is assigned. It polls only for callbacks, and
makes the courtesy commits. The rebalance callbacks run in its thread, inside ``poll``. The thread talks to the event loop
through ``notify`` only.
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
"""Upper bound on how long a member takes to notice that it must leave, and on the delay of a courtesy commit."""
_REPEAT_SECONDS = 10.0
"""Interval between two reports of a lasting refusal."""
_DESCRIBE_SECONDS = 4.0
"""Time limit of a question about the group."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """The complete assignment: these partitions are ours now, and no others."""

    partitions: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Revoked:
    """The group takes the partitions away; set ``done`` when nothing from them is in flight any more."""

    done: threading.Event


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """The membership has ended with ``error``."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class MemberRefused:
    """The group does not let us in, or no longer does; the member keeps trying."""

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
        self._to_commit: dict[TopicPartition, int] = {}  # the loop and this thread write it, under the lock
        config = member_config(settings)
        self.may_be_spare_in_silence = self._incremental = uses_consumer_protocol(config)
        """Whether the client may never call back after it joined a group in which all partitions are taken. This happens with
        KIP-848's protocol, where the first assignment is empty."""
        self._refused_at = 0.0  # monotonic: when a refusal was last reported; only the thread writes it
        self._consumer = make_consumer(config)
        self._thread = threading.Thread(target=self._run, name="tickloom-member", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def leave(self) -> None:
        """Leave the group. Blocks until that is done, for up to 10 s. Also closes a member that never started."""
        self._stop.set()
        if self._thread.ident is None:
            self._consumer.close()
        else:
            self._thread.join(10)

    def is_spare(self, partitions: int) -> bool:
        """Whether the members of the group together own all of the topics' ``partitions``; for a member that has none.

        Blocks for a few seconds at most; False if Kafka does not answer. Our own member id is not needed. Do not use
        ``memberid()``: it has been seen to wait for ever while it held the GIL.
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
        """Commit a loaded batch's offsets to Kafka, as a courtesy to lag monitors. Never blocks, never raises: the member's
        thread commits the newest offsets that it has received.
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
            except kafka.KafkaException as error:  # only a courtesy: the ledger decides
                _log.debug("courtesy commit failed", error=str(error))

    def _complain(self, error: Any) -> None:
        translated = self._consumer.explain(error, idle=False)
        if isinstance(translated, Mistake):
            raise translated
        if isinstance(translated, SourceRefuses):
            self._report_refusal(translated)
        # fatal() returns False for an error with the code _FATAL
        if error.fatal() or error.code() == kafka.KafkaError._FATAL:
            raise SourceUnavailable(f"Kafka ended the membership: {error.str()}; restart the daemon")
        _log.debug("group", error=error.str())

    def _report_refusal(self, error: SourceRefuses | None) -> None:
        """Report a refusal at once, and then every ten seconds for as long as it lasts."""
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
        if self._stop.is_set():  # we leave: the sessions have ended, and the loop may no longer read our events
            done.set()
        self._notify(Revoked(done))
        if not done.wait(self._settings.revoke_timeout_seconds + 5):
            _log.warning("the batch in flight took longer than the revocation may; the ledger fences it")
        self._commit_newest()  # while the partitions are ours: a later commit would undo their next owner's
        if self._incremental:
            consumer.incremental_unassign(partitions)
            if not self._stop.is_set():
                self._report_assignment(consumer)
        else:
            consumer.unassign()

    def _report_assignment(self, consumer: Any) -> None:
        assigned = frozenset(TopicPartition(at.topic, at.partition) for at in consumer.assignment())
        self._notify(Assigned(assigned))
