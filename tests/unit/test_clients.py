"""What an error of a Kafka client means, and who must act."""

from typing import Any

import confluent_kafka as kafka
import pytest

from tickloom.errors import Mistake, SourceRefuses, SourceUnavailable, TickloomError
from tickloom.source.clients import NO_ANSWER, Complaints, translate

E = kafka.KafkaError
CONFIG = {
    "bootstrap.servers": "b:9092",
    "security.protocol": "sasl_ssl",
    "sasl.username": "me",
    "sasl.mechanism": "PLAIN",
}


@pytest.mark.parametrize(
    ("code", "complaint", "kind", "words"),
    [
        (
            E._AUTHENTICATION,
            "b:9092/bootstrap: Invalid login",
            SourceRefuses,
            ("let 'me' in by PLAIN", "sasl.password"),
        ),
        (E._SSL, "ssl://b:9092/1: certificate verify failed", SourceRefuses, ("b:9092", "ssl.ca.location")),
        (
            E._SSL,
            "b:9092/1: SSL handshake failed",
            SourceUnavailable,
            ("security.protocol sasl_ssl", "advertised.listeners"),
        ),
        (E._RESOLVE, "b:9092/bootstrap: no such host", SourceUnavailable, ("no such host", "KAFKA_BOOTSTRAP_SERVERS")),
        (E._TRANSPORT, "b:9092/1: refused (after 5ms in state CONNECT)", SourceUnavailable, ("refused;", "listeners")),
        (E._TRANSPORT, "something else", SourceUnavailable, ("something else", "TICKLOOM_KAFKA_OPTIONS")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_complaint_explains_a_timeout(
    code: int, complaint: str, kind: type[TickloomError], words: tuple[str, ...]
) -> None:
    """ "Timed out" would be all that a user with a wrong password gets to read."""
    complaints = Complaints(CONFIG)
    complaints.note(kafka.KafkaError(code, complaint))
    [at] = [at for at, _ in complaints._last.values()]
    explained = complaints.explain(NO_ANSWER, at + 1)
    assert type(explained) is kind
    assert [word for word in words if word not in str(explained)] == []
    assert ("refuses" in str(kind).lower()) == (complaints.refusal(at - 1) is not None)
    assert complaints.refusal(at + 1) is None
    assert "is a broker up at b:9092" in str(complaints.explain(NO_ANSWER, at + 60)), "too old to be the reason"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (E.TOPIC_AUTHORIZATION_FAILED, SourceRefuses, "grant 'me' READ and DESCRIBE"),
        (E.GROUP_AUTHORIZATION_FAILED, SourceRefuses, "grant 'me' READ on the group"),
        (E.TOPIC_EXCEPTION, Mistake, "fix TICKLOOM_PRICES_TOPIC"),
        (E.NOT_COORDINATOR, SourceUnavailable, "Kafka: "),
    ],
)
def test_who_must_act(code: int, kind: type[TickloomError], words: str) -> None:
    """A daemon would end because of an outage, or wait for ever for what a person must do."""
    error: Any = kafka.KafkaError(code)
    assert type(translate(error, "'me'")) is kind
    assert words in str(translate(error, "'me'"))
