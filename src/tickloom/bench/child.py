"""The daemon as a measured process: wall time and CPU from its own rusage, memory and threads from ``/proc``.

Peak memory is ``VmHWM`` and not ``ru_maxrss``, which begins with what the parent held when it forked. Threads are told
apart by the names that librdkafka and polars give theirs; the stages' own threads are Python's, which have none, so the
daemon counts them itself and says so in its last line.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickloom.environment import PREFIX
from tickloom.errors import TickloomError
from tickloom.settings import Settings

_LOOK_SECONDS = 0.05
_THREADS_EVERY = 4  # looks: there are some forty threads, and each is two files
_START_SECONDS = 120.0
_DRAIN_SECONDS = 30.0
_POOLS = {"rdk": "librdkafka"} | dict.fromkeys(("polars", "async-executor", "tokio-rt", "jemalloc_bg"), "polars")
"""Beginnings of the names of threads that are not Python's, and what they are told as."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a daemon took from its start to its exit. ``cpu_by_stage`` adds up to ``cpu_seconds``."""

    seconds: float
    cpu_seconds: float
    cpu_by_stage: Mapping[str, float]
    peak_memory_bytes: int | None


class Child:
    """One daemon. All of it belongs to the event loop; a thread waits for its end."""

    def __init__(self, settings: Settings, arguments: tuple[str, ...], log: Path) -> None:
        self.started = time.perf_counter()
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tickloom", "run", *arguments],
            environment(settings),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setpgroup=0,  # Ctrl-C is for the bench, which then ends its daemon
        )
        self._log = log
        self._proc = Path("/proc", str(self.pid))
        self._peak: int | None = None
        self._threads: dict[str, tuple[str, int]] = {}  # thread id to its name and its CPU nanoseconds
        self._end = asyncio.get_running_loop().run_in_executor(None, self._wait)

    def _wait(self) -> tuple[float, int, float]:
        """In a thread: when it ended, with which code, and the CPU seconds that it took."""
        _, status, usage = os.wait4(self.pid, 0)
        return time.perf_counter(), os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime

    async def outcome(self) -> Outcome:
        """Wait for its end by itself. Raises ``TickloomError`` where that is not exit code 0."""
        looks = 0
        while not self._end.done():
            self._look(threads=looks % _THREADS_EVERY == 0)
            looks += 1
            await asyncio.wait({self._end}, timeout=_LOOK_SECONDS)
        ended, code, cpu = await self._end
        if code != 0:
            raise self._failed(code)
        stages = dict(self._said("cpu_seconds") or {})
        for name, nanoseconds in self._threads.values():
            for beginning, pool in _POOLS.items():
                if name.startswith(beginning):
                    stages[pool] = stages.get(pool, 0.0) + nanoseconds / 1e9
        stages["other"] = cpu - sum(stages.values())
        return Outcome(ended - self.started, cpu, stages, self._peak)

    async def took_over(self) -> None:
        """Wait until it has its partitions. Raises ``TickloomError`` where it ends before that."""
        deadline = time.monotonic() + _START_SECONDS
        while self._said("messages", event="took over") is None:
            if self._end.done():
                raise self._failed((await self._end)[1])
            if time.monotonic() > deadline:
                raise TickloomError(f"the daemon took over nothing in {_START_SECONDS:.0f} s: {self._last_words()}")
            await asyncio.sleep(_LOOK_SECONDS)

    def must_live(self) -> None:
        """Raises ``TickloomError`` where it has ended."""
        if self._end.done():
            raise self._failed(self._end.result()[1])

    def cpu_seconds(self) -> float:
        """What it has taken so far. Raises ``TickloomError`` where the system does not tell."""
        try:
            text = (self._proc / "stat").read_text()
        except OSError:
            raise TickloomError("no /proc here, so the CPU of a running daemon cannot be told; use Linux") from None
        fields = text.rpartition(")")[2].split()  # proc(5): utime and stime are the 14th and 15th of all
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def end(self) -> None:
        """Let it drain and leave; kill it after half a minute."""
        for how, patience in ((signal.SIGTERM, _DRAIN_SECONDS), (signal.SIGKILL, None)):
            if not self._end.done():
                with suppress(ProcessLookupError):
                    os.kill(self.pid, how)
                await asyncio.wait({self._end}, timeout=patience)

    def _look(self, threads: bool) -> None:
        with suppress(OSError, ValueError):  # it may end at any moment; elsewhere there is no /proc
            for line in (self._proc / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak = int(line.split()[1]) * 1024
            if threads:
                for task in (self._proc / "task").iterdir():
                    name, ran = (task / "comm").read_text(), (task / "schedstat").read_text()
                    self._threads[task.name] = (name.strip(), int(ran.split()[0]))

    def _said(self, key: str, event: str | None = None) -> Any:
        """What a line of its log (the last that has it) says under ``key``."""
        for line in reversed(self._log.read_text().splitlines()):
            with suppress(json.JSONDecodeError):
                document = json.loads(line)
                if key in document and event in (None, document.get("event")):
                    return document[key]
        return None

    def _failed(self, code: int) -> TickloomError:
        return TickloomError(f"the daemon ended with {code}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text().strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@asynccontextmanager
async def running(settings: Settings, log: Path, *arguments: str) -> AsyncGenerator[Child]:
    """``tickloom run`` while inside."""
    child = Child(settings, arguments, log)
    try:
        yield child
    finally:
        await child.end()


def environment(settings: Settings) -> dict[str, str]:
    """The user's own environment, but for what the bench decides."""
    ours = {
        "PRICES_TOPIC": settings.prices_topic,
        "VOLUMES_TOPIC": settings.volumes_topic,
        "KAFKA_GROUP_ID": settings.kafka_group_id,
        "DATABASE_URL": settings.database_dsn(),
        "HTTP_PORT": "0",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "info",
    }
    decided = {*ours, "DATABASE_PASSWORD"}
    hidden = {PREFIX + name for name in decided} | {f"{PREFIX}{name}_FILE" for name in decided}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {PREFIX + name: value for name, value in ours.items()}
