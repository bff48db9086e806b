"""Floors and end to end, interleaved: each repetition measures each of them once, on the same log. Also the shapes of
messages, each beside the plain one.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from tickloom.bench.child import Outcome, running
from tickloom.bench.databases import check_ledger, copy_in, copy_out, fill_history
from tickloom.bench.plan import LogPlan, Plan, log_of
from tickloom.bench.rig import Rig
from tickloom.settings import Settings
from tickloom.shapes import PLAIN, Reshaper, Shape
from tickloom.synthetic import TopicSide


@dataclass(slots=True)
class Throughput:
    """Each list holds one value per repetition, in order: seconds, or outcomes."""

    messages: int
    rows: int
    read: list[float] = field(default_factory=list[float])
    copy: list[float] = field(default_factory=list[float])
    end_to_end: list[Outcome] = field(default_factory=list[Outcome])
    plain: list[Outcome] = field(default_factory=list[Outcome])


@dataclass(frozen=True, slots=True)
class Source:
    """A log in its topics, and the database that a daemon starts with (None: an empty one). ``end``: of its event times.

    ``sent`` rewrote the messages and counted the bad and the superseded ones.
    """

    log: LogPlan
    end: datetime
    topics: dict[TopicSide, str]
    template: Settings | None
    sent: Reshaper


@dataclass(slots=True)
class ShapeRuns:
    """One daemon per repetition for a shape, and one for the plain log in the same repetition."""

    shape: Shape
    end_to_end: list[Outcome] = field(default_factory=list[Outcome])
    plain: list[Outcome] = field(default_factory=list[Outcome])


async def measure(rig: Rig, plan: Plan, end: datetime) -> Throughput:
    """Measure both floors and end to end; the last event of the logs is at ``end``.

    The first daemon is not counted: it warms the caches, and its rows are those of the COPY floor.
    """
    async with AsyncExitStack() as stack:
        main = await _source(rig, stack, "log", plan.log, end)
        compare = plan.compare_with_plain and plan.log != plan.log.plain
        plain = await _source(rig, stack, "plain", plan.log.plain, end) if compare else None
        found = Throughput(plan.log.messages, 0)
        read = partial(rig.broker.read_all, main.topics, plan.log.messages)
        rig.progress.step("end to end, to warm up")
        await _end_to_end(rig, main, found)
        for number in range(1, plan.repetitions + 1):
            prefix = f"repetition {number} of {plan.repetitions}:"
            rig.progress.step(f"{prefix} reading")
            found.read.append(await rig.offload(read))
            rig.progress.step(f"{prefix} COPY")
            found.copy.append(await _copy(rig, main))
            rig.progress.step(f"{prefix} end to end")
            found.end_to_end.append(await _end_to_end(rig, main, None))
            if plain is not None:
                rig.progress.step(f"{prefix} end to end, plain")
                found.plain.append(await _end_to_end(rig, plain, None))
        return found


async def measure_shapes(rig: Rig, plan: Plan, end: datetime) -> list[ShapeRuns]:
    """Measure the plan's log in each of its shapes, with the plain log beside each of them.

    The topics and databases of a shape are removed before the next one begins.
    """
    async with AsyncExitStack() as stack:
        plain = await _source(rig, stack, "plain", replace(plan.log, shape=PLAIN), end)
        rig.progress.step("end to end, to warm up")
        await _end_to_end(rig, plain, None)
        return [
            await _beside_plain(rig, plan, plain, shape, f"shape{number}")
            for number, shape in enumerate(plan.shapes)
            if shape is not PLAIN
        ]


async def _beside_plain(rig: Rig, plan: Plan, plain: Source, shape: Shape, label: str) -> ShapeRuns:
    found = ShapeRuns(shape)
    async with AsyncExitStack() as stack:
        source = await _source(rig, stack, label, replace(plan.log, shape=shape), plain.end)
        for number in range(1, plan.repetitions + 1):
            rig.progress.step(f"{shape.name}, repetition {number} of {plan.repetitions}: end to end")
            found.end_to_end.append(await _end_to_end(rig, source, None))
            rig.progress.step(f"{shape.name}, repetition {number} of {plan.repetitions}: end to end, plain")
            found.plain.append(await _end_to_end(rig, plain, None))
    return found


async def _source(rig: Rig, stack: AsyncExitStack, label: str, log: LogPlan, end: datetime) -> Source:
    topics = await stack.enter_async_context(rig.topics(label, log.partitions))
    template = None
    if log.history_days:
        template = await stack.enter_async_context(rig.databases.fresh())
        await write_history(rig, template, log, log.history_end(end))
    rig.progress.step(f"producing {log.messages:,} messages, {log.shape.name}", log.messages)
    sent = Reshaper(log.shape)
    ticks = map(sent.rewrite, log_of(log, end))
    await rig.offload(lambda: rig.broker.fill(topics, ticks, rig.progress.done))
    return Source(log, end, topics, template, sent)


async def write_history(rig: Rig, database: Settings, log: LogPlan, end: datetime) -> int:
    """Fill the tables with the log's history; returns the number of rows."""
    days = log.history_days
    rig.progress.step(f"writing {days} days of history", days)
    return await fill_history(database, log.symbol_names, days, end, rig.progress.done)


async def _copy(rig: Rig, source: Source) -> float:
    async with rig.databases.fresh(source.template) as database:
        return await copy_in(database, source.log.first_event(source.end), source.end, rig.folder)


async def _end_to_end(rig: Rig, source: Source, rows_into: Throughput | None) -> Outcome:
    async with rig.databases.fresh(source.template) as database:
        async with (
            rig.group(database, source.topics) as settings,
            running(settings, rig.folder / "daemon.log", "--once") as child,
        ):
            outcome = await child.outcome()
        await check_ledger(database, source.sent.messages, source.sent.bad, source.sent.superseded)
        if rows_into is not None:
            rows_into.rows = await copy_out(database, source.log.first_event(source.end), rig.folder)
        return outcome
