"""Turns measurements into the document of ``--json``, and the document into tables for people. Pure."""

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
from tickloom.bench.throughput import ShapeRuns, Throughput
from tickloom.core.model import ANALYTICS, PRICES, VOLUMES
from tickloom.settings import Settings
from tickloom.shapes import PLAIN, SHAPES, Shape

_MILLION = 1_000_000
_MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Measurements:
    """The results of one run; None for a measurement that was not requested."""

    throughput: Throughput | None = None
    shapes: list[ShapeRuns] | None = None
    latency: list[Latency] = field(default_factory=list[Latency])
    idle_share: float | None = None
    restart: Restart | None = None


def document(
    plan: Plan,
    settings: Settings,
    measured: Measurements,
    began: datetime,
    versions: dict[str, str | None],
    machine: dict[str, Any],
) -> dict[str, Any]:
    """The document, as the package's docstring describes it."""
    return {
        "tickloom": __version__,
        "date": began.isoformat(timespec="seconds"),
        "machine": machine,
        "versions": versions,
        "settings": settings.shown(),
        "log": plan.log.as_dict() | ({"shape": _names(plan.shapes)} if plan.shapes else {}),
        "repetitions": plan.repetitions,
        "throughput": None if measured.throughput is None else _throughput(measured.throughput),
        "shapes": None if measured.shapes is None else _shapes(plan.log.messages, measured.shapes),
        "latency": [_latency(one) for one in measured.latency] or None,
        "idle": None if measured.idle_share is None else _idle(plan, measured.idle_share),
        "restart": None if measured.restart is None else _restart(measured.restart),
    }


def _names(shapes: Sequence[Shape]) -> str:
    return "all" if len(shapes) == len(SHAPES) else ", ".join(shape.name for shape in shapes)


def _throughput(throughput: Throughput) -> dict[str, Any]:
    seconds = [outcome.seconds for outcome in throughput.end_to_end]
    plain = [outcome.seconds for outcome in throughput.plain]
    copy = _runs(throughput.copy)
    return {
        "read_floor": _rate(throughput.messages, throughput.read),
        "copy_floor": {"rows": throughput.rows, "rows_per_second": round(throughput.rows / copy["seconds"])}
        | _rate(throughput.messages, throughput.copy),
        "end_to_end": _end_to_end(throughput.messages, throughput.end_to_end),
        "plain": _end_to_end(throughput.messages, throughput.plain) if plain else None,
        "ratios": {
            "end_to_end_to_copy_floor": ratio(throughput.copy, seconds),
            "end_to_end_to_read_floor": ratio(throughput.read, seconds),
            "end_to_end_to_plain": ratio(plain, seconds) if plain else None,
        },
    }


def _shapes(messages: int, shapes: Sequence[ShapeRuns]) -> list[dict[str, Any]]:
    """The plain shape first, with all its runs, and then the others."""
    every_plain = [outcome for one in shapes for outcome in one.plain]
    plain = _shape(PLAIN.name, messages, every_plain, every_plain)
    return [plain, *(_shape(one.shape.name, messages, one.end_to_end, one.plain) for one in shapes)]


def _shape(name: str, messages: int, outcomes: Sequence[Outcome], plain: Sequence[Outcome]) -> dict[str, Any]:
    measured = _end_to_end(messages, outcomes)
    to_plain = ratio([outcome.seconds for outcome in plain], [outcome.seconds for outcome in outcomes])
    decode = measured["cpu_by_stage"].get("decode")
    return {"shape": name, "ratio_to_plain": to_plain, "decode_cpu_seconds_per_million": decode} | measured


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as fast ours is as theirs: the median of each repetition's own ratio, for the same work."""
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
    timing = _runs(runs)
    return {"messages_per_second": round(messages / timing["seconds"])} | timing


def _runs(runs: Sequence[float]) -> dict[str, Any]:
    return {"seconds": round(median(runs), 3), "runs": [round(run, 3) for run in runs]}


def _latency(latency: Latency) -> dict[str, Any]:
    late = _milliseconds(latency.late, p99=0.99)
    return {
        "rate": latency.rate,
        "seconds": latency.seconds,
        "warmup_seconds": WARMUP_SECONDS,
        "messages": latency.messages,
        "watched": len(latency.by_table[ANALYTICS.name]),
        "row": percentiles(latency.by_table[PRICES.name] + latency.by_table[VOLUMES.name]),
        "joined": percentiles(latency.by_table[ANALYTICS.name]),
        "resolution_ms": _milliseconds(latency.polls, p50=0.5, p99=0.99),
        "producer_late_ms": late | _milliseconds(latency.late, max=1.0),
        "cpu_share": None if latency.cpu_share is None else round(latency.cpu_share, 4),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds. Each is a measured value, not an interpolated one: p99 is the smallest value that 99% of
    all values do not exceed.
    """
    return {f"{name}_ms": value for name, value in _milliseconds(seconds, p50=0.5, p99=0.99, p999=0.999, max=1).items()}


def _milliseconds(seconds: Sequence[float], **quantiles: float) -> dict[str, float]:
    values = np.quantile(np.asarray(seconds), list(quantiles.values()), method="inverted_cdf")
    return {name: round(float(value) * 1_000, 2) for name, value in zip(quantiles, values, strict=True)}


def _idle(plan: Plan, share: float) -> dict[str, Any]:
    return {"seconds": plan.seconds, "cpu_share": round(share, 4)}


def _restart(restart: Restart) -> dict[str, Any]:
    return {
        "symbols": restart.symbols,
        "history_rows": restart.history_rows,
        "table_partitions": restart.table_partitions,
        "first_row_seconds": round(median(restart.first_row), 3),
        "all_rows_seconds": round(median(restart.all_rows), 3),
        "runs": [round(run, 3) for run in restart.first_row],
    }


# --- for people ---------------------------------------------------------------------------------------------


def render(document: dict[str, Any]) -> RenderableType:
    """The document as tables."""
    parts = (
        ("throughput", _throughput_table),
        ("shapes", _shapes_table),
        ("latency", _latency_tables),
        ("idle", _idle_line),
        ("restart", _restart_line),
    )
    return Group(_head(document), *(draw(document[name]) for name, draw in parts if document[name] is not None))


def _head(document: dict[str, Any]) -> str:
    log, versions, machine = document["log"], document["versions"], document["machine"]
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in log.items() if value)
    return (
        f"tickloom {document['tickloom']}, {document['date']}, {machine['cpus']} CPUs, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}\n{known}\nlog: {options}; "
        f"medians of {document['repetitions']} interleaved repetitions"
    )


def _throughput_table(throughput: dict[str, Any]) -> RenderableType:
    ratios = throughput["ratios"]
    table = Table(title="throughput", title_justify="left")
    for name in ("", "messages/s", "seconds", "fastest", "slowest", "end to end is"):
        table.add_column(name, justify="left" if not name else "right")
    for name, key, against in (
        ("read floor", "read_floor", ratios["end_to_end_to_read_floor"]),
        ("COPY floor", "copy_floor", ratios["end_to_end_to_copy_floor"]),
        ("end to end", "end_to_end", None),
        ("end to end, plain log", "plain", ratios["end_to_end_to_plain"]),
    ):
        if (part := throughput[key]) is not None:
            shown = "" if against is None else f"{against:.2f} of it"
            seconds = (f"{value:.2f}" for value in (part["seconds"], min(part["runs"]), max(part["runs"])))
            table.add_row(name, f"{part['messages_per_second']:,}", *seconds, shown)
    total, stages = throughput["end_to_end"]["cpu_seconds_per_million"], throughput["end_to_end"]["cpu_by_stage"]
    cost = ", ".join(f"{name} {value:.2f}" for name, value in stages.items())
    peak = throughput["end_to_end"]["peak_memory_bytes"]
    memory = "unknown on this system" if peak is None else f"{peak / _MEGABYTE:,.0f} MiB"
    return Group(
        table,
        f"CPU seconds per million messages, end to end: {total:.2f} ({cost})",
        f"peak resident memory: {memory}",
    )


def _shapes_table(shapes: list[dict[str, Any]]) -> RenderableType:
    table = Table(title="shapes, end to end; CPU in seconds per million messages", title_justify="left")
    table.add_column("shape", no_wrap=True)
    for name in ("messages/s", "÷ plain", "CPU", "of that decode"):
        table.add_column(name, justify="right")
    for shape in shapes:
        decode = shape["decode_cpu_seconds_per_million"]
        numbers = (shape["ratio_to_plain"], shape["cpu_seconds_per_million"])
        table.add_row(
            shape["shape"],
            f"{shape['messages_per_second']:,}",
            *(f"{number:.2f}" for number in numbers),
            "" if decode is None else f"{decode:.2f}",
        )
    return table


def _latency_tables(latencies: list[dict[str, Any]]) -> RenderableType:
    return Group(*map(_latency_table, latencies))


def _latency_table(latency: dict[str, Any]) -> RenderableType:
    table = Table(
        title=f"milliseconds from the intended send, {latency['rate']:,.0f} messages/s for {latency['seconds']:,.0f} s",
        title_justify="left",
    )
    for name in ("until another session sees", "p50", "p99", "p99.9", "max"):
        table.add_column(name, justify="right" if name[0] in "pm" else "left")
    for name, key in (("the message's row", "row"), ("the pair's joined row", "joined")):
        table.add_row(name, *(f"{value:,.1f}" for value in latency[key].values()))
    polls, late, share = latency["resolution_ms"], latency["producer_late_ms"], latency["cpu_share"]
    return Group(
        table,
        f"{latency['watched']:,} pairs watched, the tables polled every {polls['p50']:.1f} ms (p99 {polls['p99']:.1f}); "
        f"our producer was late by {late['p99']:.1f} ms (p99), {late['max']:.1f} at most; the figures include that",
        "the daemon's CPU meanwhile: " + ("unknown on this system" if share is None else f"{share:.1%} of a core"),
    )


def _idle_line(idle: dict[str, Any]) -> str:
    return f"idle: {idle['cpu_share']:.1%} of a core over {idle['seconds']:,.0f} s"


def _restart_line(restart: dict[str, Any]) -> str:
    return (
        f"restart on {restart['history_rows']:,} rows in {restart['table_partitions']:,} partitions: first new row after "
        f"{restart['first_row_seconds']:.2f} s, one for each of {restart['symbols']:,} symbols after {restart['all_rows_seconds']:.2f} s"
    )
