"""The runs as a Markdown table, and as JSON."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import Any

from benchmarks.measure import Measured
from benchmarks.peers import TICKLOOM, Peer
from benchmarks.verdict import Verdict, describe

LEAST_STEADY_SHARE = 0.2
"""The report shows a rate after the first row only if at least this share of the rows came after it."""
_HEADS = (
    "",
    "Version",
    "Start to exit, s",
    "Messages a second",
    "… after its first row",
    "tickloom's rate ÷ its",
    "CPU s per million messages",
    "Peak memory, MB",
    "Right and wrong",
)


@dataclass(frozen=True)
class Scale:
    """The size of the log, and the number of runs."""

    pairs: int
    symbols: int
    partitions: int
    disorder: float
    shape: str
    repetitions: int
    limit_seconds: float

    @property
    def messages(self) -> int:
        return 2 * self.pairs


@dataclass
class Result:
    """The result of a peer; ``reason`` says why it has no runs or why a run failed."""

    peer: Peer
    version: str = ""
    reason: str = ""
    runs: list[tuple[Measured, Verdict]] = field(default_factory=list[tuple[Measured, Verdict]])

    @property
    def complete(self) -> list[Measured]:
        """The runs that ended by themselves with exit code 0."""
        return [run for run, _ in self.runs if run.exit_code == 0]

    def verdict(self) -> Verdict:
        """The verdict of the median run, by the number of faults."""
        verdicts = sorted((verdict for _, verdict in self.runs), key=lambda v: sum(t.wrong for t in v.values()))
        return verdicts[len(verdicts) // 2]

    @property
    def exact(self) -> bool:
        """Whether every run is complete and has no fault, not even in the last digits."""
        tables = [table for _, verdict in self.runs for table in verdict.values()]
        return len(self.complete) == len(self.runs) and not any(table.wrong + table.last_digits for table in tables)

    def rate(self, messages: int) -> float | None:
        """Messages a second from start to exit, the median; None if no run is complete."""
        return messages / median(run.seconds for run in self.complete) if self.complete else None

    def steady_rate(self, messages: int) -> float | None:
        """Messages a second after the first row, the median; None if too few rows came after it."""
        rates = [
            messages * run.steady_share / run.steady_seconds
            for run in self.complete
            if run.steady_seconds and run.steady_share >= LEAST_STEADY_SHARE
        ]
        return median(rates) if rates else None


@dataclass(frozen=True)
class Report:
    """All results, with the log, the versions and the machine."""

    scale: Scale
    results: Sequence[Result]
    kafka: str
    postgres: str
    bad: int = 0
    """Number of bad messages. They make no row, but count in the rates like any other message."""

    def markdown(self) -> str:
        """A paragraph about the log and the machine, and the table."""
        scale = self.scale
        order = f"{scale.disorder:.0%} of them out of order" if scale.disorder else "in order"
        runs = f"medians of {scale.repetitions} interleaved runs" if scale.repetitions > 1 else "one run each"
        about = (
            f"{datetime.now(UTC):%Y-%m-%d}: {scale.pairs:,} pairs ({scale.messages:,} messages), {order}, shape `{scale.shape}` "
            f"({self.bad:,} of them bad), {scale.symbols:,} symbols, "
            f"{scale.partitions} partitions a topic; {runs}. {_machine()}, with "
            f"{self.kafka} and {self.postgres} on them; Python {platform.python_version()}, {_java()}."
        )
        ours = next((r.rate(scale.messages) for r in self.results if r.peer is TICKLOOM), None)
        lines = [_HEADS, tuple("---" for _ in _HEADS), *(self._row(result, ours) for result in self.results)]
        return about + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _row(self, result: Result, ours: float | None) -> tuple[str, ...]:
        head = (result.peer.title, result.version or "–")
        if not result.runs:
            return (*head, *("–" for _ in _HEADS[2:-1]), f"not installed: {result.reason}")
        description = describe(result.verdict(), result.peer.averages)
        if not result.complete:
            return (*head, *("–" for _ in _HEADS[2:-1]), f"{self._why(result)}; {description}")
        messages, runs = self.scale.messages, result.complete
        rate, steady = result.rate(messages) or 0.0, result.steady_rate(messages)
        if len(runs) < len(result.runs):
            description = (
                f"{len(result.runs) - len(runs)} of {len(result.runs)} runs failed ({self._why(result)}); {description}"
            )
        return (
            *head,
            f"{median(run.seconds for run in runs):.1f}",
            f"{_round(rate):,}",
            "–" if steady is None else f"{_round(steady):,}",
            "–" if ours is None else f"{ours / rate:.1f}",
            f"{median(run.cpu_seconds for run in runs) / messages * 1e6:.1f}",
            f"{median(run.peak_bytes for run in runs) / 1e6:,.0f}",
            description,
        )

    def _why(self, result: Result) -> str:
        if any(run.exit_code is None for run, _ in result.runs):
            return f"not done after {self.scale.limit_seconds:.0f} s"
        return f"failed: {result.reason}"

    def document(self) -> dict[str, Any]:
        """The report as a JSON document."""
        messages = self.scale.messages
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "log": asdict(self.scale) | {"messages": messages, "bad": self.bad},
            "machine": {"cores": os.cpu_count(), "memory_bytes": _memory_bytes()},
            "versions": {
                "python": platform.python_version(),
                "java": _java(),
                "kafka": self.kafka,
                "postgres": self.postgres,
            },
            "peers": [
                {
                    "name": result.peer.name,
                    "version": result.version,
                    "reason": result.reason,
                    "messages_per_second": result.rate(messages),
                    "messages_per_second_after_first_row": result.steady_rate(messages),
                    "runs": [
                        asdict(run) | {"tables": {name: asdict(table) for name, table in verdict.items()}}
                        for run, verdict in result.runs
                    ],
                }
                for result in self.results
            ],
        }


def _round(rate: float) -> int:
    """Round to three digits, because more would be noise."""
    return int(float(f"{rate:.3g}"))


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _machine() -> str:
    return f"{os.cpu_count()} cores and {_memory_bytes() / 2**30:.0f} GiB"


def _java() -> str:
    try:
        output = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    except FileNotFoundError:
        return "no Java"
    return f"Java {output.split(chr(34))[1]}" if chr(34) in output else "Java"
