"""Kafka options that the promise rests on are refused, by whatever name librdkafka would take them."""

from typing import Any

import confluent_kafka as kafka
import pytest
from pydantic import ValidationError

from tickloom import options
from tickloom.settings import Settings

REFUSED: tuple[tuple[str, object, str], ...] = (
    ("group.id", "mine", "TICKLOOM_KAFKA_GROUP_ID"),
    ("bootstrap.servers", "b:9092", "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"),
    ("metadata.broker.list", "b:9092", "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS"),
    ("enable.auto.commit", True, "move with the rows"),
    ("auto.commit.enable", "true", "move with the rows"),
    ("enable.auto.offset.store", True, "move with the rows"),
    ("auto.offset.reset", "earliest", "TICKLOOM_GAP_POLICY"),
    ("isolation.level", "read_uncommitted", "aborted"),
    ("enable.partition.eof", False, "where the log ends"),
    ("allow.auto.create.topics", True, "idle market"),
    ("topic.blacklist", "^stock", "not to exist"),
    ("plugin.library.paths", "/tmp/plugin.so", "swallow"),
    ("default.topic.config", "x", "each by itself"),
    ("offset.store.method", "file", "in Postgres"),
    ("offset.store.path", "/tmp", "in Postgres"),
    ("partition.assignment.strategy", "cooperative-sticky", "only `range`"),
    ("partition.assignment.strategy", "roundrobin", "only `range`"),
    ("partition.assignment.strategy", "range,roundrobin", "only `range`"),
    ("group.remote.assignor", "uniform", "only `range`"),
    ("group.protocol.type", "connect", "no group with ours"),
    ("api.version.request", False, "aborted"),
    ("api.version.fallback.ms", 604_800_000, "aborted"),
    ("broker.version.fallback", "0.9.0.1", "aborted"),
    ("topic.metadata.refresh.interval.ms", -1, "partitions that are added"),
    ("enabled_events", 255, "talks to this program"),
    ("internal.termination.signal", 15, "talks to this program"),
    ("error_cb", "x", "JSON cannot hold"),
    ("stats_cb", "x", "JSON cannot hold"),
    ("logger", "x", "JSON cannot hold"),
    ("on_commit", "x", "JSON cannot hold"),
    ("test.mock.num.brokers", 3, "mock cluster"),
)
FINE: tuple[tuple[str, object], ...] = (
    ("partition.assignment.strategy", "range"),
    ("group.remote.assignor", "range"),
    ("group.protocol.type", "consumer"),
    ("api.version.request", True),
    ("api.version.request", "true"),
    ("api.version.fallback.ms", 0),
    ("broker.version.fallback", "0.10.2.1"),
    ("broker.version.fallback", "2.8.0"),
    ("topic.metadata.refresh.interval.ms", 60_000),
    ("client.rack", "a"),
    ("check.crcs", True),
    ("auto.commit.interval.ms", 1000),
    ("metadata.recovery.strategy", "none"),
    ("sasl.kerberos.kinit.cmd", "true"),
)


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED, ids=str)
@pytest.mark.parametrize("write", ["{}", "topic.{}", "topic.topic.{}", " {}", "{} ", "upper"])
def test_what_exactness_rests_on_is_ours(name: str, value: object, reason: str, write: str) -> None:
    """With a reset to the earliest message, offsets that retention took were jumped over without a word."""
    given = name.upper() if write == "upper" else write.format(name)
    (fault,) = options.faults({given: value})
    assert fault.startswith(f"{given} cannot be overridden: ")
    assert reason in fault
    assert fault.endswith("; remove it")


@pytest.mark.parametrize(("name", "value"), FINE, ids=str)
def test_the_rest_is_the_users(name: str, value: object) -> None:
    """Options that work for every other consumer of a company must not end this daemon."""
    assert options.faults({name: value}) == []
    kafka.Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "some", "log_level": 0, name: value}).close()


def test_each_fault_has_its_line() -> None:
    """Who mends one mistake at a time starts the daemon five times."""
    lines = options.faults({"auto.offset.reset": "latest", "client.id": "mine", "isolation.level": "read_uncommitted"})
    assert [line.split()[0] for line in lines] == ["auto.offset.reset", "isolation.level"]


@pytest.mark.parametrize("value", [None, ["secret-word"], {"auto.offset.reset": "secret-word"}])
def test_a_value_that_is_no_value(value: Any) -> None:
    """The Kafka client would take a list's or an object's Python text for a value, and null for the default."""
    with pytest.raises(ValidationError) as raised:
        Settings(kafka_options={"sasl.password": value})
    assert "sasl.password must be text, a number, true or false" in str(raised.value.errors(include_input=False))
    assert "secret-word" not in options.faults({"sasl.password": value})[0]
