"""A real daemon process against a real broker and a real database, and the judge's word on what it left."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

import asyncpg
from pydantic import SecretStr

from tests import hostile, reference, services
from tickloom.settings import Settings
from tickloom.store.provision import provision

QUICK = {"TICKLOOM_KAFKA_OPTIONS": '{"session.timeout.ms": 2000, "heartbeat.interval.ms": 500}'}
"""The group misses a dead replica after two seconds."""

_ADDS_UP = "next_offset - first_offset = stored + superseded + dead + skipped + missing"


@dataclass
class World:
    """One pair of topics, one database, and how to run the daemon on them."""

    bootstrap: str
    database_url: str
    topics: dict[str, str]
    partitions: int = 4
    settings: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def make(cls, kafka: Any, database_url: str, names: tuple[str, str], partitions: int = 4) -> "World":
        """A world with its topics made and its tables migrated."""
        world = cls(kafka.bootstrap, database_url, dict(zip(("prices", "volumes"), names, strict=True)), partitions)
        for name in names:
            services.create_topic(kafka.bootstrap, name, partitions)
        asyncio.run(provision(Settings(database_url=SecretStr(database_url))))  # faster than the command
        return world

    @property
    def environment(self) -> dict[str, str]:
        """The daemon's environment."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TICKLOOM_")}
        return inherited | {
            "TICKLOOM_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "TICKLOOM_KAFKA_GROUP_ID": f"group-{self.topics['prices']}",
            "TICKLOOM_PRICES_TOPIC": self.topics["prices"],
            "TICKLOOM_VOLUMES_TOPIC": self.topics["volumes"],
            "TICKLOOM_DATABASE_URL": self.database_url,
            "TICKLOOM_HTTP_PORT": "0",
            "TICKLOOM_LOG_FORMAT": "json",
            **self.settings,
        }

    def tickloom(
        self, *arguments: str, timeout: float = 240, module: str = "tickloom", **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [sys.executable, "-m", module, *arguments]
        environment = self.environment | settings
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)

    def start(
        self, *arguments: str, module: str = "tickloom", output: IO[str] | None = None, **settings: str
    ) -> subprocess.Popen[str]:
        """Start a command and leave it running; what it says goes to ``output``, else its stderr to a pipe."""
        command = [sys.executable, "-m", module, *arguments]
        out: Any = output or subprocess.DEVNULL
        err: Any = output or subprocess.PIPE
        return subprocess.Popen(command, env=self.environment | settings, stdout=out, stderr=err, text=True)

    def drain(self, timeout: float = 240, **settings: str) -> subprocess.CompletedProcess[str]:
        """Load all that the topics hold, which must succeed."""
        done = self.tickloom("run", "--once", timeout=timeout, **settings)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    def produce(self, things: Iterable[hostile.Thing]) -> None:
        """Into the log."""
        hostile.produce(self.bootstrap, self.topics, things, self.partitions)

    def differences(self, window: int = 5, log: list[reference.Record] | None = None) -> list[str]:
        """What is not as the reference has it over ``log``, by default over what the topics hold."""
        log = hostile.read_log(self.bootstrap, self.topics) if log is None else log

        async def look() -> list[str]:
            connection = await asyncpg.connect(self.database_url)
            try:
                return await reference.differences(connection, log, window)
            finally:
                await connection.close()

        return asyncio.run(look())

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Rows of a query on the database."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.database_url)
            try:
                return [tuple(row) for row in await connection.fetch(text)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def exact(self, messages: int, *options: str) -> None:
        """So many messages are counted, the ledger adds up, and ``verify`` with these options finds nothing."""
        assert self.query(f"SELECT count(*) FROM tickloom.offsets WHERE NOT {_ADDS_UP}") == [(0,)]
        assert self.loaded() == messages
        done = self.tickloom("verify", *options)
        assert done.returncode == 0, done.stdout

    def loaded(self) -> int:
        """Offsets that the ledger counts."""
        return int(self.query("SELECT coalesce(sum(next_offset - first_offset), 0) FROM tickloom.offsets")[0][0])

    def owners(self) -> int:
        """Replicas that own partitions."""
        return int(self.query("SELECT count(DISTINCT owner) FROM tickloom.offsets")[0][0])

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self.query(f"SELECT count(*) FROM {table}")[0][0])

    def dead_letters(self) -> dict[str, int]:
        """How many there are, by reason."""
        return dict(self.query("SELECT reason, count(*)::int FROM tickloom.dead_letters GROUP BY 1"))
