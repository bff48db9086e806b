"""A broker with passwords, certificates, and rights that tests can grant and withdraw."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from tests import services

PASSWORD = "right-word"
_SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
_KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}


class Guarded:
    """``bootstrap`` accepts every client; ``guarded`` asks for a password, and ``tls`` shows a certificate that ``ca`` signs."""

    def __init__(self, folder: Path) -> None:
        """``plain`` may log in with PLAIN; nobody may with SCRAM until ``let_in``."""
        guarded, tls = services.free_port(), services.free_port()
        self.guarded, self.tls, self.ca = f"127.0.0.1:{guarded}", f"127.0.0.1:{tls}", folder / "ca.pem"
        store, word = folder / "broker.p12", "changeit"
        tool = ("keytool", "-alias", "broker", "-keystore", str(store), "-storepass", word)
        name = ("-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-keyalg", "RSA", "-storetype", "PKCS12")
        subprocess.run([*tool, "-genkeypair", *name], check=True, capture_output=True)
        subprocess.run([*tool, "-exportcert", "-rfc", "-file", str(self.ca)], check=True, capture_output=True)
        security = "org.apache.kafka.common.security"
        scram = f"{security}.scram.ScramLoginModule required;"
        lines = (
            "listener.name.guarded.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            f'listener.name.guarded.plain.sasl.jaas.config={security}.plain.PlainLoginModule required user_plain="{PASSWORD}";',
            *(f"listener.name.guarded.{mechanism.lower()}.sasl.jaas.config={scram}" for mechanism in _SCRAM),
            "listener.name.guarded.connections.max.reauth.ms=1500",  # a changed password is noticed soon
            f"listener.name.tls.ssl.keystore.location={store}",
            f"listener.name.tls.ssl.keystore.password={word}",
            f"listener.name.tls.ssl.key.password={word}",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
        )
        listeners = f"GUARDED://{self.guarded},TLS://{self.tls},"
        self._kafka = services.Kafka(folder, listeners=listeners, more="\n".join(lines))
        self.bootstrap = self._kafka.bootstrap
        self._kafka.start()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap})

    def let_in(self, user: str, mechanism: str = "SCRAM-SHA-256", password: str = PASSWORD) -> None:
        """Give the user this password."""
        info = ScramCredentialInfo(_SCRAM[mechanism], 4096)
        change: Any = UserScramCredentialUpsertion(user, info, password.encode())
        self._admin.alter_user_scram_credentials([change])[user].result(30)

    def turn_away(self, user: str, mechanism: str = "SCRAM-SHA-256") -> None:
        """Delete this user."""
        change: Any = UserScramCredentialDeletion(user, _SCRAM[mechanism])
        self._admin.alter_user_scram_credentials([change])[user].result(30)

    def grant(self, user: str, kind: str, name: str, right: str = "READ") -> None:
        """Grant a right; READ includes DESCRIBE."""
        for done in self._admin.create_acls([AclBinding(*_acl(user, kind, name, right))]).values():
            done.result(30)

    def withdraw(self, user: str, kind: str, name: str, right: str = "READ") -> None:
        """Withdraw what ``grant`` gave."""
        for done in self._admin.delete_acls([AclBindingFilter(*_acl(user, kind, name, right))]).values():
            done.result(30)

    def end(self) -> None:
        """Crash."""
        self._kafka.kill()


def _acl(user: str, kind: str, name: str, right: str) -> tuple[Any, ...]:
    operation, allow = AclOperation[right], AclPermissionType.ALLOW
    return _KINDS[kind], name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, allow


@contextlib.contextmanager
def guarded_broker() -> Iterator[Guarded]:
    """A broker of this kind while inside."""
    with tempfile.TemporaryDirectory(prefix="tickloom-guarded-") as folder:
        broker = Guarded(Path(folder))
        try:
            yield broker
        finally:
            broker.end()


def options(user: str, mechanism: str = "SCRAM-SHA-256", password: str = PASSWORD) -> dict[str, Any]:
    """The Kafka options of ``user``."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": user,
        "sasl.password": password,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500,
    }
