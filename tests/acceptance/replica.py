"""A running daemon, seen from outside: what it logs, what it serves, and how it ends."""

import http.client
import json
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.waiting import frozen

PROTOCOLS = {
    "classic": '{"session.timeout.ms": 2000, "heartbeat.interval.ms": 500}',
    "consumer": '{"group.protocol": "consumer", "group.remote.assignor": "range"}',
}
"""Kafka options of either way to share partitions; a dead replica is noticed within seconds."""


@dataclass
class Replica:
    """A daemon process whose output goes into a file."""

    process: subprocess.Popen[str]
    log: Path
    code: int = 0
    """The exit code that it must have when its ``with`` block ends."""

    def __enter__(self) -> "Replica":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End it in order; kill it if the test has failed already."""
        if kind is None:
            assert self.end() == self.code, self.output()[-3000:]
        else:
            self.kill()

    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text()

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The lines of its log whose event contains these words, in order."""
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]
        return [line for line in lines if event in line["event"]]

    def events(self) -> list[str]:
        """The events that it has logged, in order."""
        return [line["event"] for line in self.lines()]

    def get(self, path: str, seconds: float = 5) -> tuple[int, str]:
        """Status and text of its HTTP port; 0 if it does not answer within ``seconds``."""
        address = next((line["address"] for line in self.lines("serving")), None)
        if address is None:
            return 0, ""
        try:
            with urllib.request.urlopen(address.removesuffix("/metrics") + path, timeout=seconds) as answer:
                return answer.status, answer.read().decode().strip()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode().strip()
        except (OSError, http.client.HTTPException):
            return 0, ""

    def series(self, name: str) -> dict[str, float]:
        """Values of a metric by its labels as they are written; the key is empty if it has none."""
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def up(self, target: str) -> float | None:
        """What ``tickloom_up`` says about Kafka or Postgres."""
        return self.series("tickloom_up").get(f'target="{target}"')

    def frozen(self) -> bool:
        """Whether it is stopped by SIGSTOP."""
        return frozen(self.process.pid)

    def end(self, seconds: float = 60) -> int:
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def stop(self, seconds: float = 60) -> None:
        """Ask it to end, which it must do in order."""
        assert self.end(seconds) == 0, self.output()[-3000:]

    def mistake(self, seconds: float = 60) -> str:
        """Wait until it ends by itself with exit code 2; its last line."""
        code = self.process.wait(seconds)
        output = self.output()
        assert code == 2, output[-3000:]
        self.code = code
        assert "Traceback" not in output
        return output.splitlines()[-1]

    def kill(self) -> None:
        """End it at once, also when it is frozen."""
        self.process.kill()
        self.process.wait()


Start: TypeAlias = Callable[..., Replica]
"""``start(world, *, module="tickloom", **settings)``."""
