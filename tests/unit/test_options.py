"""Kafka options that exactness depends on are refused, under every name that librdkafka accepts; each has a variable."""

from typing import Any

import confluent_kafka as kafka
import pytest
from confluent_kafka.admin import AdminClient
from pydantic import ValidationError

from tickloom import options
from tickloom.environment import Text
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
    ("group.protocol.type", "connect", "in one group with ours"),
    ("api.version.request", False, "aborted"),
    ("api.version.fallback.ms", 604_800_000, "aborted"),
    ("broker.version.fallback", "0.9.0.1", "aborted"),
    ("topic.metadata.refresh.interval.ms", -1, "new partitions"),
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
def test_what_exactness_depends_on_is_ours(name: str, value: object, reason: str, write: str) -> None:
    """With a reset to the earliest message, offsets that retention deleted were jumped over without a word."""
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
    """People who fix one mistake at a time start the daemon five times."""
    lines = options.faults({"auto.offset.reset": "latest", "client.id": "mine", "isolation.level": "read_uncommitted"})
    assert [line.split()[0] for line in lines] == ["auto.offset.reset", "isolation.level"]


@pytest.mark.parametrize("value", [None, ["secret-word"], {"auto.offset.reset": "secret-word"}])
def test_a_value_that_is_no_value(value: Any) -> None:
    """The Kafka client would take a list's or an object's Python text for a value, and null for the default."""
    with pytest.raises(ValidationError) as raised:
        Settings(kafka_options={"sasl.password": value})
    assert "sasl.password must be text, a number, true or false" in str(raised.value.errors(include_input=False))
    assert "secret-word" not in options.faults({"sasl.password": value})[0]


def known_to_librdkafka(name: str) -> bool:
    """It refuses an unknown name before it looks at the value, and most names without a value after that."""
    try:
        AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0} | {name: None})
    except kafka.KafkaException as error:
        return "No such configuration property" not in str(error)
    return True


@pytest.mark.parametrize("name", options.PROPERTIES)
def test_librdkafka_knows_each_property(name: str) -> None:
    """A variable for a property that does not exist would end the daemon with somebody else's error."""
    assert known_to_librdkafka(name)
    assert not known_to_librdkafka(name + ".x")


def test_no_variable_stands_for_two_properties() -> None:
    """A password would go into another property, or a file's name would be taken for a value."""
    assert len(options.VARIABLES) == len(options.PROPERTIES) - 2  # the brokers and the group are settings
    assert not {f"{name}_FILE" for name in options.VARIABLES} & options.VARIABLES.keys()


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("TICKLOOM_KAFKA_SASL_USERNAME", "sasl.username"),
        ("TICKLOOM_KAFKA_SSL_CA_LOCATION", "ssl.ca.location"),
        ("TICKLOOM_KAFKA_LOG_LEVEL", "log_level"),
        ("TICKLOOM_KAFKA_SASL_OAUTHBEARER_ASSERTION_FILE", "sasl.oauthbearer.assertion.file"),
    ],
)
def test_the_property_of_a_variable(variable: str, name: str) -> None:
    """librdkafka's names hold dots and underscores, and a variable's name does not say which."""
    assert options.merged({}, {variable: Text("x", variable)}) == ({name: "x"}, [])


@pytest.mark.parametrize(
    ("written", "variable", "value"),
    [
        ({"sasl.username": "me"}, "TICKLOOM_KAFKA_SASL_USERNAME", "me"),
        ({"socket.keepalive.enable": True}, "TICKLOOM_KAFKA_SOCKET_KEEPALIVE_ENABLE", "true"),
        ({"session.timeout.ms": 6000}, "TICKLOOM_KAFKA_SESSION_TIMEOUT_MS", "6000"),
        ({"sasl.mechanism": "PLAIN"}, "TICKLOOM_KAFKA_SASL_MECHANISMS", "PLAIN"),
    ],
)
def test_a_property_in_both_places(written: dict[str, Any], variable: str, value: str) -> None:
    """Which of two passwords is used would depend on an order that nobody knows."""
    assert options.merged(written, {variable: Text(value, variable)}) == (written, [])
    (line,) = options.merged(written, {variable: Text("another", f"{variable}_FILE (/a)")})[1]
    (name,) = written
    assert line == (
        f"{variable}_FILE (/a) and {name} in TICKLOOM_KAFKA_OPTIONS have different values; remove one of them"
    )


def test_two_names_of_one_property() -> None:
    """librdkafka would take the one that it happens to read last."""
    given = {name: Text(name[-1], name) for name in ("TICKLOOM_KAFKA_SASL_MECHANISM", "TICKLOOM_KAFKA_SASL_MECHANISMS")}
    assert len(options.merged({}, given)[1]) == 1


def test_a_variable_is_refused_for_the_same_reasons() -> None:
    """What JSON may not set, a variable could."""
    refused = {f"TICKLOOM_KAFKA_{name.upper().replace('.', '_')}": value for name, value, _ in REFUSED}
    given = {name: Text(str(value), name) for name, value in refused.items() if name in options.VARIABLES}
    assert len(given) > 15
    merged, lines = options.merged({}, given)
    assert merged == {}
    assert all("cannot be overridden" in line and line.endswith("; remove it") for line in lines)
    assert len(lines) == len(given)


def test_an_empty_property() -> None:
    """The `${PASSWORD}` of a template that nobody has filled would be sent as the password."""
    (line,) = options.merged({}, {"TICKLOOM_KAFKA_SASL_PASSWORD": Text("", "TICKLOOM_KAFKA_SASL_PASSWORD")})[1]
    assert line.startswith("TICKLOOM_KAFKA_SASL_PASSWORD is empty")
