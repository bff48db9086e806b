"""Runs a program to its end and measures it and its children from outside. Linux only, because it reads ``/proc``."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

SAMPLE_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ANY_ROW = "SELECT EXISTS (TABLE stock_prices) OR EXISTS (TABLE stock_volumes) OR EXISTS (TABLE stock_analytics_data)"
_ROWS = """SELECT (SELECT count(*) FROM stock_prices) + (SELECT count(*) FROM stock_volumes)
                + (SELECT count(*) FROM stock_analytics_data)"""


@dataclass(frozen=True)
class Measured:
    """One run. ``exit_code`` is None if the time limit ended it."""

    exit_code: int | None
    seconds: float
    """Time from the start to the exit."""
    cpu_seconds: float
    """User and system time of all its processes. The last sample of a process may be ``SAMPLE_SECONDS`` before its end."""
    peak_bytes: int
    """The highest sum of the resident memory of all its processes; shared pages count once per process."""
    first_row_seconds: float | None
    """Time from the start until another session could see a row in the tables."""
    first_rows: int
    """Rows in all three tables at that moment."""
    rows: int
    """Rows in all three tables at the end."""

    @property
    def steady_share(self) -> float:
        """The share of the rows that came after the first ones; 0 if all came at once."""
        return (self.rows - self.first_rows) / self.rows if self.rows else 0.0

    @property
    def steady_seconds(self) -> float | None:
        """How long that share took, including the exit."""
        return None if self.first_row_seconds is None else self.seconds - self.first_row_seconds


class _Tree:
    """All processes of a session. The processes that a child starts stay in it, even if their parent ends."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._cpu: dict[int, float] = {}
        self.peak_bytes = 0

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values())

    def members(self) -> dict[int, list[str]]:
        """By process, the fields of ``/proc/…/stat`` from the third on."""
        found: dict[int, list[str]] = {}
        for name in os.listdir("/proc"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process has just ended
                if name.isdigit():
                    fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self._session:
                        found[int(name)] = fields
        return found

    def sample(self) -> None:
        members = self.members()
        for pid, fields in members.items():
            self._cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        self.peak_bytes = max(self.peak_bytes, sum(int(fields[21]) for fields in members.values()) * _PAGE)

    def kill(self) -> None:
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def measure(
    command: Sequence[str], environment: Mapping[str, str], database_url: str, output: Path, limit_seconds: float
) -> Measured:
    """Run ``command`` until it ends or reaches the time limit, and write its output to ``output``. Kills all of its processes
    at the end.
    """
    connection = await asyncpg.connect(database_url)
    with output.open("wb") as out:
        start = time.perf_counter()
        child = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    tree, ended = _Tree(child.pid), asyncio.create_task(child.wait())
    first_row_seconds, first_rows = None, 0
    try:
        while not ended.done() and time.perf_counter() - start < limit_seconds:
            tree.sample()
            if first_row_seconds is None and await connection.fetchval(_ANY_ROW):
                first_row_seconds = time.perf_counter() - start
                first_rows = await connection.fetchval(_ROWS)
            await asyncio.wait([ended], timeout=SAMPLE_SECONDS)
        seconds = time.perf_counter() - start
        in_time = ended.done()
    finally:
        tree.kill()
        exit_code = await ended
    rows = await connection.fetchval(_ROWS)
    if rows and first_row_seconds is None:  # it came between the last sample and the end
        first_row_seconds, first_rows = seconds, rows
    await connection.close()
    return Measured(
        exit_code if in_time else None, seconds, tree.cpu_seconds, tree.peak_bytes, first_row_seconds, first_rows, rows
    )
