"""From what was measured to the document of ``--json``, and from the document to the tables that a person reads. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from tickloom import __version__
from tickloom.bench.child import Outcome
from tickloom.bench.latency import WARMUP_SECONDS, Latency
from tickloom.bench.plan import Plan
from tickloom.bench.steady import Restart
from tickloom.bench.throughput import Shaped, Throughput
from tickloom.core.model import ANALYTICS, PRICES, VOLUMES
from tickloom.settings import Settings
from tickloom.shapes import PLAIN, SHAPES, Shape

_MILLION = 1_000_000
_MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured; None where it was not asked for."""

    throughput: Throughput | None = None
    shapes: list[Shaped] | None = None
    latency: list[Latency] = field(default_factory=list[Latency])
    idle_share: float | None = None
    restart: Restart | None = None


def document(
    plan: Plan,
    settings: Settings,
    found: Found,
    began: datetime,
    versions: dict[str, str | None],
    machine: dict[str, Any],
) -> dict[str, Any]:
    """All of it, as the package's docstring says."""
    return {
        "tickloom": __version__,
        "date": began.isoformat(timespec="seconds"),
        "machine": machine,
        "versions": versions,
        "settings": settings.shown(),
        "log": plan.log.as_dict() | ({"shape": _names(plan.shapes)} if plan.shapes else {}),
        "repetitions": plan.repetitions,
        "throughput": None if found.throughput is None else _throughput(found.throughput),
        "shapes": None if found.shapes is None else _shapes(plan.log.messages, found.shapes),
        "latency": [_latency(one) for one in found.latency] or None,
        "idle": None if found.idle_share is None else _idle(plan, found.idle_share),
        "restart": None if found.restart is None else _restart(found.restart),
    }


def _names(shapes: Sequence[Shape]) -> str:
    return "all" if len(shapes) == len(SHAPES) else ", ".join(shape.name for shape in shapes)


def _throughput(found: Throughput) -> dict[str, Any]:
    seconds = [outcome.seconds for outcome in found.end_to_end]
    plain = [outcome.seconds for outcome in found.plain]
    copy = _runs(found.copy)
    return {
        "read_floor": _rate(found.messages, found.read),
        "copy_floor": {"rows": found.rows, "rows_per_second": round(found.rows / copy["seconds"])}
        | _rate(found.messages, found.copy),
        "end_to_end": _end_to_end(found.messages, found.end_to_end),
        "plain": _end_to_end(found.messages, found.plain) if plain else None,
        "ratios": {
            "end_to_end_to_copy_floor": ratio(found.copy, seconds),
            "end_to_end_to_read_floor": ratio(found.read, seconds),
            "end_to_end_to_plain": ratio(plain, seconds) if plain else None,
        },
    }


def _shapes(messages: int, found: Sequence[Shaped]) -> list[dict[str, Any]]:
    """The plain one first: all its runs, whichever shape they were measured beside."""
    every_plain = [outcome for one in found for outcome in one.plain]
    plain = _shape(PLAIN.name, messages, every_plain, every_plain)
    return [plain, *(_shape(one.shape.name, messages, one.end_to_end, one.plain) for one in found)]


def _shape(name: str, messages: int, outcomes: Sequence[Outcome], plain: Sequence[Outcome]) -> dict[str, Any]:
    told = _end_to_end(messages, outcomes)
    to_plain = ratio([outcome.seconds for outcome in plain], [outcome.seconds for outcome in outcomes])
    decode = told["cpu_by_stage"].get("decode")
    return {"shape": name, "ratio_to_plain": to_plain, "decode_cpu_seconds_per_million": decode} | told


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How fast ours is beside theirs: the median of each repetition's own ratio of seconds for the same work."""
    return round(median(their / our for their, our in zip(theirs, ours, strict=True)), 3)


def _end_to_end(messages: int, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    millions = messages / _MILLION
    stages = {stage: 0.0 for outcome in outcomes for stage in outcome.cpu_by_stage}
    peaks = [outcome.peak_memory_bytes for outcome in outcomes if outcome.peak_memory_bytes is not None]
    return _rate(messages, [outcome.seconds for outcome in outcomes]) | {
        "cpu_seconds_per_million": round(median(outcome.cpu_seconds for outcome in outcomes) / millions, 3),
        "cpu_by_stage": {
            stage: round(median(outcome.cpu_by_stage.get(stage, 0.0) for outcome in outcomes) / millions, 3)
            for stage in stages
        },
        "peak_memory_bytes": max(peaks, default=None),
    }


def _rate(messages: int, runs: Sequence[float]) -> dict[str, Any]:
    told = _runs(runs)
    return {"messages_per_second": round(messages / told["seconds"])} | told


def _runs(runs: Sequence[float]) -> dict[str, Any]:
    return {"seconds": round(median(runs), 3), "runs": [round(run, 3) for run in runs]}


def _latency(found: Latency) -> dict[str, Any]:
    late = _milliseconds(found.late, p99=0.99)
    return {
        "rate": found.rate,
        "seconds": found.seconds,
        "warmup_seconds": WARMUP_SECONDS,
        "messages": found.messages,
        "watched": len(found.by_table[ANALYTICS.name]),
        "row": percentiles(found.by_table[PRICES.name] + found.by_table[VOLUMES.name]),
        "joined": percentiles(found.by_table[ANALYTICS.name]),
        "resolution_ms": _milliseconds(found.looks, p50=0.5, p99=0.99),
        "producer_late_ms": late | _milliseconds(found.late, max=1.0),
        "cpu_share": None if found.cpu_share is None else round(found.cpu_share, 4),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds. Each is a value that was seen: the smallest that so many are not above."""
    return {f"{name}_ms": value for name, value in _milliseconds(seconds, p50=0.5, p99=0.99, p999=0.999, max=1).items()}


def _milliseconds(seconds: Sequence[float], **quantiles: float) -> dict[str, float]:
    found = np.quantile(np.asarray(seconds), list(quantiles.values()), method="inverted_cdf")
    return {name: round(float(value) * 1_000, 2) for name, value in zip(quantiles, found, strict=True)}


def _idle(plan: Plan, share: float) -> dict[str, Any]:
    return {"seconds": plan.seconds, "cpu_share": round(share, 4)}


def _restart(found: Restart) -> dict[str, Any]:
    return {
        "symbols": found.symbols,
        "history_rows": found.history_rows,
        "table_partitions": found.table_partitions,
        "first_row_seconds": round(median(found.first), 3),
        "all_rows_seconds": round(median(found.every), 3),
        "runs": [round(run, 3) for run in found.first],
    }


# --- for a person -------------------------------------------------------------------------------------------


def picture(told: dict[str, Any]) -> RenderableType:
    """The document as tables."""
    parts = (
        ("throughput", _throughput_table),
        ("shapes", _shapes_table),
        ("latency", _latency_tables),
        ("idle", _idle_line),
        ("restart", _restart_line),
    )
    return Group(_head(told), *(draw(told[name]) for name, draw in parts if told[name] is not None))


def _head(told: dict[str, Any]) -> str:
    log, versions, machine = told["log"], told["versions"], told["machine"]
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    asked = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in log.items() if value)
    return (
        f"tickloom {told['tickloom']}, {told['date']}, {machine['cpus']} CPUs, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}\n{known}\nlog: {asked}; "
        f"medians of {told['repetitions']} interleaved repetitions"
    )


def _throughput_table(told: dict[str, Any]) -> RenderableType:
    ratios = told["ratios"]
    table = Table(title="throughput", title_justify="left")
    for name in ("", "messages/s", "seconds", "fastest", "slowest", "end to end is"):
        table.add_column(name, justify="left" if not name else "right")
    for name, key, against in (
        ("read floor", "read_floor", ratios["end_to_end_to_read_floor"]),
        ("COPY floor", "copy_floor", ratios["end_to_end_to_copy_floor"]),
        ("end to end", "end_to_end", None),
        ("end to end, plain log", "plain", ratios["end_to_end_to_plain"]),
    ):
        if (part := told[key]) is not None:
            shown = "" if against is None else f"{against:.2f} of it"
            seconds = (f"{value:.2f}" for value in (part["seconds"], min(part["runs"]), max(part["runs"])))
            table.add_row(name, f"{part['messages_per_second']:,}", *seconds, shown)
    total, stages = told["end_to_end"]["cpu_seconds_per_million"], told["end_to_end"]["cpu_by_stage"]
    cost = ", ".join(f"{name} {value:.2f}" for name, value in stages.items())
    peak = told["end_to_end"]["peak_memory_bytes"]
    memory = "not known here" if peak is None else f"{peak / _MEGABYTE:,.0f} MiB"
    return Group(
        table,
        f"CPU seconds per million messages, end to end: {total:.2f} ({cost})",
        f"peak resident memory: {memory}",
    )


def _shapes_table(told: list[dict[str, Any]]) -> RenderableType:
    table = Table(title="shapes, end to end; CPU in seconds per million messages", title_justify="left")
    table.add_column("shape", no_wrap=True)
    for name in ("messages/s", "÷ plain", "CPU", "of that decode"):
        table.add_column(name, justify="right")
    for one in told:
        decode = one["decode_cpu_seconds_per_million"]
        numbers = (one["ratio_to_plain"], one["cpu_seconds_per_million"])
        table.add_row(
            one["shape"],
            f"{one['messages_per_second']:,}",
            *(f"{number:.2f}" for number in numbers),
            "" if decode is None else f"{decode:.2f}",
        )
    return table


def _latency_tables(told: list[dict[str, Any]]) -> RenderableType:
    return Group(*map(_latency_table, told))


def _latency_table(told: dict[str, Any]) -> RenderableType:
    table = Table(
        title=f"milliseconds from the intended send, {told['rate']:,.0f} messages/s for {told['seconds']:,.0f} s",
        title_justify="left",
    )
    for name in ("until another session sees", "p50", "p99", "p99.9", "max"):
        table.add_column(name, justify="right" if name[0] in "pm" else "left")
    for name, key in (("the message's row", "row"), ("the pair's joined row", "joined")):
        table.add_row(name, *(f"{value:,.1f}" for value in told[key].values()))
    looks, late, share = told["resolution_ms"], told["producer_late_ms"], told["cpu_share"]
    return Group(
        table,
        f"{told['watched']:,} pairs watched, a look each {looks['p50']:.1f} ms (p99 {looks['p99']:.1f}); "
        f"our producer was late by {late['p99']:.1f} ms (p99), {late['max']:.1f} at most, which is counted",
        "the daemon's CPU meanwhile: " + ("not known here" if share is None else f"{share:.1%} of a core"),
    )


def _idle_line(told: dict[str, Any]) -> str:
    return f"idle: {told['cpu_share']:.1%} of a core over {told['seconds']:,.0f} s"


def _restart_line(told: dict[str, Any]) -> str:
    return (
        f"restart on {told['history_rows']:,} rows in {told['table_partitions']:,} partitions: first new row after "
        f"{told['first_row_seconds']:.2f} s, one for each of {told['symbols']:,} symbols after {told['all_rows_seconds']:.2f} s"
    )
