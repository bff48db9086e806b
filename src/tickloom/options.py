"""Which of librdkafka's properties a user may set: all but those that the promise rests on. Pure.

Every property of a consumer in librdkafka 2.16's CONFIGURATION.md was weighed. What changes which messages are read, in
whose name, or how the client talks to this program is refused by name, whatever its value; a few may have some values.
Security, timeouts, sizes, addresses and names for monitoring are the user's.
"""

import re
from collections.abc import Mapping

_GROUP = "all replicas are one group, that of TICKLOOM_KAFKA_GROUP_ID; set that"
_BROKERS = "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS says where the brokers are; set that"
_COMMITS = "offsets move with the rows, in Postgres, and Kafka is told after that; it would be told of messages that are in no table"
_NESTED = "options within options would not be looked at; give each by itself"
_OFFSET_FILES = "offsets are kept in Postgres, not in files"
_PROGRAM = "it decides how the client talks to this program"
_CALLBACK = "it stands for code, which JSON cannot hold"
_MOCK = "a mock cluster would take the place of the brokers"
_TWO_HALVES = (
    "only `range` gives a replica the same partitions of both topics, so that the halves of a symbol meet; "
    "any other value tears them apart"
)
_OLD_PROTOCOL = (
    "protocols before 0.11 know no transactions and no headers: messages that were aborted would be stored; "
    "the client asks the brokers what they speak"
)

_REFUSED = {
    "group.id": _GROUP,
    "bootstrap.servers": _BROKERS,
    "metadata.broker.list": _BROKERS,
    "enable.auto.commit": _COMMITS,
    "auto.commit.enable": _COMMITS,
    "enable.auto.offset.store": _COMMITS,
    "auto.offset.reset": "offsets that retention took would be jumped over in silence; TICKLOOM_GAP_POLICY says what becomes of them",
    "isolation.level": "with it messages of aborted transactions could be stored; we read what is committed",
    "enable.partition.eof": "it tells where the log ends, and which offsets hold no record",
    "allow.auto.create.topics": "a topic whose name is misspelt would be made, and look like an idle market",
    "topic.blacklist": "a topic that it matches would seem not to exist",
    "plugin.library.paths": "a plugin is code in this process that may change or swallow messages",
    "default.topic.config": _NESTED,
    "default_topic_conf": _NESTED,
    "offset.store.method": _OFFSET_FILES,
    "offset.store.path": _OFFSET_FILES,
    "offset.store.sync.interval.ms": _OFFSET_FILES,
    "enabled_events": _PROGRAM,
    "internal.termination.signal": _PROGRAM,
    "log.queue": _PROGRAM,
    "logger": _CALLBACK,
    "on_commit": _CALLBACK,
    "on_delivery": _CALLBACK,
    "opaque": _CALLBACK,
    "interceptors": _CALLBACK,
}
_REFUSED_KINDS = {r".*_cb": _CALLBACK, r"test\.mock\..*": _MOCK, r"ut_.*": _MOCK}
_ONLY = {
    "partition.assignment.strategy": ("range", _TWO_HALVES),
    "group.remote.assignor": ("range", _TWO_HALVES),
    "group.protocol.type": ("consumer", "members of another type are no group with ours"),
    "api.version.request": ("true|1|t", _OLD_PROTOCOL),
    "api.version.fallback.ms": ("0", _OLD_PROTOCOL),
    "broker.version.fallback": (r"(?!0\.[89]\b).*", _OLD_PROTOCOL),
    "topic.metadata.refresh.interval.ms": (
        r"(?!-).*",
        "without a refresh nobody notices partitions that are added, and their messages would not be read",
    ),
}


def faults(options: Mapping[str, object]) -> list[str]:
    """What of ``options`` cannot be: a line each, with the reason and the mend. No value is in it: some are secrets."""
    lines: list[str] = []
    for name, value in options.items():
        if not isinstance(value, str | int | float):
            lines.append(f"{name} must be text, a number, true or false; mend or remove it")
        elif why := _why_not(name, value):
            lines.append(f"{name} cannot be overridden: {why}; remove it")
    return lines


def _why_not(given: str, value: object) -> str | None:
    """librdkafka takes a topic's options with ``topic.`` before their names, too."""
    name = given.strip().lower()
    while True:
        if name in _REFUSED:
            return _REFUSED[name]
        for kind, why in _REFUSED_KINDS.items():
            if re.fullmatch(kind, name):
                return why
        if name in _ONLY:
            fine, why = _ONLY[name]
            return None if re.fullmatch(fine, str(value).strip().lower()) else why
        if not name.startswith("topic."):
            return None
        name = name.removeprefix("topic.")
