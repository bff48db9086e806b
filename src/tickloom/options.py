"""Which of librdkafka's properties a user may set: all but those that exactness depends on. Pure.

The list covers every property of a consumer in librdkafka 2.16's CONFIGURATION.md. A property is refused by name, with any
value, if it changes which messages the client reads, which member of the group it is, or how it talks to this program; a few
of these are allowed with some values. Security, timeouts, sizes, addresses and names for monitoring belong to the user.
"""

import re
from collections.abc import Mapping

from tickloom.environment import PREFIX, Text

_GROUP = "all replicas are one group, that of TICKLOOM_KAFKA_GROUP_ID; set that"
_BROKERS = "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS says where the brokers are; set that"
_COMMITS = "offsets move with the rows, in Postgres, and are committed to Kafka after that; this would commit messages that are in no table"
_NESTED = "options inside options would not be checked; give each by itself"
_OFFSET_FILES = "offsets are kept in Postgres, not in files"
_PROGRAM = "it decides how the client talks to this program"
_CALLBACK = "its value is code, which JSON cannot hold"
_MOCK = "a mock cluster would take the place of the brokers"
_TWO_HALVES = (
    "only `range` gives a replica the same partitions of both topics, so that both halves of a symbol meet; "
    "any other value separates them"
)
_OLD_PROTOCOL = (
    "protocols before 0.11 have no transactions and no headers: messages that were aborted would be stored; "
    "the client asks the brokers which version they support"
)

_REFUSED = {
    "group.id": _GROUP,
    "bootstrap.servers": _BROKERS,
    "metadata.broker.list": _BROKERS,
    "enable.auto.commit": _COMMITS,
    "auto.commit.enable": _COMMITS,
    "enable.auto.offset.store": _COMMITS,
    "auto.offset.reset": "offsets that retention deleted would be skipped silently; TICKLOOM_GAP_POLICY decides what happens to them",
    "isolation.level": "messages of aborted transactions could be stored; tickloom reads committed messages only",
    "enable.partition.eof": "tickloom needs it to know where the log ends, and which offsets hold no record",
    "allow.auto.create.topics": "a topic whose name is misspelt would be created, and look like an idle market",
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
    "group.protocol.type": ("consumer", "members of another type cannot be in one group with ours"),
    "api.version.request": ("true|1|t", _OLD_PROTOCOL),
    "api.version.fallback.ms": ("0", _OLD_PROTOCOL),
    "broker.version.fallback": (r"(?!0\.[89]\b).*", _OLD_PROTOCOL),
    "topic.metadata.refresh.interval.ms": (
        r"(?!-).*",
        "without a refresh the client does not notice new partitions, and their messages would never be read",
    ),
}
_CONFIGURATION = """
    allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
    auto.commit.enable auto.commit.interval.ms auto.offset.reset bootstrap.servers broker.address.family
    broker.address.ttl broker.version.fallback check.crcs client.dns.lookup client.id client.rack
    connections.max.idle.ms consume.callback.max.messages coordinator.query.interval.ms debug enable.auto.commit
    enable.auto.offset.store enable.metrics.push enable.partition.eof enable.random.seed
    enable.sasl.oauthbearer.unsecure.jwt enable.ssl.certificate.verification enabled_events fetch.error.backoff.ms
    fetch.max.bytes fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms group.id
    group.instance.id group.protocol group.protocol.type group.remote.assignor heartbeat.interval.ms
    https.ca.location https.ca.pem internal.termination.signal isolation.level log.connection.close log.queue
    log.thread.name log_level max.in.flight max.in.flight.requests.per.connection max.partition.fetch.bytes
    max.poll.interval.ms max.poll.records message.copy.max.bytes message.max.bytes metadata.broker.list
    metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy offset.store.method
    offset.store.path offset.store.sync.interval.ms partition.assignment.strategy plugin.library.paths
    queued.max.messages.kbytes queued.min.messages receive.message.max.bytes reconnect.backoff.jitter.ms
    reconnect.backoff.max.ms reconnect.backoff.ms retry.backoff.max.ms retry.backoff.ms sasl.kerberos.keytab
    sasl.kerberos.kinit.cmd sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.service.name
    sasl.mechanism sasl.mechanisms sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud
    sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss
    sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds
    sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.file
    sasl.oauthbearer.assertion.jwt.template.file sasl.oauthbearer.assertion.private.key.file
    sasl.oauthbearer.assertion.private.key.passphrase sasl.oauthbearer.assertion.private.key.pem
    sasl.oauthbearer.client.credentials.client.id sasl.oauthbearer.client.credentials.client.secret
    sasl.oauthbearer.client.id sasl.oauthbearer.client.secret sasl.oauthbearer.config sasl.oauthbearer.extensions
    sasl.oauthbearer.grant.type sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method
    sasl.oauthbearer.scope sasl.oauthbearer.sub.claim.name sasl.oauthbearer.token.endpoint.url sasl.password
    sasl.username security.protocol session.timeout.ms share.acknowledgement.mode socket.blocking.max.ms
    socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails socket.nagle.disable
    socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms ssl.ca.certificate.stores ssl.ca.location
    ssl.ca.pem ssl.certificate.location ssl.certificate.pem ssl.cipher.suites ssl.crl.location ssl.curves.list
    ssl.endpoint.identification.algorithm ssl.engine.id ssl.engine.location ssl.key.location ssl.key.password
    ssl.key.pem ssl.keystore.location ssl.keystore.password ssl.providers ssl.sigalgs.list statistics.interval.ms
    topic.blacklist topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
    topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
"""
PROPERTIES = tuple(_CONFIGURATION.split())
"""Every property of a consumer that text can set, from librdkafka 2.16's CONFIGURATION.md, except those for its own tests."""
_ALIASES = {
    "auto.commit.enable": "enable.auto.commit",
    "bootstrap.servers": "metadata.broker.list",
    "max.in.flight": "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes": "fetch.message.max.bytes",
    "sasl.mechanism": "sasl.mechanisms",
}
_SETTINGS = ("bootstrap.servers", "group.id")
"""Properties whose variables are settings of tickloom."""
VARIABLES = {f"{PREFIX}KAFKA_{name.upper().replace('.', '_')}": name for name in PROPERTIES if name not in _SETTINGS}
"""The variable of each property, and its name."""


def merged(options: Mapping[str, object], single: Mapping[str, Text]) -> tuple[dict[str, object], list[str]]:
    """``options`` with the properties of ``single`` variables; and the faults of these, a line each, with the fix.

    No line holds a value, because some values are secrets.
    """
    found: dict[str, object] = dict(options)
    sources = {_plain(name): f"{name} in {PREFIX}KAFKA_OPTIONS" for name in options}
    values = {_plain(name): _as_text(value) for name, value in options.items()}
    lines: list[str] = []
    for variable, text in single.items():
        name = VARIABLES[variable]
        plain = _plain(name)
        if not text.value:
            lines.append(f"{text.source} is empty; write the value into it, or remove it")
        elif why := _why_not(name, text.value):
            lines.append(f"{text.source}: {name} cannot be overridden: {why}; remove it")
        elif values.get(plain, text.value) != text.value:
            lines.append(f"{text.source} and {sources[plain]} have different values; remove one of them")
        elif plain not in values:
            found[name] = text.value
            sources[plain], values[plain] = text.source, text.value
    return found, lines


def _plain(name: str) -> str:
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def _as_text(value: object) -> str:
    """The value as a user would write it into a variable."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def faults(options: Mapping[str, object]) -> list[str]:
    """Which of ``options`` are refused: a line each, with the reason and the fix. No line holds a value: some are secrets."""
    lines: list[str] = []
    for name, value in options.items():
        if not isinstance(value, str | int | float):
            lines.append(f"{name} must be text, a number, true or false; fix or remove it")
        elif why := _why_not(name, value):
            lines.append(f"{name} cannot be overridden: {why}; remove it")
    return lines


def _why_not(given: str, value: object) -> str | None:
    """Why ``given`` may not have this value; None if it may. librdkafka accepts ``topic.`` before the names of topic options."""
    name = given.strip().lower()
    while True:
        if name in _REFUSED:
            return _REFUSED[name]
        for kind, why in _REFUSED_KINDS.items():
            if re.fullmatch(kind, name):
                return why
        if name in _ONLY:
            allowed, why = _ONLY[name]
            return None if re.fullmatch(allowed, str(value).strip().lower()) else why
        if not name.startswith("topic."):
            return None
        name = name.removeprefix("topic.")
