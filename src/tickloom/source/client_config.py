"""The librdkafka properties of our clients, from the settings. Pure.

There are two kinds: the group's member, and everything else. A property in TICKLOOM_KAFKA_OPTIONS wins over ours;
``options`` refuses those that would break a promise.
"""

from collections.abc import Mapping
from typing import Any

from tickloom.settings import Settings

_SESSION_TIMEOUT_MS = 10_000
"""How long a dead replica's partitions wait for their next owner; librdkafka's default is 45 s."""
_RECONNECT_MAX_MS = 1_000
"""How soon a broker that is back is found; librdkafka's default is 10 s."""
_HEARTBEAT_MS = 500
"""Upper bound on how long a replica takes to learn that another one joins or leaves, while all others wait; by default 3 s."""
_METADATA_REFRESH_MS = 10_000
"""How soon new partitions of the topics are noticed; librdkafka's default is five minutes."""
_QUEUE_MAX_KBYTES = 2**21 - 1  # librdkafka takes no more
_FETCH_MAX_PARTITION_BYTES = 2**19
"""How long a run of one partition is before the next has its turn, while the other side may be somewhere else. librdkafka
doubles it where a batch of the producer's is larger."""
_MEMBERSHIP_OPTIONS = (
    *("group.protocol", "group.protocol.type", "group.remote.assignor", "group.instance.id"),
    *("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms"),
)
"""What makes a client a member of a group. Some are valid only together, so the member gets all of them, and no other client any."""


def member_config(settings: Settings) -> dict[str, Any]:
    """The properties of the group's member, which reads nothing."""
    ours = {
        "auto.offset.reset": "earliest",
        "queued.max.messages.kbytes": 1024,
        "topic.metadata.refresh.interval.ms": _METADATA_REFRESH_MS,
    }
    config = _config(settings, ours)
    if uses_consumer_protocol(config):
        return {"group.remote.assignor": "range"} | config
    classic = {
        "partition.assignment.strategy": "range",
        "session.timeout.ms": _session_timeout_ms(config),
        "heartbeat.interval.ms": _HEARTBEAT_MS,
    }
    return classic | config


def reader_config(settings: Settings) -> dict[str, Any]:
    """The properties of all clients but the member: they belong to no group, whatever ``group.id`` says.

    A broker's answer is as large as ``queued.max.messages.kbytes`` at most: librdkafka sees to that while
    ``fetch.max.bytes`` is not set, and keeps it in line with the user's ``message.max.bytes``.
    """
    ours = {
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": min(settings.fetch_max_bytes // 1024, _QUEUE_MAX_KBYTES),
        "max.partition.fetch.bytes": _FETCH_MAX_PARTITION_BYTES,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": 50,
        "fetch.error.backoff.ms": 100,
    }
    return {name: value for name, value in _config(settings, ours).items() if name not in _MEMBERSHIP_OPTIONS}


def uses_consumer_protocol(config: Mapping[str, Any]) -> bool:
    """Whether the member speaks KIP-848's protocol, where the brokers hold the timeouts and the assignors."""
    return str(config.get("group.protocol")).lower() == "consumer"


def _config(settings: Settings, ours: Mapping[str, Any]) -> dict[str, Any]:
    common = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "group.id": settings.kafka_group_id,
        "client.id": "tickloom",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "reconnect.backoff.max.ms": _RECONNECT_MAX_MS,
        "log_level": 3,
    }
    return {**common, **ours, **settings.kafka_options}


def _session_timeout_ms(config: Mapping[str, Any]) -> int:
    """Ours, but no longer than the user's ``max.poll.interval.ms``: librdkafka would refuse the two together."""
    try:
        return min(_SESSION_TIMEOUT_MS, int(config.get("max.poll.interval.ms", _SESSION_TIMEOUT_MS)))
    except (TypeError, ValueError):  # librdkafka says what is wrong with it
        return _SESSION_TIMEOUT_MS
