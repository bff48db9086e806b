"""The seam to librdkafka: its clients, and the translation of their errors, which says what is wrong and who must act.

A librdkafka method that waits for the client's own threads only reports a timeout. Those threads complain about the reason
in the meantime, so each client here remembers its ``Complaints``.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import confluent_kafka as kafka
from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage]

from tickloom.errors import Mistake, SettingsError, SourceRefuses, SourceUnavailable, TickloomError
from tickloom.logs import Logger
from tickloom.settings import Settings
from tickloom.source.client_config import member_config, reader_config

METADATA_TIMEOUT_SECONDS = 10.0
"""Time limit of one question to the brokers."""

_log = Logger(__name__)
T = TypeVar("T")
_E = kafka.KafkaError
_RIGHTS = {
    _E.TOPIC_AUTHORIZATION_FAILED: "READ and DESCRIBE on the topics of TICKLOOM_PRICES_TOPIC and TICKLOOM_VOLUMES_TOPIC",
    _E.GROUP_AUTHORIZATION_FAILED: "READ on the group of TICKLOOM_KAFKA_GROUP_ID",
    _E.CLUSTER_AUTHORIZATION_FAILED: "its rights on the cluster",
}
NO_RIGHTS = frozenset(_RIGHTS)
"""Codes of errors that a person fixes by granting rights on the brokers."""
_NO_ANSWER_CODES = (_E._TRANSPORT, _E._TIMED_OUT, _E._ALL_BROKERS_DOWN, _E._WAIT_COORD)
"""The error codes of a call that waited in vain for the client's own threads."""
NO_ANSWER = kafka.KafkaError(_E._TIMED_OUT, "no answer in time")
_COMPLAINTS_SECONDS = 30.0
"""How long a complaint may explain what fails."""
_ABOUT_A_BROKER = re.compile(
    r"(?:\w+://)?(?P<address>\S+?:\d+)/(?P<id>\w+): (?P<detail>.*?)(?: \(after \d+ms in state .*)?"
)
"""A complaint about one broker: ``sasl_ssl://host:9092/bootstrap: … (after 5ms in state CONNECT)``."""


class Complaints:
    """The last complaint of each kind from a client's threads. The thread that polls the client writes them; its user reads
    them.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config``: the client's properties."""
        self._config = config
        self._last: dict[int, tuple[float, str]] = {}  # by code: when (monotonic), and the message

    def note(self, error: Any) -> None:
        """librdkafka's ``error_cb``."""
        self._last[error.code()] = (time.monotonic(), error.str())

    def explain(self, error: Any, now: float) -> TickloomError:
        """The translation of a KafkaError of this client. ``now`` in monotonic seconds."""
        if error.code() not in _NO_ANSWER_CODES:
            return translate(error, self._identity())
        fresh = {code: message for code, (at, message) in self._last.items() if now - at <= _COMPLAINTS_SECONDS}
        for code in (_E._AUTHENTICATION, _E._SSL, _E._RESOLVE, _E._BAD_MSG, _E._TRANSPORT):
            if code in fresh:
                return self._translated(code, fresh[code])
        return SourceUnavailable(
            f"Kafka: {error.str()}; is a broker up at {self._config['bootstrap.servers']}, and does it speak "
            f"security.protocol {self._protocol()}? If not, fix TICKLOOM_KAFKA_BOOTSTRAP_SERVERS or TICKLOOM_KAFKA_OPTIONS"
        )

    def refusal(self, since: float) -> SourceRefuses | None:
        """A broker's refusal to let this client in, if there was one after ``since`` (monotonic).

        No method fails because of a refusal: the client keeps trying, and reads nothing in the meantime.
        """
        for code, (at, message) in self._last.items():
            if at > since and isinstance(translated := self._translated(code, message), SourceRefuses):
                return translated
        return None

    def _translated(self, code: int, message: str) -> TickloomError:
        match = _ABOUT_A_BROKER.fullmatch(message)
        if match is None:
            return SourceUnavailable(f"Kafka: {message}; if it lasts, fix TICKLOOM_KAFKA_OPTIONS")
        address, detail = match["address"], match["detail"]
        where_addresses_are = (
            "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS" if match["id"] == "bootstrap" else "the brokers' advertised.listeners"
        )
        if code == _E._AUTHENTICATION and "Disconnected" not in detail:
            return SourceRefuses(
                f"Kafka at {address} does not let {self._identity()} in by {self._mechanism()}: {detail}; fix sasl.username, "
                f"sasl.password, sasl.mechanism or security.protocol in TICKLOOM_KAFKA_OPTIONS, or the user on the brokers"
            )
        if code == _E._SSL and "certificate" in detail:
            return SourceRefuses(
                f"no TLS with Kafka at {address}: {detail}; fix ssl.ca.location and the other ssl.… in TICKLOOM_KAFKA_OPTIONS"
            )
        if "SSL" in detail or code in (_E._AUTHENTICATION, _E._SSL, _E._BAD_MSG):
            return SourceUnavailable(
                f"Kafka at {address} does not understand security.protocol {self._protocol()}: {detail}; set "
                f"security.protocol in TICKLOOM_KAFKA_OPTIONS to what that listener speaks, or fix {where_addresses_are}"
            )
        return SourceUnavailable(
            f"Kafka at {address} cannot be reached: {detail}; start the broker, or fix {where_addresses_are}"
        )

    def _protocol(self) -> str:
        return str(self._config.get("security.protocol", "plaintext"))

    def _mechanism(self) -> str:
        return str(self._config.get("sasl.mechanism", self._config.get("sasl.mechanisms", "GSSAPI")))

    def _identity(self) -> str:
        names = ("sasl.username", "sasl.oauthbearer.client.id", "sasl.kerberos.principal")
        return next((repr(self._config[name]) for name in names if name in self._config), "the client")


class Consumer(kafka.Consumer):
    """A consumer that explains its errors."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Raises what the Kafka client raises; see ``make_consumer``."""
        self._complaints = Complaints(config)
        super().__init__(config | {"error_cb": self._complaints.note}, logger=_LibrdkafkaLog())

    def explain(self, error: Any, *, idle: bool = True) -> TickloomError:
        """The translation of a KafkaError of this consumer. An ``idle`` consumer, which reads nothing, is first polled for its
        newest complaints; a consumer that reads gets them with its messages.
        """
        if idle:
            self.poll(0)
        return self._complaints.explain(error, time.monotonic())

    def refusal(self, since: float) -> SourceRefuses | None:
        """See ``Complaints.refusal``."""
        return self._complaints.refusal(since)


class Admin:
    """An admin client that explains its errors. ``client`` has librdkafka's methods.

    The client refers to its complaints and not to this object, so there is no cycle: it closes its connections with the last
    reference to this object, without waiting for the garbage collector.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Connects lazily. Raises ``SettingsError``."""
        self._complaints = Complaints(config)
        noted = config | {"error_cb": self._complaints.note}
        self.client: Any = _make(lambda config: AdminClient(config, logger=_LibrdkafkaLog()), noted)

    def explain(self, error: Any) -> TickloomError:
        """The translation of a KafkaError of this client."""
        self.client.poll(0)  # notes the complaints
        if error.code() < 0:  # librdkafka's own code, not a broker's: no broker has answered
            error = NO_ANSWER
        return self._complaints.explain(error, time.monotonic())


def make_consumer(config: dict[str, Any]) -> Consumer:
    """A consumer, whose own threads connect in the background. Raises ``SettingsError``."""
    return _make(Consumer, config)


def check_options(settings: Settings) -> None:
    """Let librdkafka check the properties of each kind of client. Takes milliseconds, and needs no broker.

    Raises ``SettingsError``.
    """
    for config in (member_config(settings), reader_config(settings)):
        make_consumer(config).close()


def _make(kind: Callable[[dict[str, Any]], T], config: dict[str, Any]) -> T:
    try:
        return kind(config)
    except kafka.KafkaException as error:
        why = error.args[0].str().strip().removeprefix("Failed to create consumer: ")
    except (ValueError, TypeError) as error:
        why = str(error)
    raise SettingsError(f"librdkafka refuses the settings: {why}; fix TICKLOOM_KAFKA_OPTIONS")


class _LibrdkafkaLog:
    """Logs librdkafka's own lines at level debug. The code that waits out an outage already reports it."""

    def log(self, _level: int, message: str, *args: object) -> None:
        _log.debug("librdkafka", detail=message % args if args else message)


def translate(error: Any, identity: str = "the client") -> TickloomError:
    """The error of ours for a KafkaError; its class says who must act. ``identity``: the client's login name."""
    code = error.code()
    if rights := _RIGHTS.get(code):
        return SourceRefuses(f"Kafka refuses {identity}: {error.str()}; grant {identity} {rights}")
    if code in (_E._AUTHENTICATION, _E.SASL_AUTHENTICATION_FAILED):
        return SourceRefuses(
            f"Kafka refuses {identity}: {error.str()}; fix the SASL settings in TICKLOOM_KAFKA_OPTIONS"
        )
    if code == _E._FATAL and "group.instance.id" in error.str():
        return Mistake(
            f"Kafka: {error.str()}; two replicas may not have one group.instance.id: give each its own, or none, in "
            f"TICKLOOM_KAFKA_OPTIONS"
        )
    if code == _E.TOPIC_EXCEPTION:
        return Mistake(f"Kafka refuses: {error.str()}; fix TICKLOOM_PRICES_TOPIC or TICKLOOM_VOLUMES_TOPIC")
    return SourceUnavailable(f"Kafka: {error.str()}")
