"""The whole flow on one screen.

    consume   a thread pulls raw Kafka messages, both topics side by side in record time, into a bounded queue
    decode    raw bytes become typed rows or rejects
    gather    rows collect into a micro-batch, closed by size, bytes or age
    join      moving averages per symbol, then prices joined with volumes
    load      one Postgres transaction: offset ledger, rows (binary COPY), dead letters
    settle    only then the offsets are committed to Kafka

There are two tasks: while batch n is in ``load``, batch n+1 is already in ``decode`` and ``join``. Between them is a queue
that holds one batch. The session reads, asks Postgres and keeps time; the engine computes, and says what it needs.
"""

import asyncio
from typing import TypeAlias, assert_never

from tickloom.core.encode import Work
from tickloom.core.model import Chunk, EndOfPartition, Gap, ReadFailed
from tickloom.daemon.session import Session

Queue: TypeAlias = "asyncio.Queue[Work | None]"


async def flow(session: Session) -> None:
    """Run until the session is stopped or drained, and every joined batch is loaded.

    Raises ``Fenced``, ``StateSpoilt``, ``SourceUnavailable`` (start a new session) or ``Mistake`` (end).
    """
    queue: Queue = asyncio.Queue(maxsize=1)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_make_batches(session, queue), name="make")
            tasks.create_task(_load_batches(session, queue), name="load")
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _make_batches(session: Session, queue: Queue) -> None:
    engine = session.engine
    while not session.drained():
        event = await session.next_event()
        match event:
            case Chunk():
                for part in engine.parts(await session.decode(event)):
                    if engine.full():
                        await queue.put(await _join(session))
                    engine.add(part, session.now())
            case EndOfPartition() | Gap():
                engine.add(event, session.now())
            case ReadFailed(error):
                raise error
            case None:
                pass
            case _:
                assert_never(event)
        if session.batch_due(queue.empty()):
            await queue.put(await _join(session))
    if not engine.empty and not session.stopping:
        await queue.put(await _join(session))
    await queue.put(None)


async def _join(session: Session) -> Work:
    engine = session.engine
    batch = engine.close()
    await session.check_source(batch)
    while (need := await session.compute("join", lambda: engine.needs(batch))) is not None:
        engine.supply(need, await session.fetch(need))
    work = await session.compute("encode", lambda: engine.work(batch, session.now_micros()))
    return session.checked(work)


async def _load_batches(session: Session, queue: Queue) -> None:
    while (work := await queue.get()) is not None:
        await session.load(work)
        session.settle(work.batch)


def _first(group: BaseExceptionGroup) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
