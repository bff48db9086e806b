"""The daemon as a measured process: wall time and CPU from its own rusage, memory and threads from ``/proc``.

Peak memory is ``VmHWM``, because ``ru_maxrss`` begins with the memory that the parent held when it forked. The threads of
librdkafka and polars are recognised by their names. The threads of the stages are Python's and have no names, so the
daemon itself counts their CPU time, and logs it in its last line.
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

_SAMPLE_SECONDS = 0.05
_THREADS_EVERY = 4  # samples: there are some forty threads, and each takes two files to read
_START_SECONDS = 120.0
_DRAIN_SECONDS = 30.0
_POOLS = {"rdk": "librdkafka"} | dict.fromkeys(("polars", "async-executor", "tokio-rt", "jemalloc_bg"), "polars")
"""Prefixes of the names of threads, and the stage to which their CPU time belongs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Time, CPU and memory of a daemon from its start to its exit. ``cpu_by_stage`` adds up to ``cpu_seconds``."""

    seconds: float
    cpu_seconds: float
    cpu_by_stage: Mapping[str, float]
    peak_memory_bytes: int | None


class Child:
    """One daemon. Everything belongs to the event loop; a thread waits for the process to end."""

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
            setpgroup=0,  # so that Ctrl-C reaches only the bench, which then ends the daemon
        )
        self._log = log
        self._proc = Path("/proc", str(self.pid))
        self._peak: int | None = None
        self._threads: dict[str, tuple[str, int]] = {}  # thread id to its name and its CPU nanoseconds
        self._end = asyncio.get_running_loop().run_in_executor(None, self._wait)

    def _wait(self) -> tuple[float, int, float]:
        """Wait, in a thread, for the process to end; returns the time, the exit code and the CPU seconds."""
        _, status, usage = os.wait4(self.pid, 0)
        return time.perf_counter(), os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime

    async def outcome(self) -> Outcome:
        """Wait for the daemon to end by itself. Raises ``TickloomError`` for an exit code other than 0."""
        samples = 0
        while not self._end.done():
            self._sample(threads=samples % _THREADS_EVERY == 0)
            samples += 1
            await asyncio.wait({self._end}, timeout=_SAMPLE_SECONDS)
        ended, code, cpu = await self._end
        if code != 0:
            raise self._failed(code)
        stages = dict(self._logged("cpu_seconds") or {})
        for name, nanoseconds in self._threads.values():
            for prefix, pool in _POOLS.items():
                if name.startswith(prefix):
                    stages[pool] = stages.get(pool, 0.0) + nanoseconds / 1e9
        stages["other"] = cpu - sum(stages.values())
        return Outcome(ended - self.started, cpu, stages, self._peak)

    async def wait_for_takeover(self) -> None:
        """Wait until the daemon has its partitions. Raises ``TickloomError`` if it ends before that."""
        deadline = time.monotonic() + _START_SECONDS
        while self._logged("messages", event="took over") is None:
            if self._end.done():
                raise self._failed((await self._end)[1])
            if time.monotonic() > deadline:
                raise TickloomError(
                    f"the daemon took over no partition in {_START_SECONDS:.0f} s: {self._last_line()}; fix what this line "
                    f"says, and run the bench again"
                )
            await asyncio.sleep(_SAMPLE_SECONDS)

    def check_alive(self) -> None:
        """Raise ``TickloomError`` if the daemon has ended."""
        if self._end.done():
            raise self._failed(self._end.result()[1])

    def cpu_seconds(self) -> float:
        """CPU seconds so far. Raises ``TickloomError`` on a system without ``/proc``."""
        try:
            text = (self._proc / "stat").read_text()
        except OSError:
            raise TickloomError("the CPU time of a running daemon is unknown without /proc; use Linux") from None
        fields = text.rpartition(")")[2].split()  # proc(5): utime and stime are fields 14 and 15 of the line
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def end(self) -> None:
        """Let the daemon finish its batch and leave; kill it after half a minute."""
        for number, timeout in ((signal.SIGTERM, _DRAIN_SECONDS), (signal.SIGKILL, None)):
            if not self._end.done():
                with suppress(ProcessLookupError):
                    os.kill(self.pid, number)
                await asyncio.wait({self._end}, timeout=timeout)

    def _sample(self, threads: bool) -> None:
        with suppress(OSError, ValueError):  # the daemon may end at any moment, and only Linux has /proc
            for line in (self._proc / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak = int(line.split()[1]) * 1024
            if threads:
                for task in (self._proc / "task").iterdir():
                    name, ran = (task / "comm").read_text(), (task / "schedstat").read_text()
                    self._threads[task.name] = (name.strip(), int(ran.split()[0]))

    def _logged(self, key: str, event: str | None = None) -> Any:
        """The value of ``key`` in the last line of the daemon's log that has it; None if no line has."""
        for line in reversed(self._log.read_text().splitlines()):
            with suppress(json.JSONDecodeError):
                document = json.loads(line)
                if key in document and event in (None, document.get("event")):
                    return document[key]
        return None

    def _failed(self, code: int) -> TickloomError:
        return TickloomError(f"the daemon ended with exit code {code}: {self._last_line()}")

    def _last_line(self) -> str:
        lines = self._log.read_text().strip().splitlines()
        return lines[-1] if lines else "its log is empty"


@asynccontextmanager
async def running(settings: Settings, log: Path, *arguments: str) -> AsyncGenerator[Child]:
    """``tickloom run`` as a process that ends with the block."""
    child = Child(settings, arguments, log)
    try:
        yield child
    finally:
        await child.end()


def environment(settings: Settings) -> dict[str, str]:
    """The user's environment, except for the settings that the bench chooses itself."""
    ours = {
        "PRICES_TOPIC": settings.prices_topic,
        "VOLUMES_TOPIC": settings.volumes_topic,
        "KAFKA_GROUP_ID": settings.kafka_group_id,
        "DATABASE_URL": settings.database_dsn(),
        "HTTP_PORT": "0",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "info",
    }
    replaced = {*ours, "DATABASE_PASSWORD"}
    hidden = {PREFIX + name for name in replaced} | {f"{PREFIX}{name}_FILE" for name in replaced}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {PREFIX + name: value for name, value in ours.items()}
