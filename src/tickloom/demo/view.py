"""A snapshot of the demo, from the ledger, the tables and ``/metrics``, and how it is shown."""

import asyncio
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Group
from rich.panel import Panel
from rich.table import Table

from tickloom.store.postgres import Connection

_LEDGER = """
    SELECT coalesce(sum(next_offset - first_offset), 0)::bigint AS read, coalesce(sum(stored), 0)::bigint AS stored,
           coalesce(sum(superseded), 0)::bigint AS superseded, coalesce(sum(dead), 0)::bigint AS dead,
           coalesce(bool_and(next_offset - first_offset = stored + superseded + dead + skipped + missing), true) AS adds_up
    FROM tickloom.offsets
"""
_NEWEST = """
    SELECT symbol, "timestamp", price, volume, price_moving_avg, price_volume_ratio FROM stock_analytics_data
    WHERE "timestamp" > now() - interval '1 hour' ORDER BY "timestamp" DESC LIMIT 8
"""
_REASONS = "SELECT reason, count(*) AS n FROM tickloom.dead_letters GROUP BY 1 ORDER BY 2 DESC"


@dataclass(slots=True)
class View:
    """The snapshot. Counts come from the ledger. ``committed``: number of batches so far, and the sum of their freshness in
    seconds.
    """

    read: int = 0
    stored: int = 0
    superseded: int = 0
    dead: int = 0
    adds_up: bool = True
    lag_messages: float = 0
    freshness_seconds: float = 0.0
    committed: tuple[float, float] = (0.0, 0.0)
    rows_per_second: float = 0.0
    newest: list[Any] = field(default_factory=list[Any])
    reasons: list[Any] = field(default_factory=list[Any])

    def panel(self) -> Panel:
        """The view for a terminal."""
        head = Table.grid(padding=(0, 3))
        head.add_row("rows a second", "lag", "freshness", "read", "stored", "superseded", "rejected", style="dim")
        speeds = (
            f"{self.rows_per_second:,.0f}",
            f"{self.lag_messages:,.0f}",
            f"{self.freshness_seconds * 1000:,.0f} ms",
        )
        counts = (self.read, self.stored, self.superseded, self.dead)
        head.add_row(*speeds, *(f"{count:,}" for count in counts), style="bold")
        rows = Table(title="newest rows of stock_analytics_data", title_justify="left", expand=True)
        for name in ("symbol", "timestamp", "price", "volume", "price_moving_avg", "price_volume_ratio"):
            rows.add_column(name, justify="left" if name in ("symbol", "timestamp") else "right", no_wrap=True)
        for symbol, moment, *numbers in (tuple(row) for row in self.newest):
            cells = (f"{number:,.4f}" if number is not None else "" for number in numbers)
            rows.add_row(symbol, f"{moment:%H:%M:%S.%f}", *cells)
        rejects = ", ".join(f"{reason} {count}" for reason, count in (tuple(row) for row in self.reasons))
        return Panel(
            Group(head, rows, f"rejects: {rejects or 'none yet'}"), title="tickloom demo", subtitle="Ctrl-C ends it"
        )

    def line(self) -> str:
        """The view as one line, for output that is not a terminal."""
        return (
            f"{self.rows_per_second:,.0f} rows/s, lag {self.lag_messages:,.0f}, freshness "
            f"{self.freshness_seconds * 1000:,.0f} ms, stored {self.stored:,}, rejected {self.dead:,}"
        )

    def summary(self) -> list[str]:
        """The last lines of the demo."""
        return [
            f"read {self.read:,} messages: {self.stored:,} stored, {self.superseded:,} superseded, {self.dead:,} rejected",
            "the ledger adds up" if self.adds_up else "the ledger does NOT add up: please report this",
        ]


async def next_view(connection: Connection, port: int, before: View, elapsed: float) -> View:
    """The current view, ``elapsed`` seconds after the view ``before``."""
    ledger = await connection.fetchrow(_LEDGER)
    newest = await connection.fetch(_NEWEST)
    reasons = await connection.fetch(_REASONS)
    metrics = await asyncio.get_running_loop().run_in_executor(None, _metrics, port)
    count, total = metrics.get("tickloom_freshness_seconds_count", 0), metrics.get("tickloom_freshness_seconds_sum", 0)
    batches, seconds = count - before.committed[0], total - before.committed[1]
    return View(
        **dict(ledger),
        lag_messages=metrics.get("tickloom_lag_messages", 0),
        freshness_seconds=seconds / batches if batches > 0 else before.freshness_seconds,
        committed=(count, total),
        rows_per_second=max(0.0, ledger["stored"] - before.stored) / max(elapsed, 0.1),
        newest=newest,
        reasons=reasons,
    )


def _metrics(port: int) -> dict[str, float]:
    """The daemon's metrics, summed over their labels; empty if it does not answer. Blocks for up to a second."""
    sums: dict[str, float] = {}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    sums[sample.name] = sums.get(sample.name, 0) + sample.value
    except OSError:  # the daemon is not up yet, or has ended
        return {}
    return sums
