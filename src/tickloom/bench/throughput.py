"""Floors and end to end, interleaved: each repetition measures each of them once, on the same log.

And the shapes of messages, each beside the plain one.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from tickloom.bench.child import Outcome, running
from tickloom.bench.databases import check_ledger, copy_in, copy_out, fill_history
from tickloom.bench.ground import Ground
from tickloom.bench.plan import LogPlan, Plan, log_of
from tickloom.settings import Settings
from tickloom.shapes import PLAIN, Reshaper, Shape
from tickloom.synthetic import TopicSide


@dataclass(slots=True)
class Throughput:
    """Each list holds one value a repetition, in their order; seconds or outcomes."""

    messages: int
    rows: int
    read: list[float] = field(default_factory=list[float])
    copy: list[float] = field(default_factory=list[float])
    end_to_end: list[Outcome] = field(default_factory=list[Outcome])
    plain: list[Outcome] = field(default_factory=list[Outcome])


@dataclass(frozen=True, slots=True)
class Source:
    """A log in its topics, and the database to start from, None for an empty one. ``end``: of its event times.

    ``sent`` has counted what the topics hold.
    """

    log: LogPlan
    end: datetime
    topics: dict[TopicSide, str]
    template: Settings | None
    sent: Reshaper


@dataclass(slots=True)
class Shaped:
    """The daemons of one shape, one a repetition, and those that worked the plain log off in the same repetitions."""

    shape: Shape
    end_to_end: list[Outcome] = field(default_factory=list[Outcome])
    plain: list[Outcome] = field(default_factory=list[Outcome])


async def measure(ground: Ground, plan: Plan, end: datetime) -> Throughput:
    """All of it; the last event of the logs lies at ``end``. The first daemon is not counted: it warms the caches,
    and leaves the rows of the COPY floor.
    """
    async with AsyncExitStack() as stack:
        asked = await _source(ground, stack, "log", plan.log, end)
        compare = plan.compare_with_plain and plan.log != plan.log.plain
        plain = await _source(ground, stack, "plain", plan.log.plain, end) if compare else None
        found = Throughput(plan.log.messages, 0)
        read = partial(ground.broker.read_all, asked.topics, plan.log.messages)
        ground.progress.step("end to end, to warm up")
        await _end_to_end(ground, asked, found)
        for number in range(1, plan.repetitions + 1):
            told = f"repetition {number} of {plan.repetitions}:"
            ground.progress.step(f"{told} reading")
            found.read.append(await ground.offload(read))
            ground.progress.step(f"{told} COPY")
            found.copy.append(await _copy(ground, asked))
            ground.progress.step(f"{told} end to end")
            found.end_to_end.append(await _end_to_end(ground, asked, None))
            if plain is not None:
                ground.progress.step(f"{told} end to end, plain")
                found.plain.append(await _end_to_end(ground, plain, None))
        return found


async def measure_shapes(ground: Ground, plan: Plan, end: datetime) -> list[Shaped]:
    """The plan's log in each of its shapes, with the plain one beside each of them.

    What belongs to a shape is removed before the next one begins.
    """
    async with AsyncExitStack() as stack:
        plain = await _source(ground, stack, "plain", replace(plan.log, shape=PLAIN), end)
        ground.progress.step("end to end, to warm up")
        await _end_to_end(ground, plain, None)
        return [
            await _beside_plain(ground, plan, plain, shape, f"shape{number}")
            for number, shape in enumerate(plan.shapes)
            if shape is not PLAIN
        ]


async def _beside_plain(ground: Ground, plan: Plan, plain: Source, shape: Shape, label: str) -> Shaped:
    found = Shaped(shape)
    async with AsyncExitStack() as stack:
        source = await _source(ground, stack, label, replace(plan.log, shape=shape), plain.end)
        for number in range(1, plan.repetitions + 1):
            ground.progress.step(f"{shape.name}, repetition {number} of {plan.repetitions}: end to end")
            found.end_to_end.append(await _end_to_end(ground, source, None))
            ground.progress.step(f"{shape.name}, repetition {number} of {plan.repetitions}: end to end, plain")
            found.plain.append(await _end_to_end(ground, plain, None))
    return found


async def _source(ground: Ground, stack: AsyncExitStack, label: str, log: LogPlan, end: datetime) -> Source:
    topics = await stack.enter_async_context(ground.topics(label, log.partitions))
    template = None
    if log.history_days:
        template = await stack.enter_async_context(ground.databases.fresh())
        await with_history(ground, template, log, log.history_end(end))
    ground.progress.step(f"producing {log.messages:,} messages, {log.shape.name}", log.messages)
    sent = Reshaper(log.shape)
    ticks = map(sent.rewrite, log_of(log, end))
    await ground.offload(lambda: ground.broker.fill(topics, ticks, ground.progress.done))
    return Source(log, end, topics, template, sent)


async def with_history(ground: Ground, database: Settings, log: LogPlan, end: datetime) -> int:
    """Fill the tables with the log's history; how many rows that are."""
    days = log.history_days
    ground.progress.step(f"writing {days} days of history", days)
    return await fill_history(database, log.symbol_names, days, end, ground.progress.done)


async def _copy(ground: Ground, source: Source) -> float:
    async with ground.databases.fresh(source.template) as database:
        return await copy_in(database, source.log.first_event(source.end), source.end, ground.folder)


async def _end_to_end(ground: Ground, source: Source, rows_into: Throughput | None) -> Outcome:
    async with ground.databases.fresh(source.template) as database:
        async with (
            ground.group(database, source.topics) as settings,
            running(settings, ground.folder / "daemon.log", "--once") as child,
        ):
            outcome = await child.outcome()
        await check_ledger(database, source.sent.messages, source.sent.bad, source.sent.superseded)
        if rows_into is not None:
            rows_into.rows = await copy_out(database, source.log.first_event(source.end), ground.folder)
        return outcome
