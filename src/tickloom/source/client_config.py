"""The librdkafka properties of our clients, from the settings. Pure.

There are two kinds of client: the group's member, and all others. A property in TICKLOOM_KAFKA_OPTIONS wins over ours;
``options`` refuses those that would break a promise.
"""

from collections.abc import Mapping
from typing import Any

from tickloom.settings import Settings

_SESSION_TIMEOUT_MS = 10_000
"""How long a dead replica's partitions wait for their next owner; librdkafka's default is 45 s."""
_RECONNECT_MAX_MS = 1_000
"""How soon the client finds a broker that is back; librdkafka's default is 10 s."""
_HEARTBEAT_MS = 500
"""Upper bound on how long a replica takes to learn that another one joins or leaves, while all others wait; by default 3 s."""
_METADATA_REFRESH_MS = 10_000
"""How soon the client notices new partitions of the topics; librdkafka's default is five minutes."""
_QUEUE_MAX_KBYTES = 2**21 - 1  # librdkafka's maximum
_FETCH_MAX_PARTITION_BYTES = 2**19
"""Length in bytes of a run of one partition, after which the next partition has its turn. The shorter it is, the closer together
both sides are read. librdkafka doubles it if a producer's batch is larger."""
_MEMBERSHIP_OPTIONS = (
    *("group.protocol", "group.protocol.type", "group.remote.assignor", "group.instance.id"),
    *("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms"),
)
"""The properties of a group's member. Some are valid only together, so the member gets all of them, and other clients none."""


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
    """The properties of all clients except the member: they join no group, although they have a ``group.id``.

    A broker's answer is at most as large as ``queued.max.messages.kbytes``. librdkafka ensures that as long as
    ``fetch.max.bytes`` is not set, and adjusts it to the user's ``message.max.bytes``.
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
    except (TypeError, ValueError):  # librdkafka itself reports the wrong value
        return _SESSION_TIMEOUT_MS
