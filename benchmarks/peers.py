"""The peers, and their installation: a virtual environment for each, and jars from Maven if it needs them."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import services

HERE = Path(__file__).parent
CACHE = services.CACHE / "peers"


@dataclass(frozen=True)
class Peer:
    """One way to do the work. ``folder`` holds its ``job.py``; ``averages`` is the wording for its wrong averages."""

    name: str
    title: str
    package: str
    folder: str
    averages: str = "averages wrong"

    @property
    def home(self) -> Path:
        """The folder of its environment."""
        return CACHE / self.name

    @property
    def jars(self) -> Path:
        """The folder of its jars."""
        return self.home / "jars"


TICKLOOM = Peer("tickloom", "tickloom", "tickloom", "")
PEERS = (
    TICKLOOM,
    Peer("pandas", "pandas + `to_sql`", "pandas", "pandas_to_sql", "averages wrong at batch edges"),
    Peer("spark", "Spark Structured Streaming", "pyspark", "spark"),
    Peer("flink", "Flink SQL", "apache-flink", "flink"),
    Peer("bytewax", "Bytewax", "bytewax", "bytewax"),
    Peer("quix", "Quix Streams", "quixstreams", "quix"),
)


class NotInstalled(Exception):
    """A peer cannot be installed; the message says why."""


def install(peer: Peer) -> str:
    """Install ``peer`` unless it is installed already; returns its version. Raises ``NotInstalled``."""
    if peer is not TICKLOOM:
        folder = HERE / peer.folder
        pins = [path for name in ("requirements.txt", "pom.xml") if (path := folder / name).exists()]
        stamp = hashlib.sha256(b"".join(path.read_bytes() for path in pins)).hexdigest()
        noted = peer.home / "installed"
        if not noted.exists() or noted.read_text() != stamp:
            _tool(sys.executable, "-m", "venv", "--clear", str(peer.home))
            _tool(_python(peer), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(pins[0]))
            if len(pins) == 2:
                copy = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={peer.jars}")
                _tool("mvn", "-q", "-B", "-f", str(pins[1]), *copy)
            noted.write_text(stamp)
    ask = f"from importlib.metadata import version; print(version({peer.package!r}))"
    return _tool(_python(peer), "-c", ask).strip()


def _python(peer: Peer) -> str:
    return sys.executable if peer is TICKLOOM else str(peer.home / "bin" / "python")


def _tool(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotInstalled(f"cannot run {command[0]}: {error.strerror}; install it") from error
    if done.returncode:
        raise NotInstalled(failure_line(done.stdout + done.stderr))
    return done.stdout


def failure_line(output: str) -> str:
    """The line of a program's output that says why it failed, without URLs and paths."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception|could not", line, re.IGNORECASE)]
    line = (errors or lines or ["it printed nothing"])[-1]
    return re.sub(r"\w+://\S+|(?<![\w.])/[\w./-]+", "…", line)[:200]


# --- running a peer -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workspace:
    """The topics, database and folder of one run."""

    bootstrap: str
    topics: Mapping[str, str]
    database_url: str
    scratch: Path

    def command(self, peer: Peer) -> list[str]:
        """The command that runs ``peer`` once, up to the log's end."""
        if peer is TICKLOOM:
            return [sys.executable, "-m", "tickloom", "run", "--once"]
        return [_python(peer), str(HERE / peer.folder / "job.py")]

    def environment(self, peer: Peer) -> dict[str, str]:
        """The environment with the addresses of this run. Variables that the caller has set for tickloom are left out."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TICKLOOM_")}
        if peer is TICKLOOM:
            return inherited | {
                "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
                "TICKLOOM_KAFKA_GROUP_ID": f"tickloom-{self.scratch.name}",
                "TICKLOOM_PRICES_TOPIC": self.topics["prices"],
                "TICKLOOM_VOLUMES_TOPIC": self.topics["volumes"],
                "TICKLOOM_DATABASE_URL": self.database_url,
                "TICKLOOM_HTTP_PORT": "0",
            }
        return inherited | {
            "PEER_BOOTSTRAP_SERVERS": self.bootstrap,
            "PEER_GROUP": f"{peer.name}-{self.scratch.name}",
            "PEER_PRICES_TOPIC": self.topics["prices"],
            "PEER_VOLUMES_TOPIC": self.topics["volumes"],
            "PEER_DATABASE_URL": self.database_url,
            "PEER_JARS_FOLDER": str(peer.jars),
            "PEER_STATE_FOLDER": str(self.scratch),
            "PYTHONPATH": str(HERE / "contract"),
        }

    def make_tables(self, peer: Peer, hours: range) -> None:
        """Create the tables before the clock starts: tickloom's with its own ``migrate``. The others also get every partition
        (``hours`` since 1970) that the log needs; tickloom creates its partitions while the clock runs.
        """
        if peer is TICKLOOM:
            command = [sys.executable, "-m", "tickloom", "migrate"]
            subprocess.run(command, env=self.environment(peer), check=True, capture_output=True)
            return
        partitions = [
            f"CREATE TABLE {table}_{hour} PARTITION OF {table} "
            f"FOR VALUES FROM (to_timestamp({hour * 3600})) TO (to_timestamp({(hour + 1) * 3600}))"
            for table in ("stock_prices", "stock_volumes", "stock_analytics_data")
            for hour in hours
        ]
        services.execute(self.database_url, (HERE / "tables.sql").read_text(), *partitions)
