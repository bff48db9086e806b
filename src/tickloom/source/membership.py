"""This replica's membership of the group, apart from reading.

The member subscribes to both topics with every partition paused from its assignment on: it is polled for callbacks,
and makes the courtesy commits. The rebalance callbacks run in its thread, inside ``poll``; it talks to the event loop
by its ``notify`` only.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import confluent_kafka as kafka

from tickloom.core.model import TopicPartition, side_of
from tickloom.errors import Mistake, SourceRefuses, SourceUnavailable
from tickloom.logs import Logger
from tickloom.settings import Settings
from tickloom.source.kafka import (
    make_admin,
    make_consumer,
    member_config,
    reader_config,
    uses_consumer_protocol,
)

_log = Logger(__name__)
_POLL_SECONDS = 0.05
"""So late a leaving member notices that it is to leave, and a courtesy commit is made."""
_TELL_SECONDS = 10.0

_DESCRIBE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Assigned:
    """These partitions, all of them, are ours now."""

    partitions: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Revoked:
    """The partitions are being taken; ``done`` must be set when nothing of theirs is in flight any more."""

    done: threading.Event


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """The membership has ended with ``error``."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class MemberRefused:
    """The group does not let us in, or no longer; the member goes on asking."""

    error: SourceRefuses


MemberEvent: TypeAlias = Assigned | Revoked | MemberFailed | MemberRefused


class Member:
    """This replica's membership of the group; one thread from ``start`` to ``leave``."""

    def __init__(self, settings: Settings, notify: Callable[[MemberEvent], None]) -> None:
        """``notify`` is called in the member's thread. Raises ``SettingsError``."""
        self._settings = settings
        self._notify = notify
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._told: dict[TopicPartition, int] = {}  # by the loop and this thread, under the lock
        config = member_config(settings)
        self.may_be_spare_in_silence = self._incremental = uses_consumer_protocol(config)
        """Whether the client may join a group in which all partitions are taken and never call back: with KIP-848's
        protocol, where the first assignment is an empty one."""
        self._refused_at = 0.0  # monotonic: when a refusal was told last; only the thread writes it
        self._consumer = make_consumer(config)
        self._thread = threading.Thread(target=self._run, name="tickloom-member", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def leave(self) -> None:
        """Leave the group; blocks until it is left, 10 s at most. Also for one that never started."""
        self._stop.set()
        if self._thread.ident is None:
            self._consumer.close()
        else:
            self._thread.join(10)

    def is_spare(self, partitions: int) -> bool:
        """Whether members of the group own all of the topics' ``partitions``: to be asked by one that was given none.
        Blocks for some seconds at most; False where Kafka does not say.

        Who of them we are does not matter, and must not be asked: ``memberid()`` was seen to wait for ever, with the GIL.
        """
        group, topics = self._settings.kafka_group_id, side_of(self._settings)
        admin = make_admin(reader_config(self._settings))
        try:
            told = admin.describe_consumer_groups([group], request_timeout=_DESCRIBE_SECONDS)[group].result()
        except kafka.KafkaException as error:
            _log.debug("the group does not describe itself", error=str(error))
            return False
        owned = [at for member in told.members for at in member.assignment.topic_partitions if at.topic in topics]
        return len(owned) >= partitions

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell the group where we are; returns at once. The member's thread commits what was told last."""
        with self._lock:
            self._told |= offsets

    def _run(self) -> None:
        try:
            self._consumer.subscribe(
                list(side_of(self._settings)), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            while not self._stop.is_set():
                message = self._consumer.poll(_POLL_SECONDS)
                self._commit_told()
                self._tell_refusal(self._consumer.refusal(self._refused_at))
                if message is not None and message.error() is not None:
                    self._complain(message.error())
        except BaseException as error:
            self._notify(MemberFailed(error))
        finally:
            with suppress(kafka.KafkaException, RuntimeError):
                self._commit_told()
                self._consumer.close()

    def _commit_told(self) -> None:
        with self._lock:
            told, self._told = self._told, {}
        wanted = [kafka.TopicPartition(at.topic, at.partition, offset) for at, offset in told.items()]
        if wanted:
            try:
                self._consumer.commit(offsets=wanted, asynchronous=True)
            except kafka.KafkaException as error:  # a courtesy: the ledger is what counts
                _log.debug("courtesy commit failed", error=str(error))

    def _complain(self, error: Any) -> None:
        told = self._consumer.explain(error, idle=False)
        if isinstance(told, Mistake):
            raise told
        if isinstance(told, SourceRefuses):
            self._tell_refusal(told)
        if error.fatal() or error.code() == kafka.KafkaError._FATAL:  # the latter says of itself that it is not fatal
            raise SourceUnavailable(f"Kafka ended the membership: {error.str()}")
        _log.debug("group", error=error.str())

    def _tell_refusal(self, error: SourceRefuses | None) -> None:
        """At once, and then again and again for as long as it lasts, with pauses."""
        now = time.monotonic()
        if error is not None and now >= self._refused_at + _TELL_SECONDS:
            self._refused_at = now
            self._notify(MemberRefused(error))

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        if self._incremental:
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        if partitions:
            consumer.pause(partitions)
        self._tell_assignment(consumer)

    def _revoked(self, consumer: Any, partitions: list[Any]) -> None:
        done = threading.Event()
        if self._stop.is_set():  # we leave: sessions have ended, and perhaps nobody follows us any more
            done.set()
        self._notify(Revoked(done))
        if not done.wait(self._settings.revoke_timeout_seconds + 5):
            _log.warning("the batch in flight outlived the revocation; the ledger fences it")
        self._commit_told()  # while they are ours: afterwards it would set their next owner back
        if self._incremental:
            consumer.incremental_unassign(partitions)
            if not self._stop.is_set():
                self._tell_assignment(consumer)
        else:
            consumer.unassign()

    def _tell_assignment(self, consumer: Any) -> None:
        assigned = frozenset(TopicPartition(at.topic, at.partition) for at in consumer.assignment())
        self._notify(Assigned(assigned))
