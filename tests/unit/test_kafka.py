"""The properties of our consumers, as the real librdkafka reads them. No broker is needed for that."""

import json
from typing import Any

import confluent_kafka as kafka
import pytest

from tickloom.errors import SettingsError, SourceUnavailable
from tickloom.settings import Settings
from tickloom.source.kafka import TopicIds, check_options, member_config, reader_config

PLAIN = {"bootstrap.servers": "127.0.0.1:1", "group.id": "some", "log_level": 0}
ANY_CONSUMER = (
    {},
    {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, "max.poll.interval.ms": 10_000},
    {"session.timeout.ms": 6000},
    {"session.timeout.ms": 60_000},
    {"session.timeout.ms": "6000", "max.poll.interval.ms": "7000"},
    {"heartbeat.interval.ms": 3000},
    {"max.poll.interval.ms": 600_000},
    {"group.protocol": "consumer"},
    {"group.protocol": "Consumer", "group.remote.assignor": "range"},
    {"group.protocol": "consumer", "max.poll.interval.ms": 10_000, "group.instance.id": "replica-1"},
    {"group.protocol": "classic", "group.protocol.type": "consumer", "session.timeout.ms": 9000},
    {"group.instance.id": "replica-1", "session.timeout.ms": 30_000},
    {"partition.assignment.strategy": "range"},
    {"coordinator.query.interval.ms": 1000},
    {"fetch.max.bytes": 100_000_000},
    {"fetch.max.bytes": 1_000_000},
    {"fetch.max.bytes": 500_000, "message.max.bytes": 400_000},
    {"message.max.bytes": 100_000_000},
    {"message.max.bytes": 100_000_000, "receive.message.max.bytes": 100_001_000},
    {"receive.message.max.bytes": 100_000_000},
    {"receive.message.max.bytes": 2_000_000, "queued.max.messages.kbytes": 1024},
    {"receive.message.max.bytes": 2_000_000, "fetch.max.bytes": 1_500_000},
    {"queued.max.messages.kbytes": 1},
    {"queued.max.messages.kbytes": 2**21 - 1, "queued.min.messages": 1_000_000},
    {"max.partition.fetch.bytes": 10_000_000, "fetch.message.max.bytes": 10_000_000},
    {"fetch.min.bytes": 100_000, "fetch.wait.max.ms": 300_000, "fetch.error.backoff.ms": 0},
    {"fetch.queue.backoff.ms": 0, "check.crcs": True},
    {"socket.timeout.ms": 10, "socket.keepalive.enable": True, "socket.receive.buffer.bytes": 65_536},
    {"socket.connection.setup.timeout.ms": 1000, "connections.max.idle.ms": 0, "broker.address.ttl": 0},
    {"reconnect.backoff.ms": 5000, "reconnect.backoff.max.ms": 5000, "retry.backoff.ms": 1000},
    {"metadata.max.age.ms": 5000, "topic.metadata.refresh.interval.ms": 1000, "metadata.recovery.strategy": "none"},
    {"client.id": "mine", "client.rack": "a", "client.dns.lookup": "resolve_canonical_bootstrap_servers_only"},
    {"statistics.interval.ms": 1000, "enable.metrics.push": False, "log_level": 6, "log.connection.close": False},
    {"api.version.request.timeout.ms": 1000, "broker.address.family": "v4"},
    {"security.protocol": "ssl", "enable.ssl.certificate.verification": "false"},
    {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "secret-word",
        "ssl.endpoint.identification.algorithm": "none",
    },
    {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "sasl.username": "me", "sasl.password": "x"},
    {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "me",
        "sasl.oauthbearer.client.secret": "secret-word",
        "sasl.oauthbearer.token.endpoint.url": "https://127.0.0.1:1/token",
    },
)


def ids(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items()) or "none"


def given(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **others: Any) -> Settings:
    """The settings as the daemon reads them: as JSON from the environment."""
    monkeypatch.setenv("TICKLOOM_KAFKA_OPTIONS", json.dumps(options))
    return Settings(kafka_bootstrap_servers="127.0.0.1:1", **others)


@pytest.mark.parametrize("options", ANY_CONSUMER, ids=ids)
@pytest.mark.parametrize("fetch_max_bytes", [2**16, 4 * 2**20, 2**33])
def test_what_librdkafka_takes_is_taken(
    options: dict[str, Any], fetch_max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that work for every other consumer of a company must not end this daemon."""
    kafka.Consumer(PLAIN | options).close()  # else the case proves nothing
    check_options(given(options, monkeypatch, fetch_max_bytes=fetch_max_bytes))


@pytest.mark.parametrize("options", ANY_CONSUMER, ids=ids)
def test_options_win_over_ours(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is silently replaced is set in vain."""
    settings = given(options, monkeypatch)
    assert options.items() <= member_config(settings).items()
    of_group = {
        name for name in options if name.startswith(("group.", "session.", "heartbeat.", "partition.", "max.poll."))
    }
    assert of_group.isdisjoint(reader_config(settings).keys() - {"group.id"})
    assert {name: options[name] for name in options.keys() - of_group}.items() <= reader_config(settings).items()


def test_a_short_poll_interval_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sets only the interval would be told of a session timeout that nobody has set."""
    settings = given({"max.poll.interval.ms": 8000}, monkeypatch)
    check_options(settings)
    assert member_config(settings)["session.timeout.ms"] == 8000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"no.such.option": "1"}, "no.such.option"),
        ({"session.timeout.ms": "soon"}, "session.timeout.ms"),
        ({"max.poll.interval.ms": "soon"}, "max.poll.interval.ms"),
        ({"max.poll.interval.ms": 5000, "session.timeout.ms": 6000}, "max.poll.interval.ms"),
        ({"group.protocol": "consumer", "session.timeout.ms": 6000}, "session.timeout.ms"),
        ({"group.protocol": "consumer", "partition.assignment.strategy": "range"}, "group.remote.assignor"),
        ({"fetch.max.bytes": 500_000}, "message.max.bytes"),
        ({"receive.message.max.bytes": 2_000_000}, "receive.message.max.bytes"),  # too little for the readers alone
        ({"ssl.ca.location": "/no/such/file", "security.protocol": "ssl"}, "ssl.ca.location"),
    ],
    ids=str,
)
def test_what_it_refuses_is_a_mistake(options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that is found only after joining costs the other replicas a rebalance at each start."""
    with pytest.raises(SettingsError, match=told) as raised:
        check_options(given(options, monkeypatch))
    assert str(raised.value).endswith("mend TICKLOOM_KAFKA_OPTIONS")


def test_the_embedded_broker_is_not_asked_for_ids() -> None:
    """The demo's broker never answers that question, so the demo would show nothing but an outage."""
    producer: Any = kafka.Producer({"bootstrap.servers": "embedded:1", "test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(producer.list_topics(timeout=10).brokers.values()))
    settings = Settings(kafka_bootstrap_servers=f"{broker.host}:{broker.port}")  # pyright: ignore
    assert TopicIds(settings).read(timeout_seconds=2) == {}


def test_closed_while_somebody_asks() -> None:
    """A session that ends while another task asks for its topics would end the daemon with an error about None."""
    ids = TopicIds(Settings(kafka_bootstrap_servers="127.0.0.1:1"))
    ids.close()
    with pytest.raises(SourceUnavailable, match="closed"):
        ids.read(0.1)
